use serde_json::{Value, json};

use super::*;
use crate::resources::Catalog;

/// The cells of one object, times and ages aside.
#[track_caller]
fn check(group: &str, plural: &str, object: &Value, want: &[&str]) {
    let catalog = Catalog::new([]);
    let resource = catalog.find_resource(group, plural).unwrap();
    let table = render(resource, &[object], "None", json!({}));
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), names.len());
    let printed: Vec<String> = names
        .iter()
        .zip(cells)
        .filter(|(name, _)| !matches!(**name, "Age" | "Created At"))
        .map(|(name, cell)| match cell {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    assert_eq!(printed, want);
}

#[test]
fn a_pod_shows_what_its_containers_add_up_to() {
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "setup"}, {"name": "proxy", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.5"}],
            "conditions": [{"type": "Initialized", "status": "True"}],
            "initContainerStatuses": [
                {"name": "setup", "restartCount": 3, "state": {"terminated": {"exitCode": 0}}},
                {"name": "proxy", "started": true, "ready": true, "restartCount": 1,
                 "state": {"running": {}}}],
            "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "b", "ready": false, "restartCount": 2,
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
    });
    check(
        "",
        "pods",
        &pod,
        &[
            "Name=web",
            "Ready=2/3",
            "Status=CrashLoopBackOff",
            "Restarts=3",
            "IP=10.1.0.5",
            "Node=n1",
            "Nominated Node=<none>",
            "Readiness Gates=<none>",
        ],
    );
    let starting = json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "x"}, {"name": "y"}]},
        "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "x", "state": {"terminated": {"exitCode": 0}}},
            {"name": "y", "state": {"running": {}}}]},
    });
    check(
        "",
        "pods",
        &starting,
        &[
            "Name=web",
            "Ready=0/1",
            "Status=Init:1/2",
            "Restarts=0",
            "IP=<none>",
            "Node=<none>",
            "Nominated Node=<none>",
            "Readiness Gates=<none>",
        ],
    );
}

#[test]
fn a_service_shows_where_it_is_reached() {
    let service = json!({
        "metadata": {"name": "gw"},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.11.0.7"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "172.18.11.1"}]}},
    });
    check(
        "",
        "services",
        &service,
        &[
            "Name=gw",
            "Type=LoadBalancer",
            "Cluster-IP=10.11.0.7",
            "External-IP=172.18.11.1",
            "Port(s)=80:30080/TCP",
            "Selector=a=1,b=2",
        ],
    );
    let pending = json!({"metadata": {"name": "gw"}, "spec": {"type": "LoadBalancer"}});
    check(
        "",
        "services",
        &pending,
        &[
            "Name=gw",
            "Type=LoadBalancer",
            "Cluster-IP=<none>",
            "External-IP=<pending>",
            "Port(s)=<none>",
            "Selector=<none>",
        ],
    );
}

#[test]
fn a_deployment_shows_its_replicas() {
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
    });
    check(
        "apps",
        "deployments",
        &deployment,
        &[
            "Name=d",
            "Ready=2/3",
            "Up-to-date=3",
            "Available=2",
            "Containers=c",
            "Images=i:1",
            "Selector=app=d",
        ],
    );
}

#[test]
fn events_are_named_last() {
    let event = json!({
        "metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": " no ",
        "involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "kubelet"},
    });
    check(
        "",
        "events",
        &event,
        &[
            "Last Seen=<unknown>",
            "Type=Warning",
            "Reason=Failed",
            "Object=pod/web",
            "Subobject=",
            "Source=kubelet",
            "Message=no",
            "First Seen=<unknown>",
            "Count=1",
            "Name=e",
        ],
    );
}

#[test]
fn every_kind_that_is_listed_has_as_many_cells_as_columns() {
    let catalog = Catalog::new([]);
    let object = json!({"metadata": {"name": "x"}});
    for resource in catalog.types().iter().filter(|t| t.has_verb("list")) {
        let table = render(resource, &[&object], "Metadata", json!({"resourceVersion": "1"}));
        assert_eq!(
            table["rows"][0]["cells"].as_array().unwrap().len(),
            table["columnDefinitions"].as_array().unwrap().len(),
            "{}",
            resource.plural
        );
    }
}
