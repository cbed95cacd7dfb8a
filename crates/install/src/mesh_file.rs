//! The mesh file: the declarative description of a mesh, read strictly.
//!
//! [`MeshFile::parse`] finds every mistake that can be found without touching a cluster, and says
//! file, line, field and how to mend it. What passes is internally consistent: names are unique,
//! every remote has a primary, subnets of one network do not overlap.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;

mod validate;

/// The `apiVersion` of a mesh file.
pub const API_VERSION: &str = "tombolo.dev/v1alpha1";

/// A mesh file that passed every check.
#[derive(Clone, Debug)]
pub struct MeshFile {
    /// The mesh's name, Istio's mesh ID.
    pub name: String,
    pub root_ca: RootCa,
    /// Istio's MeshConfig, passed through.
    pub mesh_config: serde_json::Value,
    /// In the order of the file.
    pub clusters: Vec<Cluster>,
}

/// Where the mesh's root of trust comes from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub enum RootCa {
    /// Made on first use.
    #[default]
    SelfSigned,
    /// A root that exists: PEM files, relative to the mesh file.
    Files { certificate: PathBuf, key: PathBuf },
}

/// One Kubernetes cluster of the mesh.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub name: String,
    pub network: String,
    pub role: Role,
    pub location: Location,
}

/// Who runs a cluster's control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    /// Managed by the control plane of the named primary.
    Remote {
        primary: String,
    },
}

/// Where a cluster is found.
#[derive(Clone, Debug)]
pub enum Location {
    Lab(LabCluster),
    Kubeconfig(KubeconfigContext),
}

/// A lab cluster to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabCluster {
    pub pod_subnet: IpNet,
    pub service_subnet: IpNet,
    pub load_balancer_pool: AddressRange,
    /// Which API server it runs; where the file leaves it open, whoever makes the cluster chooses.
    pub api_server: Option<ApiServer>,
}

/// An inclusive range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// Which API server a lab cluster runs.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum ApiServer {
    Embedded,
    /// Real etcd, kube-apiserver and kube-controller-manager from `KUBEBUILDER_ASSETS`.
    Kubernetes,
}

/// A cluster that exists, by kubeconfig.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct KubeconfigContext {
    pub context: String,
    /// The kubeconfig file, relative to the mesh file; by default the one kubectl would use.
    pub file: Option<PathBuf>,
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Everything that is wrong with a mesh file, each with its place.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.iter().map(|p| p.in_file(file)).collect::<Vec<_>>().join("\n"))]
pub struct MeshFileError {
    pub file: String,
    pub problems: Vec<Problem>,
}

/// One mistake: where, in which field, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// 1-based; 0 when the whole document is meant.
    pub line: u64,
    pub column: u64,
    /// The field's path, such as `spec.clusters[1].lab.podSubnet`.
    pub field: String,
    pub text: String,
}

impl Problem {
    fn in_file(&self, file: &str) -> String {
        let place = if self.line == 0 {
            file.to_owned()
        } else {
            format!("{file}:{}:{}", self.line, self.column)
        };
        if self.field.is_empty() {
            return format!("{place}: {}", self.text);
        }
        format!("{place}: {}: {}", self.field, self.text)
    }
}

impl MeshFile {
    /// Reads a mesh file. `file` is its path, which messages name and which the paths in it are
    /// relative to.
    ///
    /// # Errors
    /// With every mistake that was found, not only the first, where the document parses at all.
    pub fn parse(file: &str, text: &str) -> Result<Self, MeshFileError> {
        let document: Document = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location();
            let problem = Problem {
                line: location.map_or(0, |l| l.line()),
                column: location.map_or(0, |l| l.column()),
                field: String::new(),
                text: first_line(&error.to_string()),
            };
            MeshFileError { file: file.to_owned(), problems: vec![problem] }
        })?;
        let mut mesh = validate::check(document)
            .map_err(|problems| MeshFileError { file: file.to_owned(), problems })?;
        mesh.resolve(Path::new(file).parent().unwrap_or(Path::new("")));
        Ok(mesh)
    }

    /// Makes the paths of the file relative to its folder.
    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        if let RootCa::Files { certificate, key } = &mut self.root_ca {
            resolve(certificate);
            resolve(key);
        }
        for cluster in &mut self.clusters {
            if let Location::Kubeconfig(KubeconfigContext { file: Some(file), .. }) =
                &mut cluster.location
            {
                resolve(file);
            }
        }
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }
}

/// The message without its place, which is said in our own way, and without the excerpt of the
/// source that the YAML reader appends.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    match line.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
        _ => line.to_owned(),
    }
}

// What the document looks like before it is checked. Values that a check can refuse carry their
// place.

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: Spanned<String>,
    kind: Spanned<String>,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    #[serde(default)]
    trust: Trust,
    #[serde(default)]
    mesh_config: serde_json::Map<String, serde_json::Value>,
    clusters: Spanned<Vec<RawCluster>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trust {
    #[serde(default, rename = "rootCA")]
    root_ca: RootCa,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCluster {
    name: Spanned<String>,
    network: Spanned<String>,
    control_plane: Spanned<ControlPlane>,
    remote_of: Option<Spanned<String>>,
    lab: Option<Spanned<RawLab>>,
    kubeconfig: Option<Spanned<KubeconfigContext>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum ControlPlane {
    Primary,
    Remote,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawLab {
    pod_subnet: Spanned<String>,
    service_subnet: Spanned<String>,
    load_balancer_pool: Spanned<String>,
    api_server: Option<ApiServer>,
}

#[cfg(test)]
mod tests;
