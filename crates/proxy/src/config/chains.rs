//! Which filter chain of a listener takes a connection.
//!
//! Criteria are applied one after the other, in Envoy's order, and each keeps only the chains that
//! fit it most specifically: destination port, destination address, server name, transport
//! protocol, application protocol, source address, source type, source port. There is no way
//! back: a chain that is dropped by an early criterion is not tried again when a later one fails.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tombolo_xds::proto::envoy::config::listener::v3 as lds;
use tombolo_xds::proto::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;

use crate::config::convert::range;
use crate::config::problem::{Problem, each};

/// The criteria of one chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Criteria {
    pub port: Option<u16>,
    pub destinations: Vec<IpNet>,
    /// In lower case; a wildcard is kept as `.example.com`.
    pub server_names: Vec<String>,
    pub transport: String,
    pub alpn: Vec<String>,
    pub direct_sources: Vec<IpNet>,
    pub source_type: SourceType,
    pub sources: Vec<IpNet>,
    pub source_ports: Vec<u16>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    #[default]
    Any,
    Local,
    External,
}

/// What is known about a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub destination: SocketAddr,
    pub source: SocketAddr,
    pub server_name: &'a str,
    pub transport: &'a str,
    pub alpn: &'a [String],
}

/// Reads the criteria of a chain.
pub fn criteria(config: Option<&lds::FilterChainMatch>) -> Result<Criteria, Problem> {
    let Some(config) = config else { return Ok(Criteria::default()) };
    let port = config.destination_port.map(|port| port.value);
    let ports = |ports: &[u32]| each("source_ports", ports, |port| narrow(*port));
    Ok(Criteria {
        port: port.map(narrow).transpose().map_err(|p| p.inside("destination_port"))?,
        destinations: each("prefix_ranges", &config.prefix_ranges, range)?,
        server_names: each("server_names", &config.server_names, server_name)?,
        transport: config.transport_protocol.clone(),
        alpn: config.application_protocols.clone(),
        direct_sources: each(
            "direct_source_prefix_ranges",
            &config.direct_source_prefix_ranges,
            range,
        )?,
        source_type: match config.source_type() {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::Local,
            ConnectionSourceType::External => SourceType::External,
        },
        sources: each("source_prefix_ranges", &config.source_prefix_ranges, range)?,
        source_ports: ports(&config.source_ports)?,
    })
}

fn narrow(port: u32) -> Result<u16, Problem> {
    u16::try_from(port).map_err(|_| Problem::new(format!("{port} is not a port")))
}

fn server_name(name: impl AsRef<str>) -> Result<String, Problem> {
    let name = name.as_ref().to_ascii_lowercase();
    match name.strip_prefix('*') {
        Some(rest) if rest.starts_with('.') && rest.len() > 1 => Ok(rest.to_owned()),
        Some(_) => Err(Problem::new(format!("`{name}` is not supported as a wildcard"))),
        None if name.contains('*') => Err(Problem::new(format!("`{name}` has a wildcard inside"))),
        None => Ok(name),
    }
}

/// The chains of a listener, arranged for matching.
#[derive(Debug)]
pub struct Chains<T> {
    chains: Vec<(Criteria, Arc<T>)>,
    ports: HashMap<u16, ByAddress>,
    any_port: Option<ByAddress>,
    default: Option<Arc<T>>,
}

/// Chains by destination range, longest prefix first. Chains without a range come last.
#[derive(Debug, Default)]
struct ByAddress(Vec<(Option<IpNet>, ByName)>);

/// Chains by server name; those without one are under the empty name.
type ByName = HashMap<Box<str>, Vec<usize>>;

impl ByAddress {
    fn add(&mut self, index: usize, criteria: &Criteria) {
        let ranges: Vec<_> = match criteria.destinations.as_slice() {
            [] => vec![None],
            ranges => ranges.iter().copied().map(Some).collect(),
        };
        for range in ranges {
            let at = match self.0.iter().position(|(known, _)| *known == range) {
                Some(at) => at,
                None => {
                    self.0.push((range, HashMap::new()));
                    self.0.len() - 1
                }
            };
            let names = &mut self.0[at].1;
            match criteria.server_names.as_slice() {
                [] => names.entry("".into()).or_default().push(index),
                all => all.iter().for_each(|name| {
                    names.entry(name.as_str().into()).or_default().push(index);
                }),
            }
        }
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|(range, _)| std::cmp::Reverse(range.map(|range| range.prefix_len())));
    }

    fn by_name(&self, destination: IpAddr, server_name: &str) -> Option<&[usize]> {
        let contains =
            |range: &Option<IpNet>| range.is_none_or(|range| range.contains(&destination));
        let (_, names) = self.0.iter().find(|(range, _)| contains(range))?;
        if let Some(found) = names.get(server_name) {
            return Some(found);
        }
        let mut rest = server_name;
        while let Some(dot) = rest.get(1..).and_then(|rest| rest.find('.')) {
            rest = &rest[dot + 1..];
            if rest.len() > 1
                && let Some(found) = names.get(rest)
            {
                return Some(found);
            }
        }
        names.get("").map(Vec::as_slice)
    }
}

impl<T> Chains<T> {
    /// Arranges chains. Two chains with the same criteria are a problem.
    pub fn new(chains: Vec<(Criteria, Arc<T>)>, default: Option<Arc<T>>) -> Result<Self, Problem> {
        let mut all = Self { chains, ports: HashMap::new(), any_port: None, default };
        let mut seen: HashMap<&Criteria, usize> = HashMap::new();
        for (index, (criteria, _)) in all.chains.iter().enumerate() {
            if let Some(first) = seen.insert(criteria, index) {
                return Err(Problem::new(format!(
                    "has the same criteria as filter_chains[{first}]"
                ))
                .inside(format_args!("filter_chains[{index}].filter_chain_match")));
            }
            let by_address = match criteria.port {
                Some(port) => all.ports.entry(port).or_default(),
                None => all.any_port.get_or_insert_default(),
            };
            by_address.add(index, criteria);
        }
        all.ports.values_mut().for_each(ByAddress::sort);
        all.any_port.iter_mut().for_each(ByAddress::sort);
        Ok(all)
    }

    /// The chain that takes the connection.
    pub fn find(&self, facts: Facts<'_>) -> Option<&Arc<T>> {
        let by_address = self.ports.get(&facts.destination.port()).or(self.any_port.as_ref());
        by_address
            .and_then(|by_address| self.narrow_down(by_address, facts))
            .or(self.default.as_ref())
    }

    fn narrow_down(&self, by_address: &ByAddress, facts: Facts<'_>) -> Option<&Arc<T>> {
        let names = by_address.by_name(facts.destination.ip(), facts.server_name)?;
        let candidates: Vec<&(Criteria, Arc<T>)> =
            names.iter().map(|index| &self.chains[*index]).collect();
        let candidates = by_transport(candidates, facts.transport);
        let candidates = by_alpn(candidates, facts.alpn);
        let candidates = longest(candidates, facts.source.ip(), |c| &c.direct_sources);
        let candidates = by_source_type(candidates, facts);
        let candidates = longest(candidates, facts.source.ip(), |c| &c.sources);
        let exact = candidates.iter().find(|(c, _)| c.source_ports.contains(&facts.source.port()));
        let any = || candidates.iter().find(|(c, _)| c.source_ports.is_empty());
        exact.or_else(any).map(|(_, chain)| chain)
    }

    /// Every chain, the default last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.chains.iter().map(|(_, chain)| chain).chain(&self.default)
    }
}

type Candidates<'a, T> = Vec<&'a (Criteria, Arc<T>)>;

fn by_transport<'a, T>(chains: Candidates<'a, T>, transport: &str) -> Candidates<'a, T> {
    let (exact, rest): (Vec<_>, Vec<_>) =
        chains.into_iter().partition(|(c, _)| c.transport == transport);
    if exact.is_empty() {
        return rest.into_iter().filter(|(c, _)| c.transport.is_empty()).collect();
    }
    exact
}

fn by_alpn<'a, T>(chains: Candidates<'a, T>, offered: &[String]) -> Candidates<'a, T> {
    for protocol in offered {
        let fits: Vec<_> =
            chains.iter().copied().filter(|(c, _)| c.alpn.contains(protocol)).collect();
        if !fits.is_empty() {
            return fits;
        }
    }
    chains.into_iter().filter(|(c, _)| c.alpn.is_empty()).collect()
}

fn by_source_type<'a, T>(chains: Candidates<'a, T>, facts: Facts<'_>) -> Candidates<'a, T> {
    let local = facts.source.ip().is_loopback() || facts.source.ip() == facts.destination.ip();
    let wanted = if local { SourceType::Local } else { SourceType::External };
    let of = |wanted| move |(c, _): &&(Criteria, Arc<T>)| c.source_type == wanted;
    let exact: Vec<_> = chains.iter().copied().filter(of(wanted)).collect();
    if exact.is_empty() {
        return chains.into_iter().filter(of(SourceType::Any)).collect();
    }
    exact
}

/// The chains with the longest range that contains `ip`; chains without a range if none does.
fn longest<'a, T>(
    chains: Candidates<'a, T>,
    ip: IpAddr,
    ranges: impl Fn(&Criteria) -> &Vec<IpNet>,
) -> Candidates<'a, T> {
    let fit = |criteria: &Criteria| {
        let fits = ranges(criteria).iter().filter(|range| range.contains(&ip));
        fits.map(|range| range.prefix_len()).max()
    };
    let best = chains.iter().filter_map(|(c, _)| fit(c)).max();
    chains
        .into_iter()
        .filter(|(c, _)| match best {
            Some(_) => fit(c) == best,
            None => ranges(c).is_empty(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(list: &[(&str, Criteria)]) -> Chains<String> {
        let chain =
            |(name, criteria): &(&str, Criteria)| (criteria.clone(), Arc::new((*name).to_owned()));
        Chains::new(list.iter().map(chain).collect(), None).unwrap()
    }

    fn find(chains: &Chains<String>, port: u16, name: &str, tls: bool, alpn: &[&str]) -> String {
        let alpn: Vec<_> = alpn.iter().map(|name| (*name).to_owned()).collect();
        let facts = Facts {
            destination: SocketAddr::from(([10, 0, 0, 1], port)),
            source: SocketAddr::from(([10, 0, 0, 2], 40000)),
            server_name: name,
            transport: if tls { "tls" } else { "raw_buffer" },
            alpn: &alpn,
        };
        chains.find(facts).map_or("none".to_owned(), |chain| chain.to_string())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_port_of_its_own_excludes_the_chains_without_one() {
        let tls = Criteria { port: Some(80), transport: "tls".into(), ..Criteria::default() };
        let list = chains(&[("any", Criteria::default()), ("tls 80", tls)]);
        assert_eq!(find(&list, 80, "", true, &[]), "tls 80");
        assert_eq!(find(&list, 80, "", false, &[]), "none");
        assert_eq!(find(&list, 81, "", false, &[]), "any");
    }

    #[test]
    fn a_server_name_fits_exactly_or_by_the_longest_wildcard() {
        let name = |name: &str| Criteria {
            server_names: vec![server_name(name).unwrap()],
            ..Criteria::default()
        };
        let list = chains(&[
            ("exact", name("a.b.example")),
            ("near", name("*.b.example")),
            ("far", name("*.example")),
            ("none named", Criteria::default()),
        ]);
        assert_eq!(find(&list, 1, "a.b.example", true, &[]), "exact");
        assert_eq!(find(&list, 1, "x.b.example", true, &[]), "near");
        assert_eq!(find(&list, 1, "x.y.b.example", true, &[]), "near");
        assert_eq!(find(&list, 1, "x.example", true, &[]), "far");
        assert_eq!(find(&list, 1, "example", true, &[]), "none named");
        assert_eq!(find(&list, 1, "", true, &[]), "none named");
    }

    #[test]
    fn a_gateway_takes_only_its_names_with_mesh_protocols() {
        let sni = Criteria {
            server_names: names(&["outbound_.80_._.a.ns.svc.cluster.local"]),
            alpn: names(&["istio", "istio-h2"]),
            ..Criteria::default()
        };
        let list = chains(&[("a", sni)]);
        let sni = "outbound_.80_._.a.ns.svc.cluster.local";
        assert_eq!(find(&list, 15443, sni, true, &["istio-h2"]), "a");
        assert_eq!(find(&list, 15443, sni, true, &["h2"]), "none");
        assert_eq!(find(&list, 15443, sni, true, &[]), "none");
        assert_eq!(
            find(&list, 15443, "outbound_.80_._.b.ns.svc.cluster.local", true, &["istio"]),
            "none"
        );
    }

    #[test]
    fn permissive_inbound_tells_mesh_http_plain_http_and_foreign_tls_apart() {
        let chain = |transport: &str, alpn: &[&str]| Criteria {
            port: Some(80),
            transport: transport.into(),
            alpn: names(alpn),
            ..Criteria::default()
        };
        let list = chains(&[
            ("mesh http", chain("tls", &["istio-http/1.1", "istio-h2"])),
            ("plain http", chain("raw_buffer", &["http/1.1", "h2c"])),
            ("mesh tcp", chain("tls", &["istio-peer-exchange", "istio"])),
            ("plain tcp", chain("raw_buffer", &[])),
            ("own tls", chain("tls", &[])),
        ]);
        assert_eq!(
            find(&list, 80, "", true, &["istio-http/1.1", "istio", "http/1.1"]),
            "mesh http"
        );
        assert_eq!(find(&list, 80, "", true, &["istio"]), "mesh tcp");
        assert_eq!(find(&list, 80, "", true, &["h2"]), "own tls");
        assert_eq!(find(&list, 80, "", false, &["http/1.1"]), "plain http");
        assert_eq!(find(&list, 80, "", false, &[]), "plain tcp");
    }

    #[test]
    fn the_same_criteria_twice_are_refused() {
        let twice = vec![(Criteria::default(), Arc::new(1)), (Criteria::default(), Arc::new(2))];
        let problem = Chains::new(twice, None).unwrap_err();
        let want = "filter_chains[1].filter_chain_match: has the same criteria as filter_chains[0]";
        assert_eq!(problem.to_string(), want);
    }
}
