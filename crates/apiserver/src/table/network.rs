//! The columns of what connects: services, endpoints, ingresses, policies, nodes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::columns::{
    AGE, Column, condition, few, int_at, labels, list_at, or, or_none, selector, str_at, text, wide,
};

pub const SERVICES: &[Column] = &[
    text("Type", |service| str_at(service, "/spec/type").into()),
    text("Cluster-IP", |service| or_none(str_at(service, "/spec/clusterIPs/0"))),
    text("External-IP", |service| external_address(service).into()),
    text("Port(s)", service_ports),
    AGE,
    wide("Selector", |service| labels(service.pointer("/spec/selector"))),
];

pub const ENDPOINTS: &[Column] = &[text("Endpoints", endpoints), AGE];

pub const ENDPOINT_SLICES: &[Column] = &[
    text("AddressType", |slice| str_at(slice, "/addressType").into()),
    text("Ports", slice_ports),
    text("Endpoints", |slice| {
        let addresses: Vec<String> = list_at(slice, "/endpoints")
            .iter()
            .flat_map(|endpoint| list_at(endpoint, "/addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        few(&addresses, "<unset>")
    }),
    AGE,
];

pub const INGRESSES: &[Column] = &[
    text("Class", |ingress| or_none(str_at(ingress, "/spec/ingressClassName"))),
    text("Hosts", |ingress| {
        let hosts: Vec<String> = list_at(ingress, "/spec/rules")
            .iter()
            .map(|rule| str_at(rule, "/host").to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        few(&hosts, "*")
    }),
    text("Address", |ingress| balancer_addresses(ingress).into()),
    text("Ports", |ingress| {
        if list_at(ingress, "/spec/tls").is_empty() { "80".into() } else { "80, 443".into() }
    }),
    AGE,
];

pub const INGRESS_CLASSES: &[Column] = &[
    text("Controller", |class| str_at(class, "/spec/controller").into()),
    text("Parameters", |class| {
        let Some(parameters) = class.pointer("/spec/parameters") else { return "<none>".into() };
        let (group, kind, name) = (
            str_at(parameters, "/apiGroup"),
            str_at(parameters, "/kind"),
            str_at(parameters, "/name"),
        );
        if group.is_empty() {
            format!("{kind}/{name}").into()
        } else {
            format!("{kind}.{group}/{name}").into()
        }
    }),
    AGE,
];

pub const NETWORK_POLICIES: &[Column] =
    &[text("Pod-Selector", |policy| selector(policy.pointer("/spec/podSelector"), "<none>")), AGE];

pub const IP_ADDRESSES: &[Column] = &[text("ParentRef", |address| {
    let parent = |field: &str| str_at(address, &format!("/spec/parentRef/{field}")).to_owned();
    let (group, resource) = (parent("group"), parent("resource"));
    let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
    let parts = [resource, parent("namespace"), parent("name")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into()
})];

pub const SERVICE_CIDRS: &[Column] = &[
    text("CIDRs", |range| {
        let cidrs: Vec<&str> =
            list_at(range, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
        cidrs.join(",").into()
    }),
    AGE,
];

pub const NODES: &[Column] = &[
    text("Status", node_status),
    text("Roles", node_roles),
    AGE,
    text("Version", |node| str_at(node, "/status/nodeInfo/kubeletVersion").into()),
    wide("Internal-IP", |node| node_address(node, "InternalIP")),
    wide("External-IP", |node| node_address(node, "ExternalIP")),
    wide("OS-Image", |node| or(str_at(node, "/status/nodeInfo/osImage"), "<unknown>")),
    wide("Kernel-Version", |node| {
        let version = str_at(node, "/status/nodeInfo/kernelVersion");
        let version = if version.is_empty() { "<unknown>" } else { version };
        match str_at(node, "/status/nodeInfo/architecture") {
            "" => version.into(),
            architecture => format!("{version} ({architecture})").into(),
        }
    }),
    wide("Container-Runtime", |node| {
        or(str_at(node, "/status/nodeInfo/containerRuntimeVersion"), "<unknown>")
    }),
];

fn external_address(service: &Value) -> String {
    let external: Vec<&str> =
        list_at(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match str_at(service, "/spec/type") {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let balancer = balancer_addresses(service);
            let all: Vec<&str> =
                balancer.split(',').filter(|part| !part.is_empty()).chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => str_at(service, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or names of the load balancer, sorted, each once.
fn balancer_addresses(object: &Value) -> String {
    let addresses: BTreeSet<&str> = list_at(object, "/status/loadBalancer/ingress")
        .iter()
        .map(|entry| match str_at(entry, "/ip") {
            "" => str_at(entry, "/hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = list_at(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int_at(port, "/port"), str_at(port, "/protocol"));
            match int_at(port, "/nodePort") {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    or_none(&ports.join(","))
}

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list_at(object, "/subsets") {
        let addresses: Vec<&str> = list_at(subset, "/addresses")
            .iter()
            .filter_map(|address| address["ip"].as_str())
            .collect();
        let ports = list_at(subset, "/ports");
        if ports.is_empty() {
            all.extend(addresses.iter().map(|&address| address.to_owned()));
        }
        for port in ports {
            let number = int_at(port, "/port");
            all.extend(addresses.iter().map(|address| match address.contains(':') {
                true => format!("[{address}]:{number}"),
                false => format!("{address}:{number}"),
            }));
        }
    }
    few(&all, "<none>")
}

fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> = list_at(slice, "/ports")
        .iter()
        .map(|port| match (&port["port"], &port["name"]) {
            (Value::Number(number), _) => number.to_string(),
            (_, Value::String(name)) => name.clone(),
            _ => "*".to_owned(),
        })
        .collect();
    few(&ports, "<unset>")
}

fn node_status(node: &Value) -> Value {
    let ready = match condition(node, "Ready") {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        return format!("{ready},SchedulingDisabled").into();
    }
    ready.into()
}

fn node_roles(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

fn node_address(node: &Value, kind: &str) -> Value {
    let address = list_at(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    or_none(address.map_or("", |address| str_at(address, "/address")))
}
