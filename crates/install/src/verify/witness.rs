//! How servers saw their clients, by the metrics of the servers' own proxies. For applications
//! whose answers do not tell.
//!
//! A proxy counts every request it receives in `istio_requests_total` with the identities of both
//! ends and whether they were proved (Istio: Istio Standard Metrics, `connection_security_policy`).

use std::collections::BTreeMap;

use super::probe::{self, Answers};
use super::{Member, Pods, SampleService, Target, VerifyError};
use crate::exec::Container;
use crate::inspect::reach::{self, PodName};

/// Requests by (server, client) identity; by nothing where no identity was proved.
type Counts = BTreeMap<Option<(String, String)>, u64>;

/// Sends the requests once more and lets the servers' proxies say how they saw the client, for
/// answers of which none did.
///
/// # Errors
/// When a proxy cannot be asked.
pub async fn complete(
    answers: &mut Answers,
    target: &Target,
    member: &Member,
    client: &Container,
    service: &SampleService,
    pods: &Pods,
) -> Result<(), VerifyError> {
    if answers.silent == 0 || answers.silent + answers.failed() != answers.sent {
        return Ok(());
    }
    let before = counts(target, service, pods).await?;
    probe::send(member, client, target, service, "witness").await?;
    let after = counts(target, service, pods).await?;
    let grown = after.into_iter().filter_map(|(pair, count)| {
        let more = count.saturating_sub(before.get(&pair).copied().unwrap_or(0));
        (more > 0).then_some((pair, more))
    });
    for (pair, count) in grown {
        answers.silent = 0;
        match pair {
            Some(pair) => {
                answers.identities.insert(pair);
            }
            None => answers.plaintext += u32::try_from(count).unwrap_or(u32::MAX),
        }
    }
    Ok(())
}

/// What the proxies of all servers have counted.
async fn counts(
    target: &Target,
    service: &SampleService,
    pods: &Pods,
) -> Result<Counts, VerifyError> {
    let mut all = Counts::new();
    for pod in pods.values() {
        let member = target.members.iter().find(|member| member.cluster.name() == pod.cluster);
        let Some(member) = member else { continue };
        let (name, namespace) = (pod.name.clone(), target.namespace.clone());
        let (proxy, path) = (PodName { name, namespace }, "stats/prometheus");
        let text =
            reach::ask_proxy(&member.cluster, &proxy, reach::ADMIN_PORT, "GET", path).await?;
        for (pair, count) in text.lines().filter_map(|line| counted(line, service.name)) {
            *all.entry(pair).or_default() += count;
        }
    }
    Ok(all)
}

/// What a line of metrics says about requests to a service, if it does.
fn counted(line: &str, service: &str) -> Option<(Option<(String, String)>, u64)> {
    let (labels, count) = line.strip_prefix("istio_requests_total{")?.rsplit_once("} ")?;
    let label = |name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    };
    if label("reporter")? != "destination" || label("destination_service_name")? != service {
        return None;
    }
    let count = count.split_whitespace().next()?.parse().ok()?;
    let proved = label("connection_security_policy")? == "mutual_tls";
    let pair = (label("destination_principal")?.to_owned(), label("source_principal")?.to_owned());
    Some((proved.then_some(pair), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_who_was_proved_to_whom() {
        let line = |reporter: &str, security: &str| {
            format!(
                "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"sleep\",source_principal=\"spiffe://a/ns/s/sa/sleep\",destination_principal=\"spiffe://a/ns/s/sa/hello\",destination_service_name=\"helloworld\",response_code=\"200\",connection_security_policy=\"{security}\"}} 7"
            )
        };
        let pair = ("spiffe://a/ns/s/sa/hello".to_owned(), "spiffe://a/ns/s/sa/sleep".to_owned());
        assert_eq!(
            counted(&line("destination", "mutual_tls"), "helloworld"),
            Some((Some(pair), 7))
        );
        assert_eq!(counted(&line("destination", "none"), "helloworld"), Some((None, 7)));
        assert_eq!(counted(&line("source", "unknown"), "helloworld"), None);
        assert_eq!(counted(&line("destination", "mutual_tls"), "other"), None);
        assert_eq!(counted("# TYPE istio_requests_total counter", "helloworld"), None);
    }
}
