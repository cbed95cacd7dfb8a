//! The proxy accepts what the control plane sends: the reviewed configurations of its tests.
//!
//! Only the files are read; neither crate knows the other.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;
use tombolo_proxy::snapshot::{Builder, Kind, Snapshot};
use tombolo_xds::json::from_value;
use tombolo_xds::proto::envoy::config::cluster::v3::Cluster;
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::config::listener::v3::Listener;
use tombolo_xds::proto::envoy::config::route::v3::RouteConfiguration;

type Read = fn(&Value) -> Vec<u8>;

const TYPES: [(&str, Read); 4] = [
    ("Cluster", read::<Cluster>),
    ("Endpoint", read::<ClusterLoadAssignment>),
    ("Listener", read::<Listener>),
    ("Route", read::<RouteConfiguration>),
];

fn read<M: prost::Message + prost::Name + Default>(json: &Value) -> Vec<u8> {
    from_value::<M>(json).unwrap().encode_to_vec()
}

fn kind(name: &str) -> Kind {
    let url = match name {
        "Cluster" => <Cluster as prost::Name>::type_url(),
        "Endpoint" => <ClusterLoadAssignment as prost::Name>::type_url(),
        "Listener" => <Listener as prost::Name>::type_url(),
        _ => <RouteConfiguration as prost::Name>::type_url(),
    };
    Kind::from_url(&url).unwrap()
}

#[test]
fn everything_that_was_reviewed_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/tests/snapshots");
    let mut problems = BTreeSet::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // A header in YAML stands before the JSON.
        let Some(json) = text.splitn(3, "---\n").nth(2) else { continue };
        let reviewed: Value = serde_json::from_str(json).unwrap();
        let mut builder = Builder::new(Arc::new(ArcSwap::from_pointee(Snapshot::default())));
        for (name, read) in TYPES {
            let Some(resources) = reviewed[name].as_object() else { continue };
            let added: Vec<_> =
                resources.iter().map(|(name, value)| (name.clone(), read(value).into())).collect();
            seen += added.len();
            for rejection in builder.apply(kind(name), &added, &[]) {
                problems.insert(format!("{name} {}", rejection.problem));
            }
        }
    }
    assert!(seen > 100, "only {seen} resources were found");
    // One configuration is for a proxy that does not say it is ours; only such get mirrors.
    let mirrors =
        "Route virtual_hosts[0].routes[3].route.request_mirror_policies: is not supported";
    assert_eq!(problems, BTreeSet::from([mirrors.to_owned()]));
}
