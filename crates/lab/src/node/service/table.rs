//! The nftables script of a node: one table, replaced in one transaction.
//!
//! Equal inputs give equal text. A packet is looked up once by address, protocol and port; the
//! chain it finds picks an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use crate::node::service::host_ports::HostPort;
use crate::node::service::ports::{Policy, Port};

/// The name of the table. Each node has a network namespace of its own, so it never meets another.
pub(crate) const TABLE: &str = "tombolo-services";

/// Connections with this mark leave with the node's address.
const MASQUERADE: &str = "0x4000";

/// How many bytes nft takes as a comment; with one more it refuses the whole table.
const COMMENT: usize = 128;

/// The same seed in every script, so that a change elsewhere moves nobody.
const SEED: &str = "0x746f6d62";

/// The node whose table is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub node_ip: Ipv4Addr,
    /// The link to the bridge, and the bridge's network.
    pub link: String,
    pub bridge: Ipv4Net,
    pub pods: Ipv4Net,
    pub services: Ipv4Net,
    pub dns: Ipv4Addr,
}

/// The script that makes the table be what the ports of services and of pods say.
pub(crate) fn script(place: &Place, ports: &[Port], host_ports: &[HostPort]) -> String {
    let mut table = Table::default();
    for port in ports.iter().filter(|port| port.cluster_ip != place.dns) {
        table.add(place, port);
    }
    for port in host_ports {
        table.open(port);
    }
    table.write(place)
}

#[derive(Default)]
struct Table {
    /// `address . protocol . port`, and the chain that takes it.
    services: BTreeMap<String, String>,
    node_ports: BTreeMap<String, String>,
    refused: BTreeSet<String>,
    refused_node_ports: BTreeSet<String>,
    hairpin: BTreeSet<Ipv4Addr>,
    chains: String,
}

impl Table {
    fn add(&mut self, place: &Place, port: &Port) {
        let id = identity(port);
        let protocol = port.protocol.name();
        let internal = match port.internal_policy {
            Policy::Cluster => &port.endpoints,
            Policy::Local => &port.local,
        };
        self.hairpin.extend(port.endpoints.iter().map(|endpoint| *endpoint.ip()));
        let key = |address: Ipv4Addr| format!("{address} . {protocol} . {}", port.port);
        if port.endpoints.is_empty() {
            self.refused.insert(key(port.cluster_ip));
            self.refused.extend(port.external.iter().map(|address| key(*address)));
            self.refused_node_ports
                .extend(port.node_port.map(|number| format!("{protocol} . {number}")));
            return;
        }
        self.services.insert(key(port.cluster_ip), format!("svc-{id}"));
        let masquerade = format!(
            "ip saddr != {{ {}, {} }} meta mark set meta mark | {MASQUERADE}\n",
            place.pods, place.node_ip
        );
        self.chain(&format!("svc-{id}"), port, &masquerade, internal);
        if port.external.is_empty() && port.node_port.is_none() {
            return;
        }
        for address in &port.external {
            self.services.insert(key(*address), format!("ext-{id}"));
        }
        if let Some(number) = port.node_port {
            self.node_ports.insert(format!("{protocol} . {number}"), format!("ext-{id}"));
        }
        let mut before = String::new();
        if !port.sources.is_empty() {
            let ranges: Vec<String> = port.sources.iter().map(ToString::to_string).collect();
            let _infallible = writeln!(
                before,
                "ip saddr != {{ {}, {}, {} }} drop",
                ranges.join(", "),
                place.pods,
                place.node_ip
            );
        }
        let endpoints = match port.external_policy {
            Policy::Cluster => {
                let _infallible = writeln!(before, "meta mark set meta mark | {MASQUERADE}");
                &port.endpoints
            }
            Policy::Local => {
                // The node and its pods are inside the cluster and reach every endpoint.
                let _infallible = writeln!(
                    before,
                    "ip saddr {{ {}, {} }} goto svc-{id}",
                    place.pods, place.node_ip
                );
                &port.local
            }
        };
        self.chain(&format!("ext-{id}"), port, &before, endpoints);
    }

    /// Opens a port of the node for a pod. It comes before a service's port of the same number.
    fn open(&mut self, port: &HostPort) {
        let (protocol, number) = (port.protocol.name(), port.number);
        let (key, name) = (format!("{protocol} . {number}"), format!("host-{protocol}-{number}"));
        self.refused_node_ports.remove(&key);
        self.begin_chain(&name, &port.name);
        let _infallible =
            writeln!(self.chains, "    meta l4proto {protocol} dnat to {}\n  }}", port.to);
        self.node_ports.insert(key, name);
        self.hairpin.insert(*port.to.ip());
    }

    fn begin_chain(&mut self, name: &str, comment: &str) {
        let comment = &comment[..comment.floor_char_boundary(COMMENT)];
        let _infallible = writeln!(self.chains, "  chain {name} {{ comment \"{comment}\"");
    }

    /// A chain that sends a connection to one of `endpoints`.
    fn chain(&mut self, name: &str, port: &Port, before: &str, endpoints: &BTreeSet<SocketAddrV4>) {
        self.begin_chain(name, &port.name);
        for line in before.lines() {
            let _infallible = writeln!(self.chains, "    {line}");
        }
        let protocol = port.protocol.name();
        let all: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
            .collect();
        let _infallible = match endpoints.first() {
            None => writeln!(self.chains, "    drop"),
            Some(only) if all.len() == 1 => {
                writeln!(self.chains, "    meta l4proto {protocol} dnat to {only}")
            }
            Some(_) => {
                let pick = if port.sticky {
                    format!("jhash ip saddr mod {} seed {SEED}", all.len())
                } else {
                    format!("numgen random mod {}", all.len())
                };
                writeln!(
                    self.chains,
                    "    meta l4proto {protocol} dnat ip to {pick} map {{ {} }}",
                    all.join(", ")
                )
            }
        };
        self.chains.push_str("  }\n");
    }

    fn write(self, place: &Place) -> String {
        let goto = |map: &BTreeMap<String, String>| {
            map.iter().map(|(key, chain)| format!("{key} : goto {chain}")).collect()
        };
        let refuse =
            |set: &BTreeSet<String>| set.iter().map(|key| format!("{key} : goto refuse")).collect();
        let mut text =
            format!("table ip {TABLE} {{}}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
        set(
            &mut text,
            "map services",
            "ipv4_addr . inet_proto . inet_service : verdict",
            goto(&self.services),
        );
        set(
            &mut text,
            "map node-ports",
            "inet_proto . inet_service : verdict",
            goto(&self.node_ports),
        );
        set(
            &mut text,
            "map refused",
            "ipv4_addr . inet_proto . inet_service : verdict",
            refuse(&self.refused),
        );
        set(
            &mut text,
            "map refused-node-ports",
            "inet_proto . inet_service : verdict",
            refuse(&self.refused_node_ports),
        );
        let hairpin = self.hairpin.iter().map(|address| format!("{address} . {address}")).collect();
        set(&mut text, "set hairpin", "ipv4_addr . ipv4_addr", hairpin);
        text.push_str(&self.chains);
        text.push_str(&hooks(place));
        text.push_str("}\n");
        text
    }
}

fn set(text: &mut String, name: &str, kind: &str, elements: Vec<String>) {
    let _infallible = writeln!(text, "  {name} {{\n    type {kind}");
    if !elements.is_empty() {
        let _infallible =
            writeln!(text, "    elements = {{\n      {}\n    }}", elements.join(",\n      "));
    }
    text.push_str("  }\n");
}

/// Where the kernel hands packets over.
fn hooks(place: &Place) -> String {
    let Place { node_ip, link, bridge, pods, services, dns } = place;
    format!(
        "  chain refuse {{
    reject
  }}
  chain translate {{
    ip daddr {dns} return
    ip daddr . meta l4proto . th dport vmap @services
    ip daddr {node_ip} meta l4proto . th dport vmap @node-ports
  }}
  chain filter-new {{
    ip daddr {dns} return
    ip daddr . meta l4proto . th dport vmap @refused
    ip daddr {node_ip} meta l4proto . th dport vmap @refused-node-ports
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    goto translate
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    goto translate
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr . ip daddr @hairpin masquerade
    meta mark & {MASQUERADE} == {MASQUERADE} meta mark set meta mark & 0xffffbfff masquerade fully-random
    ip saddr {pods} ip daddr {bridge} oifname \"{link}\" masquerade fully-random
  }}
  chain filter-input {{
    type filter hook input priority filter; policy accept;
    ct state new jump filter-new
  }}
  chain filter-forward {{
    type filter hook forward priority filter; policy accept;
    ct state new jump filter-new
    ct state new ip daddr {services} goto refuse
  }}
  chain filter-output {{
    type filter hook output priority filter; policy accept;
    ct state new jump filter-new
    ct state new ip daddr {services} ip daddr != {dns} goto refuse
  }}
"
    )
}

/// A short name of a port that stays the same as long as the port does.
fn identity(port: &Port) -> String {
    let digest =
        Sha256::digest(format!("{} {} {}", port.name, port.protocol.name(), port.port).as_bytes());
    digest.iter().take(6).fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::{Value, json};

    use super::*;
    use crate::node::service::ports;

    fn place() -> Place {
        Place {
            node_ip: Ipv4Addr::new(172, 18, 0, 2),
            link: "eth0".into(),
            bridge: "172.18.0.0/16".parse().unwrap(),
            pods: "10.10.0.0/24".parse().unwrap(),
            services: "10.11.0.0/16".parse().unwrap(),
            dns: Ipv4Addr::new(10, 11, 0, 10),
        }
    }

    fn service(name: &str, mut spec: Value, ingress: &[&str]) -> Service {
        if spec["type"].is_null() {
            spec["type"] = json!("ClusterIP");
        }
        let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}})).unwrap()
    }

    fn slice(service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{service}-x"), "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        })).unwrap()
    }

    fn written(services: Vec<Service>, slices: Vec<EndpointSlice>) -> String {
        let services: Vec<_> = services.into_iter().map(Arc::new).collect();
        let slices: Vec<_> = slices.into_iter().map(Arc::new).collect();
        script(&place(), &ports::ports(&services, &slices, "n1"), &[])
    }

    #[test]
    fn a_pods_port_of_the_node_leads_to_the_pod() {
        let port = HostPort {
            name: "ns/p".into(),
            protocol: ports::Protocol::Udp,
            number: 8053,
            to: "10.10.0.5:53".parse().unwrap(),
        };
        let text = script(&place(), &[], &[port]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for line in [
            "udp . 8053 : goto host-udp-8053",
            "chain host-udp-8053 { comment \"ns/p\"",
            "meta l4proto udp dnat to 10.10.0.5:53",
            "10.10.0.5 . 10.10.0.5",
        ] {
            assert!(lines.contains(&line), "{line} is not in {text}");
        }
    }

    #[test]
    fn every_kind_of_service_is_written() {
        let services = vec![
            service(
                "web",
                json!({"clusterIP": "10.11.0.20", "ports": [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
                &[],
            ),
            service(
                "sticky",
                json!({"clusterIP": "10.11.0.21", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}),
                &[],
            ),
            service(
                "gateway",
                json!({"type": "LoadBalancer", "clusterIP": "10.11.0.22", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["172.18.0.0/16"], "ports": [{"port": 443, "nodePort": 30443}]}),
                &["172.18.11.1"],
            ),
            service(
                "open",
                json!({"type": "NodePort", "clusterIP": "10.11.0.23", "externalIPs": ["172.18.11.9"], "ports": [{"port": 80, "nodePort": 30080}]}),
                &[],
            ),
            service(
                "empty",
                json!({"type": "NodePort", "clusterIP": "10.11.0.24", "ports": [{"port": 80, "nodePort": 30081}]}),
                &[],
            ),
            service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]}), &[]),
        ];
        let slices = vec![
            slice(
                "web",
                json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
                json!([
                    {"addresses": ["10.10.0.5"], "conditions": {"ready": true}},
                    {"addresses": ["10.10.0.6"], "conditions": {"ready": true}},
                    {"addresses": ["10.10.0.7"], "conditions": {"ready": false}},
                ]),
            ),
            slice(
                "sticky",
                json!([{"port": 80}]),
                json!([{"addresses": ["10.10.0.5"]}, {"addresses": ["10.20.0.5"]}]),
            ),
            slice(
                "gateway",
                json!([{"port": 8443}]),
                json!([{"addresses": ["10.10.0.8"], "nodeName": "n1"}, {"addresses": ["10.10.1.8"], "nodeName": "n2"}]),
            ),
            slice(
                "open",
                json!([{"port": 80}]),
                json!([{"addresses": ["10.10.0.9"], "conditions": {"ready": false, "serving": true, "terminating": true}}]),
            ),
            slice("headless", json!([{"port": 80}]), json!([{"addresses": ["10.10.0.9"]}])),
        ];
        insta::assert_snapshot!(written(services, slices));
    }

    #[test]
    fn a_service_with_the_longest_names_has_a_comment_that_nft_takes() {
        let (name, port) = ("s".repeat(63), "p".repeat(15));
        let mut long = service(
            &name,
            json!({"clusterIP": "10.11.0.20", "ports": [{"name": port, "port": 80}]}),
            &[],
        );
        let namespace = "n".repeat(63);
        long.metadata.namespace = Some(namespace.clone());
        let mut backs = slice(
            &name,
            json!([{"name": port, "port": 8080}]),
            json!([{"addresses": ["10.10.0.5"], "conditions": {"ready": true}}]),
        );
        backs.metadata.namespace = Some(namespace.clone());
        let text = written(vec![long], vec![backs]);
        let comments: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split('"').nth(1).filter(|_| line.contains("comment")))
            .collect();
        assert_eq!(comments, [format!("{namespace}/{name}:")]);
        assert_eq!(comments[0].len(), 128);
    }

    #[test]
    fn the_order_of_objects_does_not_show() {
        let a = || service("a", json!({"clusterIP": "10.11.0.20", "ports": [{"port": 80}]}), &[]);
        let b = || service("b", json!({"clusterIP": "10.11.0.21", "ports": [{"port": 80}]}), &[]);
        assert_eq!(written(vec![a(), b()], vec![]), written(vec![b(), a()], vec![]));
    }

    #[test]
    fn the_dns_address_is_left_to_the_node() {
        let dns = service(
            "kube-dns",
            json!({"clusterIP": "10.11.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}),
            &[],
        );
        assert_eq!(written(vec![dns], vec![]), written(vec![], vec![]));
    }
}
