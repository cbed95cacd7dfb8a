//! A client that sends the same request many times and says, as one JSON document, who answered
//! how often and how quickly.
//!
//! Every request has a connection of its own, as in a loop of `curl` calls, so that connections
//! are balanced as well as requests. A failed request is a result, not an error of this program.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::output;

/// More of a body is not read.
const MOST_BODY: usize = 64 * 1024;

/// Send requests and print, as one JSON document, who answered.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// What to ask for, by plain HTTP.
    #[arg(long)]
    url: Uri,
    /// How many requests to send.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// How many of them at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: u32,
    /// How long one request may take.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    /// Response headers to report.
    #[arg(long = "header", value_name = "NAME", default_values = ["tombolo-peer", "server"])]
    headers: Vec<String>,
}

/// What the document says.
#[derive(Debug, Serialize, PartialEq)]
struct Report {
    url: String,
    sent: u32,
    failed: u32,
    answers: Vec<Answers>,
    errors: Vec<Errors>,
    #[serde(rename = "latencyMilliseconds")]
    latency: Option<Latency>,
}

/// Answers that are equal in everything that is reported.
#[derive(Debug, Serialize, PartialEq)]
struct Answers {
    #[serde(flatten)]
    answer: Answer,
    count: u32,
}

#[derive(Clone, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    status: u16,
    version: Option<String>,
    instance: Option<String>,
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Errors {
    error: String,
    count: u32,
}

#[derive(Debug, Serialize, PartialEq)]
struct Latency {
    min: f64,
    median: f64,
    max: f64,
}

type Outcome = Result<(Answer, Duration), String>;

impl Flags {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        ensure!(self.url.scheme_str() == Some("http"), "--url must begin with http://");
        ensure!(self.timeout > 0.0 && self.timeout < 3600.0, "--timeout must be above 0");
        let host = self.url.host().context("--url names no host")?.to_owned();
        let shutdown = Shutdown::default();
        let left = Arc::new(AtomicU32::new(self.count));
        // As large as the number of results, so that no sender ever waits.
        let (results, mut received) =
            tokio::sync::mpsc::channel(usize::try_from(self.count).unwrap_or(1));
        let flags = Arc::new(self);
        for _ in 0..flags.concurrency.min(flags.count) {
            let (flags, left, results) = (flags.clone(), left.clone(), results.clone());
            let host = host.clone();
            shutdown.spawn("requests", async move {
                let take = |n: u32| n.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    if results.send(one(&flags, &host).await).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut outcomes = Vec::new();
        while let Some(outcome) = received.recv().await {
            outcomes.push(outcome);
        }
        let report = report(flags.url.to_string(), outcomes);
        output::line(serde_json::to_string(&report).context("print the report")?);
        Ok(ExitCode::SUCCESS)
    }
}

async fn one(flags: &Flags, host: &str) -> Outcome {
    let start = Instant::now();
    let limit = Duration::from_secs_f64(flags.timeout);
    match tokio::time::timeout(limit, ask(flags, host)).await {
        Ok(Ok(answer)) => Ok((answer, start.elapsed())),
        Ok(Err(error)) => Err(chain(error.as_ref()).to_string()),
        Err(_) => Err(format!("no answer within {} s", flags.timeout)),
    }
}

async fn ask(flags: &Flags, host: &str) -> anyhow::Result<Answer> {
    let port = flags.url.port_u16().unwrap_or(80);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.context("connect")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("handshake")?;
    let path = flags.url.path_and_query().map_or("/", |path| path.as_str());
    let authority = flags.url.authority().context("the URL names no host")?;
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::USER_AGENT, "tombolo-probe")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .context("make the request")?;
    let exchange = async {
        let response = sender.send_request(request).await.context("send the request")?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MOST_BODY).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?.to_bytes();
        let (version, instance) = hello(&String::from_utf8_lossy(&body));
        let headers = of_interest(&parts.headers, &flags.headers);
        Ok(Answer { status: parts.status.as_u16(), version, instance, headers })
    };
    // The connection must be driven while the exchange goes on, and may end before it.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = exchange.as_mut() => answer,
        ended = connection => {
            ended.context("connection")?;
            exchange.await
        }
    }
}

fn of_interest(headers: &HeaderMap, names: &[String]) -> BTreeMap<String, String> {
    names
        .iter()
        .filter_map(|name| {
            let value = headers.get(name)?;
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            Some((name.to_ascii_lowercase(), value))
        })
        .collect()
}

/// Version and instance of `Hello version: v1, instance: helloworld-v1-…`.
fn hello(body: &str) -> (Option<String>, Option<String>) {
    let parts = body
        .trim()
        .strip_prefix("Hello version: ")
        .and_then(|rest| rest.split_once(", instance: "));
    match parts {
        Some((version, instance)) => (Some(version.to_owned()), Some(instance.to_owned())),
        None => (None, None),
    }
}

fn report(url: String, outcomes: Vec<Outcome>) -> Report {
    let mut answers: BTreeMap<Answer, u32> = BTreeMap::new();
    let mut errors: BTreeMap<String, u32> = BTreeMap::new();
    let mut times = Vec::new();
    let sent = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
    for outcome in outcomes {
        match outcome {
            Ok((answer, time)) => {
                *answers.entry(answer).or_default() += 1;
                times.push(time);
            }
            Err(error) => *errors.entry(error).or_default() += 1,
        }
    }
    times.sort();
    let milliseconds = |time: Option<&Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
    let latency = milliseconds(times.first())
        .zip(milliseconds(times.get(times.len() / 2)))
        .zip(milliseconds(times.last()))
        .map(|((min, median), max)| Latency { min, median, max });
    let good: u32 =
        answers.iter().filter(|(answer, _)| answer.status == 200).map(|(_, count)| count).sum();
    Report {
        url,
        sent,
        failed: sent - good,
        answers: answers.into_iter().map(|(answer, count)| Answers { answer, count }).collect(),
        errors: errors.into_iter().map(|(error, count)| Errors { error, count }).collect(),
        latency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let (version, instance) = hello(body);
        Answer { status, version, instance, headers: BTreeMap::new() }
    }

    #[test]
    fn answers_are_counted_by_who_gave_them_and_failures_by_reason() {
        let fine =
            |ms| Ok((answer(200, "Hello version: v1, instance: a\n"), Duration::from_millis(ms)));
        let bad = Ok((answer(503, "no healthy upstream"), Duration::from_millis(4)));
        let got = report("http://x/".into(), vec![fine(3), fine(1), bad, Err("connect".into())]);
        let want = serde_json::json!({
            "url": "http://x/", "sent": 4, "failed": 2,
            "answers": [
                {"status": 200, "version": "v1", "instance": "a", "headers": {}, "count": 2},
                {"status": 503, "version": null, "instance": null, "headers": {}, "count": 1}],
            "errors": [{"error": "connect", "count": 1}],
            "latencyMilliseconds": {"min": 1.0, "median": 3.0, "max": 4.0},
        });
        assert_eq!(serde_json::to_value(got).unwrap(), want);
    }
}
