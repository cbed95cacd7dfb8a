//! Resolves the names of upstreams whose endpoints are DNS names, again and again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::endpoints::{Assignment, EndpointConfig, Locality};
use crate::config::upstream::{DnsSource, Family, Source};
use crate::connect::upstream::Upstream;
use crate::proxy::Proxy;

/// How often to look whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a name server may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Resolves until the process drains. A name that cannot be resolved keeps its last addresses.
pub async fn run(proxy: Arc<Proxy>) {
    let mut changed = proxy.changed.subscribe();
    let mut due: HashMap<String, (Arc<Upstream>, Instant)> = HashMap::new();
    loop {
        let snapshot = proxy.snapshot.load_full();
        due.retain(|name, _| snapshot.upstreams.contains_key(name.as_str()));
        let mut wanted = Vec::new();
        for upstream in snapshot.upstreams.values() {
            let Source::Dns(source) = &upstream.config.source else { continue };
            let name = &upstream.config.name;
            let known = due.get(name).filter(|(known, _)| Arc::ptr_eq(known, upstream));
            if known.is_some_and(|(_, next)| *next > Instant::now()) {
                continue;
            }
            wanted.push(async move { (upstream, source, resolve(source).await) });
        }
        // All at once: a name server that does not answer holds up no other name.
        let all = futures::future::join_all(wanted);
        let resolved = tokio::select! {
            () = proxy.shutdown.draining() => return,
            resolved = all => resolved,
        };
        for (upstream, source, assignment) in resolved {
            if let Some(assignment) = assignment {
                upstream.update(&assignment);
            }
            let next = Instant::now() + source.refresh;
            due.insert(upstream.config.name.clone(), (upstream.clone(), next));
        }
        let idle = due.is_empty();
        tokio::select! {
            () = proxy.shutdown.draining() => return,
            result = changed.changed() => if result.is_err() { return },
            () = tokio::time::sleep(TICK), if !idle => {}
        }
    }
}

async fn resolve(source: &DnsSource) -> Option<Assignment> {
    let mut endpoints = Vec::new();
    for (host, port, weight, transport_match) in &source.names {
        let looking = tokio::net::lookup_host((host.as_str(), *port));
        let found = match tokio::time::timeout(LIMIT, looking).await {
            Ok(Ok(found)) => chosen(source, found.collect()),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "name cannot be resolved");
                return None;
            }
            Err(_) => {
                tracing::debug!(host, "the name server does not answer");
                return None;
            }
        };
        endpoints.extend(found.into_iter().map(|address| EndpointConfig {
            address,
            weight: *weight,
            healthy: true,
            transport_match: transport_match.clone(),
            workload: None,
        }));
    }
    let localities = vec![Locality { priority: 0, weight: 0, endpoints }];
    Some(Assignment { localities, overprovisioning: 140 })
}

/// The addresses of a name that are used, by family; only one of them for a logical name.
fn chosen(source: &DnsSource, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort();
    found.dedup();
    let (v4, v6): (Vec<_>, Vec<_>) = found.iter().copied().partition(SocketAddr::is_ipv4);
    let either = |first: Vec<_>, second| if first.is_empty() { second } else { first };
    let mut chosen = match source.family {
        Family::V4 => v4,
        Family::V6 => v6,
        Family::V6First => either(v6, v4),
        Family::V4First => either(v4, v6),
        Family::All => found,
    };
    if source.logical {
        chosen.truncate(1);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_yields_the_addresses_of_the_wanted_family() {
        let names = vec![("localhost".to_owned(), 80, 2, Vec::new())];
        let refresh = Duration::from_secs(5);
        let source = DnsSource { names, refresh, logical: true, family: Family::V4 };
        let assignment = resolve(&source).await.unwrap();
        let want = Locality {
            priority: 0,
            weight: 0,
            endpoints: vec![EndpointConfig {
                address: "127.0.0.1:80".parse().unwrap(),
                weight: 2,
                healthy: true,
                transport_match: Vec::new(),
                workload: None,
            }],
        };
        assert_eq!(assignment.localities, [want]);
    }
}
