//! A folder of YAML as a picture and the proxies that look at it.
//!
//! `clusterNN.yaml` holds what one cluster holds; Istio objects and the mesh's settings are taken
//! from the first. `proxies.yaml` maps names to xDS nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_control::index::live::{Change, Event, Live, MeshSettings};
use tombolo_control::index::objects::Object;
use tombolo_control::index::picture::Picture;
use tombolo_control::proxy::Proxy;
use tombolo_control::watch::{extract, mesh};
use tombolo_model::id::{ClusterId, ObjectName};
use tombolo_xds::proto::envoy::config::core::v3::Node;

/// The names of all scenarios.
pub fn all() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| folder().join(name).is_dir())
        .collect();
    names.sort();
    names
}

/// Where the scenarios are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The picture of a scenario and its proxies.
pub fn load(name: &str) -> (Picture, BTreeMap<String, (Proxy, Node)>) {
    let folder = folder().join(name);
    let mut live = Live::new(ClusterId::new("cluster01"), "cluster.local", "istio-system");
    for event in events(&folder) {
        live.apply(event);
    }
    (Picture::of(&live), proxies(&folder))
}

/// Everything that happens in a scenario, in the order of its files.
pub fn events(folder: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    for at in 1.. {
        let cluster = format!("cluster{at:02}");
        let path = folder.join(format!("{cluster}.yaml"));
        let Ok(text) = fs::read_to_string(&path) else { break };
        events.extend(events_of(&ClusterId::new(&cluster), &text));
    }
    events
}

/// Everything that happens in a cluster, from its documents.
pub fn events_of(cluster: &ClusterId, text: &str) -> Vec<Event> {
    let event = |change| Event { cluster: cluster.clone(), incarnation: 1, change };
    let mut events = vec![event(Change::Opened)];
    for document in text.split("\n---\n") {
        let document: Value = serde_saphyr::from_str(document)
            .unwrap_or_else(|error| panic!("{cluster}: {error}\n{document}"));
        events.extend(change(cluster, document).map(event));
    }
    events
}

fn read<T: DeserializeOwned>(document: Value) -> T {
    let shown = document.to_string();
    serde_json::from_value(document).unwrap_or_else(|error| panic!("{error}: {shown}"))
}

fn change(cluster: &ClusterId, document: Value) -> Option<Change> {
    let object = match document["kind"].as_str().unwrap() {
        "Service" => Object::Service(extract::service(read(document))),
        "EndpointSlice" => Object::Slice(extract::slice(read(document))?),
        "Pod" => Object::Pod(extract::pod(read(document))),
        "Node" => Object::Node(extract::node(read(document))),
        "Namespace" => Object::Namespace(extract::namespace(read(document))),
        "ConfigMap" => {
            let data = read(document["data"].clone());
            let name = ObjectName::new("istio-system", "istio");
            let old = MeshSettings::default();
            return Some(Change::Mesh(Box::new(mesh::settings(cluster, &name, &data, &old))));
        }
        kind => {
            let kind: &'static str = String::from(kind).leak();
            Object::Istio(extract::istio(kind, read::<DynamicObject>(document)))
        }
    };
    Some(Change::Apply(object))
}

fn proxies(folder: &Path) -> BTreeMap<String, (Proxy, Node)> {
    let text = fs::read_to_string(folder.join("proxies.yaml")).unwrap();
    let all: BTreeMap<String, Value> = serde_saphyr::from_str(&text).unwrap();
    let read = |(name, node): (String, Value)| {
        let node: Node = tombolo_xds::json::from_value(&node).unwrap();
        (name, (Proxy::from_node(&node, ClusterId::new).unwrap(), node))
    };
    all.into_iter().map(read).collect()
}
