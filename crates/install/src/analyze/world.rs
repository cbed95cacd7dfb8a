//! What analyzers look at: the objects of every cluster, the control plane's own cluster first.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::Object;

/// The objects of one cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterObjects {
    pub name: String,
    pub objects: Vec<Object>,
    /// Kinds that may not be listed there.
    pub unread: Vec<String>,
}

/// All clusters, and what analysis depends on besides.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The first is the one whose Istio objects count.
    pub clusters: Vec<ClusterObjects>,
    /// The control plane's namespace.
    pub system: String,
    /// The revision that is analyzed; empty for all.
    pub revision: String,
    /// The mesh's configuration, as it is written.
    pub mesh: Value,
    /// `meshNetworks` of the mesh.
    pub networks: Value,
    /// Names of clusters that remote secrets link, whether they could be read or not.
    pub linked: Vec<String>,
}

impl World {
    /// Objects of a kind in the own cluster.
    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.clusters.first().into_iter().flat_map(move |cluster| cluster.of(kind))
    }

    /// Istio's own objects of a kind, in the own cluster, of this revision.
    pub(crate) fn istio<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.of(kind).filter(|object| object.api_version().contains(".istio.io/")).filter(
            |object| {
                let revision = object.label("istio.io/rev");
                self.revision.is_empty() || revision.is_none_or(|it| it == self.revision)
            },
        )
    }

    /// Every name that traffic can go to, by its full host name: Services of all clusters and
    /// hosts of ServiceEntries.
    pub(crate) fn hosts(&self) -> BTreeMap<String, Vec<&Object>> {
        let mut hosts: BTreeMap<String, Vec<&Object>> = BTreeMap::new();
        for service in self.clusters.iter().flat_map(|cluster| cluster.of("Service")) {
            let host = full_host(service.name(), namespace(service));
            hosts.entry(host).or_default().push(service);
        }
        for entry in self.istio("ServiceEntry") {
            for host in texts(entry.value(), "/spec/hosts") {
                hosts.entry(host.to_owned()).or_default().push(entry);
            }
        }
        hosts
    }

    /// Pods of all clusters in a namespace (or in all of them) that carry the labels.
    pub(crate) fn pods<'a>(
        &'a self,
        inside: Option<&'a str>,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Object> {
        self.clusters
            .iter()
            .flat_map(|cluster| cluster.of("Pod"))
            .filter(move |pod| inside.is_none_or(|inside| namespace(pod) == inside))
            .filter(move |pod| selects(labels, pod.value(), "/metadata/labels"))
    }
}

impl ClusterObjects {
    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects.iter().filter(move |object| object.kind() == kind)
    }
}

/// The namespace of an object; `default` where it leaves it open.
pub(crate) fn namespace(object: &Object) -> &str {
    object.namespace().unwrap_or("default")
}

/// A host as written in `namespace`, in full: short names are Services of that namespace.
pub(crate) fn full_host(host: &str, namespace: &str) -> String {
    if host.contains('.') || host.starts_with('*') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.cluster.local")
    }
}

/// Whether a host that may have a wildcard covers another.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

/// The texts of a list.
pub(crate) fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A mapping from texts to texts.
pub(crate) fn labels(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    map.into_iter().flatten().filter_map(pair).collect()
}

/// Whether the labels at `pointer` hold all of `wanted`.
pub(crate) fn selects(wanted: &BTreeMap<String, String>, value: &Value, pointer: &str) -> bool {
    let found = value.pointer(pointer);
    wanted.iter().all(|(key, want)| {
        found.and_then(|found| found.get(key)).and_then(Value::as_str) == Some(want)
    })
}
