//! Tables of control planes, and comparisons.

use serde_json::{Value, json};

use crate::inspect::dump::Dump;
use crate::inspect::remote_clusters::{self, Followed, RemoteCluster};
use crate::inspect::status::{self, Synced};
use crate::inspect::version::{BuildInfo, ProxyInfo, ServerInfo, Versions};
use crate::inspect::{compare, secrets};

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// Two control planes: ours, and one that says only what older ones do.
fn synced() -> Vec<Synced> {
    let at = "2026-11-27T16:00:00Z";
    let ours = json!([
        {
            "proxy": "sleep-1.sample", "proxy_type": "sidecar", "cluster_id": "cluster01",
            "istio_version": "1.30.0", "resources": {
                CDS: {"sent": "a", "acked": "a", "sentTime": at},
                LDS: {"sent": "b", "acked": "a", "sentTime": at},
                EDS: {"sent": "c", "acked": "b", "sentTime": at, "lastError": "no such field"},
                RDS: {},
            },
        },
        {
            "proxy": "istio-eastwestgateway-1.istio-system", "proxy_type": "router",
            "cluster_id": "cluster01", "istio_version": "1.30.0", "resources": {
                CDS: {"sent": "a", "acked": "a", "sentTime": at},
                "type.googleapis.com/istio.networking.nds.v1.NameTable": {"sent": "a", "acked": "a"},
            },
        },
    ]);
    let older = json!([{
        "proxy": "helloworld-1.sample", "cluster_id": "cluster02", "istio_version": "1.18.2",
        "cluster_sent": "x", "cluster_acked": "x", "route_sent": "y", "route_acked": "",
    }]);
    let read = |istiod: &str, version: &str, document: Value| Synced {
        istiod: istiod.to_owned(),
        version: version.to_owned(),
        proxies: serde_json::from_value(document).unwrap(),
    };
    vec![read("istiod-1", "1.30.0", ours), read("istiod-2", "1.18.2", older)]
}

#[test]
fn proxies_with_the_types_they_follow() {
    insta::assert_snapshot!(status::table(&synced(), ""));
}

#[test]
fn proxies_with_the_state_of_every_type() {
    let now = "2026-11-27T16:05:30Z".parse().unwrap();
    insta::assert_snapshot!(status::verbose_table(&synced(), "", now));
    let sample = status::verbose_table(&synced(), "sample", now);
    assert!(!sample.contains("eastwest") && sample.contains("sleep-1"), "{sample}");
}

#[test]
fn states_as_documents() {
    let all = status::documents(&synced(), "sample");
    assert_eq!(all.len(), 2);
    let client = &all[0]["resources"][0];
    assert_eq!(all[0]["resources"].as_array().unwrap().len(), 1);
    assert_eq!(client["node"]["metadata"]["CLUSTER_ID"], "cluster01");
    let states: Vec<_> = client["genericXdsConfigs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|config| config["configStatus"].as_str().unwrap())
        .collect();
    // By type URL: clusters, endpoints, listeners, routes.
    assert_eq!(states, ["SYNCED", "ERROR", "STALE", "NOT_SENT"]);
    assert_eq!(client["genericXdsConfigs"][1]["errorState"]["details"], "no such field");
    let identifier: Value =
        serde_json::from_str(all[0]["controlPlane"]["identifier"].as_str().unwrap()).unwrap();
    assert_eq!(identifier["ID"], "istiod-1");
}

#[test]
fn clusters_that_control_planes_follow() {
    let clusters: Vec<RemoteCluster> = serde_json::from_value(json!([
        {"id": "cluster01", "secretName": "", "syncStatus": "synced"},
        {"id": "cluster02", "secretName": "istio-system/istio-remote-secret-cluster02", "syncStatus": "syncing"},
    ]))
    .unwrap();
    let of = |istiod: &str| Followed {
        istiod: istiod.to_owned(),
        revision: "default".to_owned(),
        clusters: clusters.clone(),
    };
    insta::assert_snapshot!(remote_clusters::table(vec![of("istiod-2"), of("istiod-1")]));
}

#[test]
fn versions_are_told_together_while_they_are_the_same() {
    let info = |version: &str| ServerInfo {
        component: "pilot".to_owned(),
        revision: "default".to_owned(),
        info: BuildInfo::parse(version),
    };
    let all = synced();
    let proxies = all.iter().flat_map(|it| &it.proxies).map(ProxyInfo::from).collect();
    let mut versions = Versions {
        client_version: BuildInfo::parse("0.1.0"),
        mesh_version: Some(vec![info("0.1.0"), info("0.1.0")]),
        data_plane_version: Some(proxies),
    };
    assert_eq!(
        versions.short(),
        "client version: 0.1.0\ncontrol plane version: 0.1.0\ndata plane version: 1.18.2 (1 proxies), 1.30.0 (2 proxies)\n"
    );
    assert!(versions.long().contains("Type:\"gateway\"}"), "{}", versions.long());
    versions.mesh_version = Some(vec![info("0.1.0"), info("0.2.0")]);
    versions.data_plane_version = Some(Vec::new());
    assert_eq!(
        versions.short(),
        "client version: 0.1.0\npilot version: 0.1.0\npilot version: 0.2.0\ndata plane version: none\n"
    );
}

fn dump(timeout: &str, version: &str, hosts: [&str; 2]) -> Dump {
    let hosts: Vec<_> = hosts.iter().map(|name| json!({ "name": name })).collect();
    let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
    let document = json!({"configs": [
        {"@type": kind("ClustersConfigDump"), "dynamicActiveClusters": [
            {"versionInfo": version, "cluster": {"@type": CDS, "name": "b", "connectTimeout": timeout}},
            {"cluster": {"@type": CDS, "name": "a"}},
        ]},
        {"@type": kind("ListenersConfigDump"), "dynamicListeners": []},
        {"@type": kind("RoutesConfigDump"), "dynamicRouteConfigs": [
            {"versionInfo": version, "routeConfig": {"@type": RDS, "name": "5000", "virtualHosts": hosts}},
        ]},
    ]});
    Dump::new(document).unwrap()
}

#[test]
fn only_what_means_something_is_a_difference() {
    let same = compare::report(&dump("10s", "1", ["a", "b"]), &dump("10s", "2", ["b", "a"]));
    assert_eq!(same.unwrap(), "Clusters Match\nListeners Match\nRoutes Match\n");
    let other = compare::report(&dump("10s", "1", ["a", "b"]), &dump("5s", "1", ["a", "b"]));
    insta::assert_snapshot!(other.unwrap());
}

#[test]
fn roots_are_missing_or_unreadable() {
    let with = |secrets: Value| {
        let url = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump";
        let section = json!({"@type": url, "dynamicActiveSecrets": secrets});
        Dump::new(json!({ "configs": [section] })).unwrap()
    };
    let error = secrets::roots(&with(json!([]))).unwrap_err().to_string();
    assert_eq!(error, "the configuration dump has no secret ROOTCA with certificates");
    let empty = json!([{"name": "ROOTCA", "secret": {"validationContext": {"trustedCa": {"inlineString": "x"}}}}]);
    let error = secrets::roots(&with(empty.clone())).unwrap_err().to_string();
    assert_eq!(error, "read the certificates of secret ROOTCA");
    let table = secrets::table(
        &secrets::list(&with(empty)).unwrap(),
        std::time::SystemTime::UNIX_EPOCH,
        false,
    );
    assert!(table.contains("ROOTCA") && table.contains("false"), "{table}");
}
