//! `tombolo kube-inject`: a manifest with proxies injected, as the webhook would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::Api;
use kube::api::ListParams;
use tombolo_control::inject::manifest::Setting;
use tombolo_control::inject::{Injector, InjectorConfig, Place};
use tombolo_control::serve::injection::is_new;
use tombolo_crds::document;
use tombolo_crds::mesh_config::MeshConfig;
use tombolo_install::cluster::Cluster;

use crate::commands::install::ClusterFlags;
use crate::output;

/// Print a manifest with proxies injected into its workloads.
#[derive(Debug, Args)]
pub struct KubeInjectCommand {
    #[command(flatten)]
    cluster: ClusterFlags,
    /// The manifest; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    filename: String,
    /// Where to write, instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The namespace of objects that leave it open.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The control plane's revision.
    #[arg(short, long, default_value = "")]
    revision: String,
    /// Key `config` of the injector's ConfigMap, instead of the cluster's.
    #[arg(long = "injectConfigFile", requires = "values_file")]
    inject_config_file: Option<PathBuf>,
    /// The mesh's configuration, instead of the cluster's.
    #[arg(long = "meshConfigFile")]
    mesh_config_file: Option<PathBuf>,
    /// Key `values` of the injector's ConfigMap, instead of the cluster's.
    #[arg(long = "valuesFile", requires = "inject_config_file")]
    values_file: Option<PathBuf>,
    /// The ConfigMap of the mesh's configuration.
    #[arg(long = "meshConfigMapName")]
    mesh_config_map: Option<String>,
    /// The ConfigMap of the injector's configuration.
    #[arg(long = "injectConfigMapName")]
    inject_config_map: Option<String>,
}

fn file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

impl KubeInjectCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let manifest = match self.filename.as_str() {
            "-" => std::io::read_to_string(std::io::stdin()).context("read standard input")?,
            name => file(Path::new(name))?,
        };
        super::block_on(async {
            // With all three files, no cluster is needed.
            let offline = self.inject_config_file.is_some() && self.mesh_config_file.is_some();
            let cluster = if offline { None } else { Some(self.cluster.open().await?) };
            let (config, mesh) = self.configuration(cluster.as_ref()).await?;
            let native = match &cluster {
                Some(cluster) => native(cluster).await?,
                None => false,
            };
            let revision =
                if self.revision.is_empty() { "default" } else { self.revision.as_str() };
            let injector = Injector { config: &config, mesh: &mesh, revision };
            let place = Place::default();
            let setting = Setting { namespace: &self.namespace, place: &place, native };
            let injected = injector.inject_manifest(&manifest, &setting)?;
            match &self.output {
                Some(path) => std::fs::write(path, injected)
                    .with_context(|| format!("write {}", path.display()))?,
                None => output::text(injected),
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn configuration(
        &self,
        cluster: Option<&Cluster>,
    ) -> anyhow::Result<(InjectorConfig, MeshConfig)> {
        let suffix = match self.revision.as_str() {
            "" | "default" => String::new(),
            revision => format!("-{revision}"),
        };
        let named = |given: &Option<String>, name: &str| {
            given.clone().unwrap_or_else(|| format!("{name}{suffix}"))
        };
        let config = match (&self.inject_config_file, &self.values_file) {
            (Some(config), Some(values)) => BTreeMap::from([
                ("config".to_owned(), file(config)?),
                ("values".to_owned(), file(values)?),
            ]),
            _ => {
                let name = named(&self.inject_config_map, "istio-sidecar-injector");
                self.map(cluster, &name).await?
            }
        };
        let config =
            InjectorConfig::read(&config).context("the injection configuration cannot be read")?;
        let mesh = match &self.mesh_config_file {
            Some(path) => file(path)?,
            None => {
                let name = named(&self.mesh_config_map, "istio");
                self.map(cluster, &name).await?.remove("mesh").unwrap_or_default()
            }
        };
        let mesh: serde_json::Value =
            serde_saphyr::from_str(&mesh).context("the mesh's configuration is not YAML")?;
        if mesh.is_null() {
            return Ok((config, MeshConfig::default()));
        }
        let mesh = document::read::<MeshConfig>(&mesh)
            .context("the mesh's configuration cannot be read")?;
        Ok((config, mesh.value))
    }

    async fn map(
        &self,
        cluster: Option<&Cluster>,
        name: &str,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let namespace = self.cluster.system();
        let Some(cluster) = cluster else { bail!("no cluster to read ConfigMap {name} from") };
        let maps: Api<ConfigMap> = cluster.namespaced(namespace);
        let found = maps.get_opt(name).await.with_context(|| {
            format!("cluster {}: get ConfigMap {namespace}/{name}", cluster.name())
        })?;
        let Some(map) = found else {
            bail!(
                "cluster {}: there is no ConfigMap {namespace}/{name}; install a control plane there, or, in a remote, name the primary's context, or files with --injectConfigFile, --valuesFile and --meshConfigFile",
                cluster.name()
            );
        };
        Ok(map.data.unwrap_or_default())
    }
}

/// Whether all nodes of the cluster know native sidecars; no where it has none.
async fn native(cluster: &Cluster) -> anyhow::Result<bool> {
    let nodes: Api<Node> = Api::all(cluster.client().clone());
    let list = nodes
        .list(&ListParams::default())
        .await
        .with_context(|| format!("cluster {}: list nodes", cluster.name()))?;
    Ok(!list.items.is_empty() && list.items.iter().all(is_new))
}
