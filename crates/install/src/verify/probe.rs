//! Sends the requests of one check from the client pod, with the `curl` that the pod has, and
//! reads who answered.
//!
//! One `curl` process sends all of them; what it prints is cut at a line that it writes after each
//! answer.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod as KubernetesPod;
use kube::Api;
use kube::api::ListParams;

use super::{Member, Pods, SampleService, Target, VerifyError};
use crate::exec::{self, Container};

/// Begins the line that `curl` writes after each answer.
const MARK: &str = "@@tombolo";
/// The response header in which the sample repeats the client certificate details it received.
const PEER_HEADER: &str = "tombolo-peer";
/// How many clients a crowd has, and how much each asks.
const CROWD: (u32, u32) = (8, 10);

/// A ready pod of a service.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub cluster: String,
    pub network: String,
    pub address: String,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub sent: u32,
    /// (version, pod) to number of answers.
    pub by_pod: BTreeMap<(String, String), u32>,
    /// Reason to number of failures.
    pub failures: BTreeMap<String, u32>,
    /// (server, client) identities, as the server saw them.
    pub identities: BTreeSet<(String, String)>,
    /// Answers to requests without a client certificate.
    pub plaintext: u32,
    /// Answers that do not say how the server saw its client.
    pub silent: u32,
}

impl Answers {
    /// How many requests got no good answer.
    pub fn failed(&self) -> u32 {
        self.failures.values().sum()
    }

    /// Why the identities do not show mutual TLS between exactly two identities.
    pub fn explain_identities(&self) -> String {
        if self.plaintext > 0 {
            return format!(
                "the server saw no client certificate in {} of {} requests",
                self.plaintext, self.sent
            );
        }
        if self.silent > 0 {
            return format!(
                "{} of {} answers do not say how the server saw its client (header {PEER_HEADER}), \
                 and the metrics of its proxy do not either",
                self.silent, self.sent
            );
        }
        if self.identities.is_empty() {
            return "no answer told how the server saw its client".to_owned();
        }
        let seen: Vec<_> = self
            .identities
            .iter()
            .map(|(server, client)| format!("{server} saw {client}"))
            .collect();
        format!("more than one pair of identities was seen: {}", seen.join("; "))
    }
}

/// The ready pods behind a service, in all clusters.
///
/// # Errors
/// When a cluster cannot be asked.
pub async fn pods(target: &Target, service: &SampleService) -> Result<Pods, VerifyError> {
    let mut found = Pods::new();
    for member in &target.members {
        for pod in ready_pods(member, &target.namespace, &format!("app={}", service.name)).await? {
            found.insert(pod.name.clone(), pod);
        }
    }
    Ok(found)
}

/// The client pod of a cluster.
///
/// # Errors
/// When there is none that is ready.
pub async fn client(member: &Member, namespace: &str) -> Result<Container, VerifyError> {
    let ready = ready_pods(member, namespace, "app=sleep").await?;
    let Some(pod) = ready.into_iter().next() else {
        return Err(VerifyError::NoClient {
            cluster: member.cluster.name().to_owned(),
            namespace: namespace.to_owned(),
        });
    };
    Ok(Container { namespace: namespace.to_owned(), pod: pod.name, container: "sleep".to_owned() })
}

async fn ready_pods(
    member: &Member,
    namespace: &str,
    selector: &str,
) -> Result<Vec<Pod>, VerifyError> {
    let api: Api<KubernetesPod> = member.cluster.namespaced(namespace);
    let list = api.list(&ListParams::default().labels(selector)).await.map_err(|error| {
        member.cluster.failed("list", format!("Pod/{namespace} with {selector}"), error)
    })?;
    let ready = |pod: &KubernetesPod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        pod.metadata.deletion_timestamp.is_none()
            && conditions
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    Ok(list
        .items
        .into_iter()
        .filter(ready)
        .filter_map(|pod| {
            Some(Pod {
                name: pod.metadata.name?,
                cluster: member.cluster.name().to_owned(),
                network: member.network.clone(),
                address: pod.status?.pod_ip?,
            })
        })
        .collect())
}

/// Sends the requests of one check.
///
/// # Errors
/// When the command cannot be run in the pod. Requests that fail are counted, not errors.
pub async fn send(
    member: &Member,
    client: &Container,
    target: &Target,
    service: &SampleService,
    canary: &str,
) -> Result<Answers, VerifyError> {
    let url = format!(
        "http://{}.{}:{}{}?canary={canary}&n=[1-{}]",
        service.name, target.namespace, service.port, service.path, target.requests
    );
    let command: Vec<String> = [
        "curl",
        "--silent",
        "--include",
        "--max-time",
        "10",
        "--write-out",
        &format!("\n{MARK} %{{exitcode}} %{{http_code}} %{{errormsg}}\n"),
        &url,
    ]
    .map(str::to_owned)
    .to_vec();
    // curl's own exit code is that of the last request only.
    let output = exec::output(&member.cluster, client, &command, true).await?;
    Ok(read(&output))
}

/// Sends requests from many clients at once, so that the client's proxy needs many connections.
///
/// # Errors
/// As [`send`].
pub async fn crowd(
    member: &Member,
    client: &Container,
    target: &Target,
    service: &SampleService,
) -> Result<Vec<Answers>, VerifyError> {
    let (clients, requests) = CROWD;
    let few = Target { requests, ..target.clone() };
    let all = (0..clients).map(|_| send(member, client, &few, service, "crowd"));
    futures::future::try_join_all(all).await
}

/// Reads what `curl` printed.
fn read(output: &str) -> Answers {
    let mut answers = Answers::default();
    let (mut headers, mut body) = (Vec::new(), String::new());
    let mut in_headers = false;
    for line in output.lines() {
        let line = line.trim_end_matches('\r');
        if let Some(rest) = line.strip_prefix(MARK) {
            answers.count(rest.trim(), &headers, &body);
            headers.clear();
            body.clear();
            in_headers = false;
        } else if line.starts_with("HTTP/") && body.trim().is_empty() {
            // An informational response may come before the real one.
            headers.clear();
            in_headers = true;
        } else if in_headers && line.is_empty() {
            in_headers = false;
        } else if in_headers {
            headers.push(line.to_owned());
        } else {
            body.push_str(line);
            body.push('\n');
        }
    }
    answers
}

impl Answers {
    fn count(&mut self, outcome: &str, headers: &[String], body: &str) {
        self.sent += 1;
        let mut parts = outcome.splitn(3, ' ');
        let (exit, code, message) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        if exit != "0" {
            *self.failures.entry(format!("curl {exit}: {message}")).or_default() += 1;
            return;
        }
        if code != "200" {
            let text = body.trim().lines().next().unwrap_or_default();
            *self.failures.entry(format!("HTTP {code}: {text}")).or_default() += 1;
            return;
        }
        let Some((version, pod)) = who(body) else {
            *self
                .failures
                .entry(format!("an answer that names no version and instance: {}", body.trim()))
                .or_default() += 1;
            return;
        };
        *self.by_pod.entry((version, pod)).or_default() += 1;
        match headers.iter().find_map(|header| identities(header)) {
            Some(Ok(pair)) => {
                self.identities.insert(pair);
            }
            Some(Err(Anonymous)) => self.plaintext += 1,
            None => self.silent += 1,
        }
    }
}

/// `Hello version: v1, instance: helloworld-v1-…`
fn who(body: &str) -> Option<(String, String)> {
    let rest = body.trim().strip_prefix("Hello version: ")?;
    let (version, instance) = rest.split_once(", instance: ")?;
    Some((version.to_owned(), instance.trim().to_owned()))
}

/// A client that showed no certificate.
#[derive(Debug, PartialEq, Eq)]
struct Anonymous;

/// The `By` (server) and `URI` (client) of the last element of an `x-forwarded-client-cert` value
/// that the sample sent back: the hop that the server's own proxy saw. Nothing for other headers.
fn identities(header: &str) -> Option<Result<(String, String), Anonymous>> {
    let (name, value) = header.split_once(':')?;
    if !name.eq_ignore_ascii_case(PEER_HEADER) {
        return None;
    }
    let last = value.trim().rsplit(',').next().unwrap_or_default();
    let field = |key: &str| {
        last.split(';')
            .find_map(|field| {
                field.trim().split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case(key))
            })
            .map(|(_, value)| value.trim_matches('"').to_owned())
    };
    Some(field("By").zip(field("URI")).ok_or(Anonymous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_failures_and_identities_are_told_apart() {
        let output = "HTTP/1.1 200 OK\r\nserver: istio-envoy\r\nTombolo-Peer: By=spiffe://cluster.local/ns/sample/sa/helloworld;Hash=abc;Subject=\"\";URI=spiffe://cluster.local/ns/sample/sa/sleep\r\n\r\nHello version: v1, instance: helloworld-v1-x\n\n@@tombolo 0 200 \nHTTP/1.1 503 Service Unavailable\r\n\r\nno healthy upstream\n@@tombolo 0 503 \n\n@@tombolo 28 000 Operation timed out\nHTTP/1.1 200 OK\r\n\r\nHello version: v2, instance: helloworld-v2-y\n\n@@tombolo 0 200 \nHTTP/1.1 200 OK\r\ntombolo-peer: none\r\n\r\nHello version: v2, instance: helloworld-v2-y\n\n@@tombolo 0 200 \n";
        let answers = read(output);
        assert_eq!(answers.sent, 5);
        assert_eq!(answers.failed(), 2);
        let failures: Vec<_> = answers.failures.keys().map(String::as_str).collect();
        assert_eq!(failures, ["HTTP 503: no healthy upstream", "curl 28: Operation timed out"]);
        let pods: Vec<_> =
            answers.by_pod.keys().map(|(version, pod)| format!("{version} {pod}")).collect();
        assert_eq!(pods, ["v1 helloworld-v1-x", "v2 helloworld-v2-y"]);
        assert_eq!((answers.plaintext, answers.silent), (1, 1));
        let identities: Vec<_> = answers.identities.iter().collect();
        assert_eq!(
            identities,
            [&(
                "spiffe://cluster.local/ns/sample/sa/helloworld".to_owned(),
                "spiffe://cluster.local/ns/sample/sa/sleep".to_owned()
            )]
        );
    }
}
