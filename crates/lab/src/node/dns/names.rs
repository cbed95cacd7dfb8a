//! What a name of the cluster means. Pure: the objects and the question in, the answer out.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::node::dns::reversed;
use crate::node::service::ports::{is_ready, owner};

/// The objects that names are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub domain: &'a str,
    pub services: &'a [Arc<Service>],
    pub slices: &'a [Arc<EndpointSlice>],
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Srv,
    Ptr,
    Cname,
    Any,
    /// A kind that no name of the cluster has, such as AAAA in an IPv4 cluster.
    Other,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    Address(Ipv4Addr),
    Alias(String),
    Pointer(String),
    Port { port: u16, target: String, weight: u16 },
}

/// The answer: records with their owner when it is not the name that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub exists: bool,
    pub data: Vec<(Option<String>, Data)>,
    pub additional: Vec<(Option<String>, Data)>,
}

/// Aliases that are followed; more are a loop.
const ALIASES: usize = 8;

/// Answers a question. `name` is in lower case.
pub(crate) fn answer(view: &View<'_>, name: &str, kind: Kind) -> Answer {
    let name = name.trim_end_matches('.');
    if let Some(ip) = reversed(name) {
        return view.pointer(ip, kind);
    }
    let mut answer = Answer::default();
    let mut asked = name.to_owned();
    for step in 0..ALIASES {
        let Some(labels) = view.labels(&asked) else { break };
        let Some(found) = view.find(&labels) else { break };
        answer.exists = true;
        let own = if step == 0 { None } else { Some(asked.clone()) };
        match found {
            Found::Alias(target) => {
                answer.data.push((own, Data::Alias(target.clone())));
                if kind == Kind::Cname {
                    break;
                }
                asked = target;
                continue;
            }
            Found::Nothing => (),
            Found::Addresses(all) => {
                if matches!(kind, Kind::A | Kind::Any) {
                    answer.data.extend(all.into_iter().map(|ip| (own.clone(), Data::Address(ip))));
                }
            }
            Found::Service(service) => view.of_service(service, &asked, own, kind, &mut answer),
            Found::Ports(all) => view.of_ports(all, own, kind, &mut answer),
        }
        break;
    }
    answer
}

/// What a name stands for.
enum Found<'a> {
    /// A name that only has names below it.
    Nothing,
    Addresses(BTreeSet<Ipv4Addr>),
    Alias(String),
    Service(&'a Service),
    /// Ports of a service: number, the name that has it, that name's addresses.
    Ports(BTreeSet<(u16, String, Vec<Ipv4Addr>)>),
}

impl<'a> View<'a> {
    /// The labels of a name below the cluster's domain, from the right.
    fn labels<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let rest = name.strip_suffix(self.domain)?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        Some(rest.strip_suffix('.')?.rsplit('.').collect())
    }

    fn find(&self, labels: &[&str]) -> Option<Found<'a>> {
        match *labels {
            [] | ["svc" | "pod"] => Some(Found::Nothing),
            ["svc", namespace] => self
                .services
                .iter()
                .any(|service| service.metadata.namespace.as_deref() == Some(namespace))
                .then_some(Found::Nothing),
            ["svc", namespace, name] => {
                let service = self.service(namespace, name)?;
                let spec = service.spec.as_ref()?;
                if spec.type_.as_deref() == Some("ExternalName") {
                    let target =
                        spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase();
                    return Some(match target.parse() {
                        Ok(ip) => Found::Addresses(BTreeSet::from([ip])),
                        Err(_) => Found::Alias(target),
                    });
                }
                Some(Found::Service(service))
            }
            ["svc", namespace, name, "_tcp" | "_udp"] => {
                self.service(namespace, name).map(|_| Found::Nothing)
            }
            ["svc", namespace, name, host] => {
                let service = self.service(namespace, name).filter(|service| headless(service))?;
                let found = self
                    .endpoints(service)
                    .into_iter()
                    .filter(|endpoint| host_of(endpoint.host.as_deref(), endpoint.ip) == host);
                let found: BTreeSet<Ipv4Addr> = found.map(|endpoint| endpoint.ip).collect();
                (!found.is_empty()).then_some(Found::Addresses(found))
            }
            ["svc", namespace, name, protocol, port] => {
                let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
                let ports = self.ports(self.service(namespace, name)?, Some((protocol, port)));
                (!ports.is_empty()).then_some(Found::Ports(ports))
            }
            ["pod", _] => Some(Found::Nothing),
            ["pod", _, dashed] => dashed
                .replace('-', ".")
                .parse()
                .ok()
                .map(|ip| Found::Addresses(BTreeSet::from([ip]))),
            _ => None,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&'a Service> {
        let found = self.services.iter().find(|service| {
            service.metadata.name.as_deref() == Some(name)
                && service.metadata.namespace.as_deref() == Some(namespace)
        });
        found.map(AsRef::as_ref)
    }

    /// The endpoints that a headless service's name stands for.
    fn endpoints(&self, service: &Service) -> Vec<Behind> {
        let all =
            service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let mut found = Vec::new();
        for slice in self
            .slices
            .iter()
            .filter(|slice| slice.address_type == "IPv4" && owner(slice) == Some(key))
        {
            let ports: Vec<(String, String, u16)> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                    Some((
                        port.name.clone().unwrap_or_default(),
                        protocol,
                        u16::try_from(port.port?).ok()?,
                    ))
                })
                .collect();
            for endpoint in
                slice.endpoints.iter().flatten().filter(|endpoint| all || is_ready(endpoint))
            {
                found.extend(behind(endpoint, &ports));
            }
        }
        found
    }

    /// The ports of a service, or the one of this protocol and name, with the names that have it.
    fn ports(
        &self,
        service: &Service,
        only: Option<(&str, &str)>,
    ) -> BTreeSet<(u16, String, Vec<Ipv4Addr>)> {
        let name = self.name_of(service);
        if headless(service) {
            let wanted = |port: &&(String, String, u16)| {
                only.is_none_or(|(protocol, name)| port.1 == protocol && port.0 == name)
            };
            return self
                .endpoints(service)
                .into_iter()
                .flat_map(|endpoint| {
                    let target =
                        format!("{}.{name}", host_of(endpoint.host.as_deref(), endpoint.ip));
                    endpoint
                        .ports
                        .iter()
                        .filter(wanted)
                        .map(|port| (port.2, target.clone(), vec![endpoint.ip]))
                        .collect::<Vec<_>>()
                })
                .collect();
        }
        let spec = service.spec.as_ref();
        let ip: Vec<Ipv4Addr> =
            spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse().ok()).into_iter().collect();
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten()).filter(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            only.is_none_or(|(wanted, name)| {
                wanted == protocol && port.name.as_deref() == Some(name)
            })
        });
        ports
            .filter_map(|port| Some((u16::try_from(port.port).ok()?, name.clone(), ip.clone())))
            .collect()
    }

    fn of_service(
        &self,
        service: &Service,
        name: &str,
        own: Option<String>,
        kind: Kind,
        answer: &mut Answer,
    ) {
        if matches!(kind, Kind::A | Kind::Any) {
            let all: BTreeSet<Ipv4Addr> = if headless(service) {
                self.endpoints(service).into_iter().map(|endpoint| endpoint.ip).collect()
            } else {
                service
                    .spec
                    .iter()
                    .filter_map(|spec| spec.cluster_ip.as_deref()?.parse().ok())
                    .collect()
            };
            // A headless service without endpoints has no address, and its name does not exist.
            if all.is_empty() && headless(service) && own.is_none() && name.ends_with(self.domain) {
                answer.exists = false;
            }
            answer.data.extend(all.into_iter().map(|ip| (own.clone(), Data::Address(ip))));
        }
        if kind == Kind::Srv {
            self.of_ports(self.ports(service, None), own, kind, answer);
        }
    }

    fn of_ports(
        &self,
        ports: BTreeSet<(u16, String, Vec<Ipv4Addr>)>,
        own: Option<String>,
        kind: Kind,
        answer: &mut Answer,
    ) {
        if !matches!(kind, Kind::Srv | Kind::Any) {
            return;
        }
        let weight = u16::try_from(100 / ports.len().max(1)).unwrap_or(1).max(1);
        for (port, target, addresses) in ports {
            let extra = addresses.into_iter().map(|ip| (Some(target.clone()), Data::Address(ip)));
            answer.additional.extend(extra);
            answer.data.push((own.clone(), Data::Port { port, target, weight }));
        }
        answer.additional.dedup();
    }

    fn name_of(&self, service: &Service) -> String {
        let (name, namespace) = (&service.metadata.name, &service.metadata.namespace);
        format!(
            "{}.{}.svc.{}",
            name.as_deref().unwrap_or_default(),
            namespace.as_deref().unwrap_or_default(),
            self.domain
        )
    }

    /// The name of an address.
    fn pointer(&self, ip: Ipv4Addr, kind: Kind) -> Answer {
        let text = ip.to_string();
        let service = self.services.iter().find(|service| {
            service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(&text)
        });
        let name = service.map(|service| self.name_of(service)).or_else(|| {
            let mut services = self.services.iter().filter(|service| headless(service));
            services.find_map(|service| {
                let behind =
                    self.endpoints(service).into_iter().find(|endpoint| endpoint.ip == ip)?;
                Some(format!("{}.{}", host_of(behind.host.as_deref(), ip), self.name_of(service)))
            })
        });
        match name {
            Some(name) if matches!(kind, Kind::Ptr | Kind::Any) => Answer {
                exists: true,
                data: vec![(None, Data::Pointer(name))],
                additional: Vec::new(),
            },
            Some(_) => Answer { exists: true, ..Answer::default() },
            None => Answer::default(),
        }
    }
}

/// An endpoint of a headless service.
struct Behind {
    ip: Ipv4Addr,
    host: Option<String>,
    /// Name, protocol, number.
    ports: Vec<(String, String, u16)>,
}

fn behind(endpoint: &Endpoint, ports: &[(String, String, u16)]) -> Option<Behind> {
    let ip = endpoint.addresses.first()?.parse().ok()?;
    Some(Behind { ip, host: endpoint.hostname.clone(), ports: ports.to_vec() })
}

/// The name of an endpoint below its service: its host name, or its address.
fn host_of(host: Option<&str>, ip: Ipv4Addr) -> String {
    host.map_or_else(|| ip.to_string().replace('.', "-"), str::to_ascii_lowercase)
}

fn headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(question: &str, kind: Kind) -> String {
        let service = |name: &str, spec: serde_json::Value| {
            Arc::new(
                serde_json::from_value::<Service>(
                    json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}),
                )
                .unwrap(),
            )
        };
        let services = [
            service(
                "web",
                json!({"clusterIP": "10.11.0.20", "ports": [{"name": "http", "port": 80}, {"name": "q", "port": 9, "protocol": "UDP"}]}),
            ),
            service("peers", json!({"clusterIP": "None", "ports": [{"name": "db", "port": 5432}]})),
            service("all", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
            service("none", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "Example.com"})),
            service(
                "alias",
                json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"}),
            ),
            service(
                "loop",
                json!({"type": "ExternalName", "externalName": "loop.ns.svc.cluster.local"}),
            ),
        ];
        let slice = |service: &str| {
            Arc::new(serde_json::from_value::<EndpointSlice>(json!({
            "metadata": {"name": service, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
            "ports": [{"name": "db", "port": 5432}],
            "endpoints": [{"addresses": ["10.10.0.5"], "hostname": "db-0"}, {"addresses": ["10.10.0.6"]}, {"addresses": ["10.10.0.7"], "conditions": {"ready": false}}],
        })).unwrap())
        };
        let slices = [slice("peers"), slice("all")];
        let answer = answer(
            &View { domain: "cluster.local", services: &services, slices: &slices },
            question,
            kind,
        );
        let show = |data: &[(Option<String>, Data)]| {
            data.iter()
                .map(|(owner, data)| {
                    let owner = owner.as_ref().map_or(String::new(), |owner| format!("{owner}="));
                    match data {
                        Data::Address(ip) => format!("{owner}{ip}"),
                        Data::Alias(target) => format!("{owner}->{target}"),
                        Data::Pointer(target) => format!("{owner}@{target}"),
                        Data::Port { port, target, weight } => {
                            format!("{owner}{port}/{target}/{weight}")
                        }
                    }
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        let text = [show(&answer.data), show(&answer.additional)]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join(" + ");
        match (answer.exists, text.is_empty()) {
            (false, _) => "no such name".into(),
            (true, true) => "empty".into(),
            (true, false) => text,
        }
    }

    #[test]
    fn services_have_their_address() {
        assert_eq!(ask("web.ns.svc.cluster.local.", Kind::A), "10.11.0.20");
        assert_eq!(ask("web.ns.svc.cluster.local.", Kind::Other), "empty");
        assert_eq!(ask("no.ns.svc.cluster.local.", Kind::A), "no such name");
        assert_eq!(ask("ns.svc.cluster.local.", Kind::A), "empty");
        assert_eq!(ask("example.com.", Kind::A), "no such name");
        assert_eq!(ask("xcluster.local.", Kind::A), "no such name");
    }

    #[test]
    fn headless_services_have_their_ready_endpoints() {
        assert_eq!(ask("peers.ns.svc.cluster.local.", Kind::A), "10.10.0.5 10.10.0.6");
        assert_eq!(ask("all.ns.svc.cluster.local.", Kind::A), "10.10.0.5 10.10.0.6 10.10.0.7");
        assert_eq!(ask("db-0.peers.ns.svc.cluster.local.", Kind::A), "10.10.0.5");
        assert_eq!(ask("10-10-0-6.peers.ns.svc.cluster.local.", Kind::A), "10.10.0.6");
        assert_eq!(ask("none.ns.svc.cluster.local.", Kind::A), "no such name");
    }

    #[test]
    fn ports_are_found_by_name() {
        assert_eq!(
            ask("_http._tcp.web.ns.svc.cluster.local.", Kind::Srv),
            "80/web.ns.svc.cluster.local/100 + web.ns.svc.cluster.local=10.11.0.20"
        );
        assert_eq!(ask("_http._udp.web.ns.svc.cluster.local.", Kind::Srv), "no such name");
        let peers = "5432/10-10-0-6.peers.ns.svc.cluster.local/50 5432/db-0.peers.ns.svc.cluster.local/50 + 10-10-0-6.peers.ns.svc.cluster.local=10.10.0.6 db-0.peers.ns.svc.cluster.local=10.10.0.5";
        assert_eq!(ask("_db._tcp.peers.ns.svc.cluster.local.", Kind::Srv), peers);
    }

    #[test]
    fn external_names_are_aliases() {
        assert_eq!(ask("out.ns.svc.cluster.local.", Kind::A), "->example.com");
        assert_eq!(
            ask("alias.ns.svc.cluster.local.", Kind::A),
            "->web.ns.svc.cluster.local web.ns.svc.cluster.local=10.11.0.20"
        );
        assert!(ask("loop.ns.svc.cluster.local.", Kind::A).len() < 1000);
    }

    #[test]
    fn addresses_have_names() {
        assert_eq!(ask("20.0.11.10.in-addr.arpa.", Kind::Ptr), "@web.ns.svc.cluster.local");
        assert_eq!(ask("5.0.10.10.in-addr.arpa.", Kind::Ptr), "@db-0.peers.ns.svc.cluster.local");
        assert_eq!(ask("9.9.9.9.in-addr.arpa.", Kind::Ptr), "no such name");
        assert_eq!(ask("10-10-0-6.ns.pod.cluster.local.", Kind::A), "10.10.0.6");
    }
}
