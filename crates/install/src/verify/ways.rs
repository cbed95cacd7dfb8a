//! By which way requests went: read from the client's own proxy, which counts requests per
//! upstream address.
//!
//! The admin endpoint `/clusters` of Envoy and of our proxy has a line
//! `<upstream>::<address>::rq_total::<n>` per address. The difference over a check tells where its
//! requests went.

use std::collections::{BTreeMap, BTreeSet};

use super::{Member, SampleService, VerifyError};
use crate::exec::{self, Container};

/// The port that gateways pass mutual TLS through on.
const GATEWAY_PORT: &str = ":15443";

/// The addresses that requests went to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub gateways: BTreeSet<String>,
    pub direct: BTreeSet<String>,
}

/// Counts from a start to a finish.
#[derive(Debug)]
pub struct Meter<'a> {
    member: &'a Member,
    client: Container,
    upstream: String,
    before: BTreeMap<String, u64>,
}

impl<'a> Meter<'a> {
    /// Reads the counters before requests are sent.
    ///
    /// # Errors
    /// When the client's proxy cannot be asked.
    pub async fn start(
        member: &'a Member,
        client: &Container,
        namespace: &str,
        service: &SampleService,
    ) -> Result<Self, VerifyError> {
        let upstream =
            format!("outbound|{}||{}.{namespace}.svc.cluster.local", service.port, service.name);
        let before = read(member, client, &upstream).await?;
        Ok(Self { member, client: client.clone(), upstream, before })
    }

    /// Reads them again: the addresses whose counters grew are the way.
    ///
    /// # Errors
    /// When the client's proxy cannot be asked.
    pub async fn finish(self) -> Result<Way, VerifyError> {
        let after = read(self.member, &self.client, &self.upstream).await?;
        Ok(way(&self.before, &after))
    }
}

fn way(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Way {
    let mut way = Way::default();
    for (address, count) in after {
        if *count <= before.get(address).copied().unwrap_or(0) {
            continue;
        }
        if address.ends_with(GATEWAY_PORT) {
            way.gateways.insert(address.clone());
        } else {
            way.direct.insert(address.clone());
        }
    }
    way
}

async fn read(
    member: &Member,
    client: &Container,
    upstream: &str,
) -> Result<BTreeMap<String, u64>, VerifyError> {
    let command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        "http://127.0.0.1:15000/clusters",
    ]
    .map(str::to_owned);
    let text = exec::output(&member.cluster, client, &command, false).await?;
    Ok(requests(&text, upstream))
}

/// Requests per address of one upstream.
fn requests(clusters: &str, upstream: &str) -> BTreeMap<String, u64> {
    clusters
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(upstream)?.strip_prefix("::")?;
            let (address, count) = rest.split_once("::rq_total::")?;
            Some((address.to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_got_requests_are_the_way() {
        let upstream = "outbound|5000||helloworld.sample.svc.cluster.local";
        let text = |local: u64, gateway: u64| {
            format!(
                "{upstream}::default_priority::max_connections::4294967295\n{upstream}::10.10.0.9:5000::rq_total::{local}\n{upstream}::10.10.0.8:5000::rq_total::7\n{upstream}::172.18.12.1:15443::rq_total::{gateway}\n{upstream}::172.18.12.1:15443::rq_error::3\nother::10.9.9.9:1::rq_total::99\n"
            )
        };
        let way = way(&requests(&text(5, 0), upstream), &requests(&text(105, 95), upstream));
        assert_eq!(
            way,
            Way {
                gateways: BTreeSet::from(["172.18.12.1:15443".to_owned()]),
                direct: BTreeSet::from(["10.10.0.9:5000".to_owned()])
            }
        );
    }
}
