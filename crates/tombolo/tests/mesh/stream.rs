//! A steady stream of requests from inside a pod, and a count of what became of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use parking_lot::Mutex;

use crate::support::eventually;

/// Requests that are under way at a time.
const WORKERS: usize = 4;
/// The pause of a worker between two requests.
const PACE: Duration = Duration::from_millis(40);
/// How long a request may take; longer than a proxy tries to connect.
const LIMIT: Duration = Duration::from_secs(30);

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sent: Instant,
    pub took: Duration,
    /// The pod that answered, or what went wrong.
    pub answer: Result<String, String>,
}

/// Requests to `helloworld` from a pod's network until it is dropped. They go through the pod's
/// sidecar but need neither the API server nor the node.
pub struct Stream {
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Starts the stream in a network namespace.
    pub fn start(network: PathBuf, service: &str) -> Self {
        let (stop, outcomes) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let address: SocketAddr = format!("{service}:5000").parse().unwrap();
        let workers = (0..WORKERS).map(|_| {
            let (stop, outcomes, network) =
                (Arc::clone(&stop), Arc::clone(&outcomes), File::open(&network).unwrap());
            std::thread::spawn(move || work(&network, address, &stop, &outcomes))
        });
        let workers = workers.collect();
        Self { stop, outcomes, workers }
    }

    /// What became of the requests that were sent since `from`, of those that are over.
    pub fn since(&self, from: Instant) -> Vec<Outcome> {
        self.outcomes.lock().iter().filter(|outcome| outcome.sent >= from).cloned().collect()
    }

    /// Waits until the last requests have all been answered, by pods of both clusters. Returns how
    /// long that took.
    #[track_caller]
    pub fn recovers(&self, after: &str) -> Duration {
        const ENOUGH: usize = 40;
        let started = Instant::now();
        eventually(&format!("traffic after {after}"), || {
            let seen = self.since(started);
            let last = &seen[seen.len().saturating_sub(ENOUGH)..];
            let tally = tally(last);
            let both = ["v1", "v2"].iter().all(|v| tally.versions.contains(*v));
            if last.len() == ENOUGH && tally.failures.is_empty() && both {
                return Ok(());
            }
            Err(format!("{tally:?} of {}", last.len()))
        });
        started.elapsed()
    }

    /// Waits until a pod answers that did not before `from`.
    #[track_caller]
    pub fn newcomer(&self, from: Instant) -> String {
        let before: BTreeSet<String> = {
            let all = self.outcomes.lock();
            all.iter().filter(|o| o.sent < from).filter_map(|o| o.answer.clone().ok()).collect()
        };
        eventually("a new pod to answer", || {
            let new = self.since(from).into_iter().filter_map(|outcome| outcome.answer.ok());
            new.into_iter()
                .find(|pod| !before.contains(pod))
                .ok_or_else(|| format!("only {before:?}"))
        })
    }

    /// Waits until this many requests were sent and answered since `from`, and fails with the
    /// first that failed. Both clusters must have answered.
    #[track_caller]
    pub fn holds(&self, while_: &str, from: Instant, requests: usize) {
        let seen = eventually(&format!("{requests} requests while {while_}"), || {
            let seen = self.since(from);
            if seen.len() >= requests { Ok(seen) } else { Err(seen.len().to_string()) }
        });
        let tally = tally(&seen);
        assert!(tally.failures.is_empty(), "failed while {while_}: {}", told(&seen, from));
        let both: BTreeSet<_> = ["v1", "v2"].map(str::to_owned).into();
        assert!(tally.versions.is_superset(&both), "while {while_}: {tally:?}");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                writeln!(io::stderr(), "a worker of the stream failed").unwrap();
            }
        }
    }
}

/// The versions that answered, and what went wrong.
#[derive(Debug, Default)]
pub struct Tally {
    pub versions: BTreeSet<String>,
    pub failures: Vec<String>,
}

pub fn tally(outcomes: &[Outcome]) -> Tally {
    let mut tally = Tally::default();
    for outcome in outcomes {
        match &outcome.answer {
            Ok(pod) => {
                let version = pod.split('-').nth(1).unwrap_or_default();
                tally.versions.insert(version.to_owned());
            }
            Err(error) => tally.failures.push(error.clone()),
        }
    }
    tally
}

/// Failures with their times, for a message.
pub fn told(outcomes: &[Outcome], from: Instant) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        if let Err(error) = &outcome.answer {
            let at = outcome.sent.duration_since(from);
            write!(text, "\n  at {at:.1?} after {:.1?}: {error}", outcome.took).unwrap();
        }
    }
    text
}

fn work(network: &File, address: SocketAddr, stop: &AtomicBool, outcomes: &Mutex<Vec<Outcome>>) {
    nix::sched::setns(network, CloneFlags::CLONE_NEWNET).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let answer = request(address).map_err(|error| error.to_string());
        let answer = answer.and_then(|text| instance(&text).ok_or(text));
        outcomes.lock().push(Outcome { sent, took: sent.elapsed(), answer });
        std::thread::sleep(PACE);
    }
}

fn request(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(
        b"GET /hello HTTP/1.1\r\nHost: helloworld.sample:5000\r\nConnection: close\r\n\r\n",
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The pod in `Hello version: v1, instance: helloworld-v1-…` of a good answer.
fn instance(answer: &str) -> Option<String> {
    let good = answer.starts_with("HTTP/1.1 200 ");
    let (_, pod) = answer.split_once("instance: ")?;
    good.then(|| pod.split_whitespace().next().unwrap_or_default().to_owned())
}
