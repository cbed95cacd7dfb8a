//! The checks of a mesh file that parsed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use serde_saphyr::{Location as Place, Spanned};

use super::{
    API_VERSION, AddressRange, Cluster, ControlPlane, Document, KubeconfigContext, LabCluster,
    Location, MeshFile, Problem, RawCluster, RawLab, Role,
};

/// The lab's bridge: nodes and load-balancer addresses live on it.
const BRIDGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16);
/// The part of the bridge that is for the bridge itself and for nodes.
const NODES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 24);

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: Place, field: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem {
            line: place.line(),
            column: place.column(),
            field: field.into(),
            text: text.into(),
        });
    }
}

/// Turns the document into a mesh, or says everything that is wrong with it.
pub(super) fn check(document: Document) -> Result<MeshFile, Vec<Problem>> {
    let mut problems = Problems::default();
    let Document { api_version, kind, metadata, spec } = document;
    if api_version.value != API_VERSION {
        let text = format!("`{}` is not known; write `{API_VERSION}`", api_version.value);
        problems.add(api_version.referenced, "apiVersion", text);
    }
    if kind.value != "Mesh" {
        problems.add(
            kind.referenced,
            "kind",
            format!("`{}` is not a mesh; write `Mesh`", kind.value),
        );
    }
    check_label(&mut problems, "metadata.name", &metadata.name);
    if spec.clusters.value.is_empty() {
        problems.add(
            spec.clusters.referenced,
            "spec.clusters",
            "a mesh needs at least one cluster",
        );
    }
    check_names(&mut problems, &spec.clusters.value);
    check_contexts(&mut problems, &spec.clusters.value);
    let roles = roles(&mut problems, &spec.clusters.value);
    let locations: Vec<_> = spec
        .clusters
        .value
        .iter()
        .enumerate()
        .map(|(i, cluster)| location(&mut problems, i, cluster))
        .collect();
    check_overlaps(&mut problems, &spec.clusters.value, &locations);
    if !problems.0.is_empty() {
        problems.0.sort_by_key(|problem| (problem.line, problem.column));
        return Err(problems.0);
    }
    let clusters = spec
        .clusters
        .value
        .into_iter()
        .zip(roles)
        .zip(locations)
        .filter_map(|((raw, role), location)| {
            Some(Cluster {
                name: raw.name.value,
                network: raw.network.value,
                role: role?,
                location: location?,
            })
        })
        .collect();
    Ok(MeshFile {
        name: metadata.name.value,
        root_ca: spec.trust.root_ca,
        mesh_config: spec.mesh_config.into(),
        clusters,
    })
}

/// A DNS label (RFC 1123): what Kubernetes takes as a name in a label's value and in a host name.
fn check_label(problems: &mut Problems, field: &str, name: &Spanned<String>) {
    let text = &name.value;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = !text.is_empty()
        && text.len() <= 63
        && text.chars().all(|c| plain(c) || c == '-')
        && text.starts_with(plain)
        && text.ends_with(plain);
    if !good {
        let text = format!(
            "`{text}` is not a DNS label; use at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends"
        );
        problems.add(name.referenced, field, text);
    }
}

fn check_names(problems: &mut Problems, clusters: &[RawCluster]) {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for (i, cluster) in clusters.iter().enumerate() {
        let field = format!("spec.clusters[{i}].name");
        check_label(problems, &field, &cluster.name);
        check_label(problems, &format!("spec.clusters[{i}].network"), &cluster.network);
        if let Some(line) = seen.insert(&cluster.name.value, cluster.name.referenced.line()) {
            let text = format!(
                "`{}` is the name of another cluster (line {line}); give each cluster its own name",
                cluster.name.value
            );
            problems.add(cluster.name.referenced, field, text);
        }
    }
}

/// One cluster under two names would be watched and installed by itself.
fn check_contexts(problems: &mut Problems, clusters: &[RawCluster]) {
    let mut seen: BTreeMap<(Option<&Path>, &str), (&str, u64)> = BTreeMap::new();
    for (i, cluster) in clusters.iter().enumerate() {
        let Some(kubeconfig) = &cluster.kubeconfig else { continue };
        let KubeconfigContext { context, file } = &kubeconfig.value;
        let name = cluster.name.value.as_str();
        let entry = (name, cluster.name.referenced.line());
        if let Some((other, line)) = seen.insert((file.as_deref(), context), entry) {
            let text = format!(
                "cluster `{name}` has the same context `{context}` as cluster `{other}` (line {line}); give each cluster its own, or remove one of the two"
            );
            problems.add(kubeconfig.referenced, format!("spec.clusters[{i}].kubeconfig"), text);
        }
    }
}

fn roles(problems: &mut Problems, clusters: &[RawCluster]) -> Vec<Option<Role>> {
    let primaries: Vec<&str> = clusters
        .iter()
        .filter(|cluster| cluster.control_plane.value == ControlPlane::Primary)
        .map(|cluster| cluster.name.value.as_str())
        .collect();
    clusters
        .iter()
        .enumerate()
        .map(|(i, cluster)| {
            let field = format!("spec.clusters[{i}].remoteOf");
            match (cluster.control_plane.value, &cluster.remote_of) {
                (ControlPlane::Primary, None) => Some(Role::Primary),
                (ControlPlane::Primary, Some(of)) => {
                    problems.add(of.referenced, field, "a primary is nobody's remote; remove `remoteOf` or say `controlPlane: Remote`");
                    None
                }
                (ControlPlane::Remote, Some(of)) if primaries.contains(&of.value.as_str()) => {
                    Some(Role::Remote { primary: of.value.clone() })
                }
                (ControlPlane::Remote, Some(of)) => {
                    let text = format!("no primary is called `{}`; {}", of.value, known(&primaries));
                    problems.add(of.referenced, field, text);
                    None
                }
                (ControlPlane::Remote, None) => match primaries.as_slice() {
                    [only] => Some(Role::Remote { primary: (*only).to_owned() }),
                    [] => {
                        let text = format!(
                            "cluster `{}` is a remote, but no cluster of this mesh is a primary; say `controlPlane: Primary` for one of them",
                            cluster.name.value
                        );
                        problems.add(cluster.control_plane.referenced, format!("spec.clusters[{i}].controlPlane"), text);
                        None
                    }
                    several => {
                        let text = format!(
                            "cluster `{}` is a remote, and this mesh has {} primaries; say whose with `remoteOf` ({})",
                            cluster.name.value,
                            several.len(),
                            known(several)
                        );
                        problems.add(cluster.control_plane.referenced, field, text);
                        None
                    }
                },
            }
        })
        .collect()
}

fn known(primaries: &[&str]) -> String {
    if primaries.is_empty() {
        return "this mesh has no primary".to_owned();
    }
    format!("the primaries are: {}", primaries.join(", "))
}

fn location(problems: &mut Problems, i: usize, cluster: &RawCluster) -> Option<Location> {
    let field = format!("spec.clusters[{i}]");
    match (&cluster.lab, &cluster.kubeconfig) {
        (Some(lab), None) => lab_cluster(problems, &field, &lab.value).map(Location::Lab),
        (None, Some(kubeconfig)) => Some(Location::Kubeconfig(kubeconfig.value.clone())),
        (Some(_), Some(kubeconfig)) => {
            problems.add(
                kubeconfig.referenced,
                format!("{field}.kubeconfig"),
                "a cluster is either made by the lab or found by kubeconfig; remove `lab` or `kubeconfig`",
            );
            None
        }
        (None, None) => {
            let text = format!(
                "cluster `{}` has neither `lab` (to make it) nor `kubeconfig` (to find it); add one",
                cluster.name.value
            );
            problems.add(cluster.name.referenced, field, text);
            None
        }
    }
}

fn lab_cluster(problems: &mut Problems, field: &str, lab: &RawLab) -> Option<LabCluster> {
    let pod_subnet = subnet(problems, format!("{field}.lab.podSubnet"), &lab.pod_subnet);
    let service_subnet =
        subnet(problems, format!("{field}.lab.serviceSubnet"), &lab.service_subnet);
    let pool = pool(problems, format!("{field}.lab.loadBalancerPool"), &lab.load_balancer_pool);
    Some(LabCluster {
        pod_subnet: pod_subnet?,
        service_subnet: service_subnet?,
        load_balancer_pool: pool?,
        api_server: lab.api_server,
    })
}

fn subnet(problems: &mut Problems, field: String, text: &Spanned<String>) -> Option<IpNet> {
    let place = text.referenced;
    let Ok(net) = text.value.parse::<IpNet>() else {
        let text = format!("`{}` is not a subnet; write it like 10.10.0.0/16", text.value);
        problems.add(place, field, text);
        return None;
    };
    if net.trunc() != net {
        problems.add(
            place,
            field,
            format!("`{net}` has bits set beyond its prefix; write `{}`", net.trunc()),
        );
        return None;
    }
    let IpNet::V4(v4) = net else {
        problems.add(
            place,
            field,
            format!(
                "`{net}` is an IPv6 subnet, and lab clusters are IPv4; write it like 10.10.0.0/16"
            ),
        );
        return None;
    };
    if v4.prefix_len() > 24 {
        problems.add(
            place,
            field,
            format!("`{net}` is too small for a node's /24; use a prefix of 24 or less"),
        );
        return None;
    }
    if BRIDGE.contains(&v4) || v4.contains(&BRIDGE) {
        problems.add(place, field, format!("`{net}` overlaps the lab's bridge {BRIDGE}; use another range, such as 10.10.0.0/16"));
        return None;
    }
    Some(net)
}

fn pool(problems: &mut Problems, field: String, text: &Spanned<String>) -> Option<AddressRange> {
    let place = text.referenced;
    let parsed = text.value.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<Ipv4Addr>().ok()?, last.trim().parse::<Ipv4Addr>().ok()?))
    });
    let Some((first, last)) = parsed else {
        let text = format!(
            "`{}` is not a range of IPv4 addresses; write it like 172.18.11.0-172.18.11.255",
            text.value
        );
        problems.add(place, field, text);
        return None;
    };
    if first > last {
        problems.add(
            place,
            field,
            format!("`{}` ends before it begins; write `{last}-{first}`", text.value),
        );
        return None;
    }
    if !BRIDGE.contains(&first) || !BRIDGE.contains(&last) || first <= NODES.broadcast() {
        let text = format!(
            "`{}` is not on the lab's bridge; choose addresses between {} and {}",
            text.value,
            Ipv4Addr::from(u32::from(NODES.broadcast()) + 1),
            Ipv4Addr::from(u32::from(BRIDGE.broadcast()) - 1)
        );
        problems.add(place, field, text);
        return None;
    }
    Some(AddressRange { first: IpAddr::V4(first), last: IpAddr::V4(last) })
}

/// A subnet with everything a message about it needs.
struct Claim<'a> {
    cluster: usize,
    name: &'a str,
    network: &'a str,
    what: &'static str,
    net: IpNet,
    place: Place,
}

fn check_overlaps(
    problems: &mut Problems,
    clusters: &[RawCluster],
    locations: &[Option<Location>],
) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    let mut pools: Vec<(usize, AddressRange, Place)> = Vec::new();
    for (i, (raw, location)) in clusters.iter().zip(locations).enumerate() {
        let (Some(lab), Some(Location::Lab(parsed))) = (&raw.lab, location) else { continue };
        let claim = |what, net, text: &Spanned<String>| Claim {
            cluster: i,
            name: &raw.name.value,
            network: &raw.network.value,
            what,
            net,
            place: text.referenced,
        };
        claims.push(claim("podSubnet", parsed.pod_subnet, &lab.value.pod_subnet));
        claims.push(claim("serviceSubnet", parsed.service_subnet, &lab.value.service_subnet));
        pools.push((i, parsed.load_balancer_pool, lab.value.load_balancer_pool.referenced));
    }
    for (n, late) in claims.iter().enumerate() {
        for early in claims.iter().take(n) {
            let together = early.cluster == late.cluster || early.network == late.network;
            if !together || !(early.net.contains(&late.net) || late.net.contains(&early.net)) {
                continue;
            }
            let whose = if early.cluster == late.cluster {
                format!("its own {} {} (line {})", early.what, early.net, early.place.line())
            } else {
                format!(
                    "{} {} of cluster `{}` (line {}), which is in the same network `{}`",
                    early.what,
                    early.net,
                    early.name,
                    early.place.line(),
                    late.network
                )
            };
            let text = format!(
                "{} of cluster `{}` overlaps {whose}; give each its own range",
                late.net, late.name
            );
            problems.add(
                late.place,
                format!("spec.clusters[{}].lab.{}", late.cluster, late.what),
                text,
            );
        }
    }
    for (n, (i, late, place)) in pools.iter().enumerate() {
        for (_, early, other) in pools.iter().take(n) {
            if early.first <= late.last && late.first <= early.last {
                let text = format!(
                    "{late} overlaps {early} (line {}); all load-balancer addresses live on one bridge, so give each cluster its own range",
                    other.line()
                );
                problems.add(*place, format!("spec.clusters[{i}].lab.loadBalancerPool"), text);
            }
        }
    }
}
