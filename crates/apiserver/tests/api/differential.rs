//! The same requests, one after the other, to this server and to a real kube-apiserver: status
//! codes, refusals, objects and watch events have to be equal.
//!
//! The requests are data: every file in `cases/` is one story, played in a namespace that it makes
//! for itself. Differences that are known stand in `known-differences.txt` by the name of the
//! step; one that is gone has to be taken out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use http::{Method, Request};
use kube::client::Body;
use serde_json::Value;

use crate::harness::{Cluster, eventually, needs};

mod normal;
mod real;
mod story;

use real::Real;
use story::Step;

/// What a server answered, without what differs from run to run.
#[derive(Debug, PartialEq)]
struct Answer {
    code: u16,
    body: Value,
}

#[tokio::test]
async fn every_request_is_answered_as_kubernetes_answers_it() {
    if !needs(&["etcd", "kube-apiserver"]) {
        return;
    }
    let (ours, real) = (Cluster::start().await, Real::start().await);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/cases");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let mut different = BTreeMap::new();
    let mut names = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let topic = file.file_stem().unwrap().to_string_lossy().into_owned();
        let (mut own_saved, mut real_saved) = (BTreeMap::new(), BTreeMap::new());
        for step in story::parse(&text) {
            let name = format!("{topic}: {}", step.name);
            assert!(names.insert(name.clone()), "two steps are named `{name}`");
            let client = ours.client(&step.user).await;
            let own = play(&client, &step, &mut own_saved).await;
            let client = real.client(&step.user).await;
            let want = play(&client, &step, &mut real_saved).await;
            let mut found = Vec::new();
            if own.code != want.code {
                found.push(format!("code: ours {} real {}", own.code, want.code));
            }
            if !step.is_given() {
                normal::differences("", &own.body, &want.body, &mut found);
            }
            if !found.is_empty() {
                different.insert(name, found);
            }
        }
    }
    judge(different, names.len());
}

/// Compares what differs with what is known to.
fn judge(mut different: BTreeMap<String, Vec<String>>, steps: usize) {
    let known: BTreeSet<String> = include_str!("known-differences.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(" -- ").next().unwrap_or(line).to_owned())
        .collect();
    let gone: Vec<&String> = known.iter().filter(|name| !different.contains_key(*name)).collect();
    let gone = format!("known differences that are gone: {gone:#?}");
    different.retain(|name, _| !known.contains(name));
    let report: Vec<String> = different
        .iter()
        .map(|(name, found)| format!("{name}\n    {}", found.join("\n    ")))
        .collect();
    assert!(
        report.is_empty(),
        "{} of {steps} steps differ:\n{}\n{gone}",
        report.len(),
        report.join("\n")
    );
    assert!(gone.ends_with("[]"), "{gone}");
}

/// Sends a request; a path with `until=CODE` is sent again until that code comes, because some
/// things take effect a moment later.
async fn send(
    client: &kube::Client,
    step: &Step,
    request: &Request<Vec<u8>>,
) -> http::Response<Body> {
    let until = step.path.split_once("until=").map(|(_, code)| code.parse::<u16>().unwrap());
    let (mut answer, mut tries) = (None, 0);
    eventually(&step.name, async || {
        tries += 1;
        let request = request.clone().map(Body::from);
        let response = client.send(request).await.unwrap();
        let settled = until.is_none_or(|code| response.status() == code) || tries == 50;
        answer = Some(response);
        settled
    })
    .await;
    answer.unwrap()
}

/// Sends one request; remembers what later steps refer to.
async fn play(client: &kube::Client, step: &Step, saved: &mut BTreeMap<String, String>) -> Answer {
    let fill = |text: &str| {
        saved.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value)
        })
    };
    let mut request =
        Request::builder().method(step.method.parse::<Method>().unwrap()).uri(fill(&step.path));
    for (name, value) in &step.headers {
        request = request.header(name, fill(value));
    }
    let request = request.body(fill(&step.body).into_bytes()).unwrap();
    let response = send(client, step, &request).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await.unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let body = if step.path.contains("watch=") {
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    } else {
        serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()))
    };
    for (name, pointer) in &step.saves {
        let value = body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        saved.insert(name.clone(), value.to_owned());
    }
    Answer { code, body: normal::normal(body) }
}
