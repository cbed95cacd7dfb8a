//! Startup, liveness and readiness probes of one run of a container.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::{mpsc, watch};
use tombolo_runtime::shutdown::Shutdown;

use crate::node::pod::hooks::{Answer, Asked};
use crate::node::pod::work::Happening;

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What a probe found that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It answers well, `successThreshold` times in a row.
    Good,
    /// It failed once; the text says how.
    Unhealthy(String),
    /// It failed `failureThreshold` times in a row.
    Bad,
}

/// When a probe asks, and how many answers it takes to be sure.
#[derive(Clone, Copy, Debug)]
struct Pace {
    delay: Duration,
    period: Duration,
    limit: Duration,
    successes: u32,
    failures: u32,
}

impl Pace {
    fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let seconds = |value, default| Duration::from_secs(u64::from(number(value, default)));
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            limit: seconds(probe.timeout_seconds, 1),
            successes: number(probe.success_threshold, 1),
            failures: number(probe.failure_threshold, 3),
        }
    }
}

/// Asks until the run ends or nobody listens, and reports what matters.
///
/// Liveness and readiness wait until `started` says that the container has started.
pub(crate) fn start(
    kind: Kind,
    probe: Probe,
    asked: Asked,
    started: watch::Receiver<bool>,
    found: mpsc::Sender<Happening>,
    shutdown: &Shutdown,
) {
    let process = std::sync::Arc::clone(&asked.process);
    let id = process.id.clone();
    let name = asked.container.name.clone();
    let pace = Pace::of(&probe);
    let task = async move {
        let ask = || ask(&probe, &asked, pace.limit);
        let report = |finding| {
            let happening =
                Happening::Probed { container: name.clone(), id: id.clone(), kind, finding };
            let found = found.clone();
            async move { found.send(happening).await.is_ok() }
        };
        tokio::select! {
            () = watch_over(kind, pace, started, ask, report) => (),
            () = process.ended() => (),
        }
    };
    shutdown.spawn("probe", task);
}

async fn watch_over<A, R>(
    kind: Kind,
    pace: Pace,
    mut started: watch::Receiver<bool>,
    ask: impl Fn() -> A,
    report: impl Fn(Finding) -> R,
) where
    A: Future<Output = Answer>,
    R: Future<Output = bool>,
{
    if kind != Kind::Startup && started.wait_for(|started| *started).await.is_err() {
        return;
    }
    tokio::time::sleep(pace.delay).await;
    let mut ticks = tokio::time::interval(pace.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut good, mut bad) = (0, 0);
    loop {
        ticks.tick().await;
        match ask().await {
            Ok(_) => (good, bad) = (good + 1, 0),
            Err(text) => {
                (good, bad) = (0, bad + 1);
                if !report(Finding::Unhealthy(text)).await {
                    return;
                }
            }
        }
        let finding = match (good == pace.successes, bad == pace.failures) {
            (true, _) => Finding::Good,
            (_, true) => Finding::Bad,
            _ => continue,
        };
        let over = kind != Kind::Readiness && finding == Finding::Bad
            || kind == Kind::Startup && finding == Finding::Good;
        if !report(finding).await || over {
            return;
        }
    }
}

async fn ask(probe: &Probe, asked: &Asked, limit: Duration) -> Answer {
    let answer = async {
        if let Some(exec) = &probe.exec {
            return asked.exec(exec).await;
        }
        if let Some(get) = &probe.http_get {
            return asked.http(get).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            return asked.tcp(tcp.host.as_deref(), &tcp.port).await;
        }
        if let Some(grpc) = &probe.grpc {
            return asked.grpc(grpc.port, grpc.service.as_deref().unwrap_or_default()).await;
        }
        Err("the probe names no way to ask".into())
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Runs a probe over the answers (`+` good, `-` bad) and tells what it reported.
    async fn findings(kind: Kind, answers: &str, pace: Pace) -> String {
        let (_started, receiver) = watch::channel(true);
        let left = RefCell::new(answers.chars());
        let told = RefCell::new(String::new());
        let over = &tokio::sync::Notify::new();
        let ask = || {
            let next = left.borrow_mut().next();
            async move {
                match next {
                    Some('+') => Ok(String::new()),
                    Some(_) => Err(String::new()),
                    None => {
                        over.notify_one();
                        std::future::pending().await
                    }
                }
            }
        };
        let report = |finding| {
            told.borrow_mut().push(match finding {
                Finding::Good => 'G',
                Finding::Unhealthy(_) => 'u',
                Finding::Bad => 'B',
            });
            async { true }
        };
        tokio::select! {
            () = watch_over(kind, pace, receiver, ask, report) => (),
            () = over.notified() => (),
        }
        told.into_inner()
    }

    const PACE: Pace = Pace {
        delay: Duration::from_millis(1),
        period: Duration::from_millis(1),
        limit: Duration::from_secs(1),
        successes: 1,
        failures: 2,
    };

    #[tokio::test]
    async fn a_readiness_probe_reports_each_change_once() {
        assert_eq!(findings(Kind::Readiness, "++-+--+", PACE).await, "GuGuuBG");
    }

    #[tokio::test]
    async fn a_startup_probe_ends_with_the_first_success() {
        assert_eq!(findings(Kind::Startup, "-+--", PACE).await, "uG");
    }

    #[tokio::test]
    async fn a_liveness_probe_ends_when_it_has_condemned() {
        assert_eq!(findings(Kind::Liveness, "+---", PACE).await, "GuuB");
    }

    #[tokio::test]
    async fn readiness_may_need_several_successes() {
        assert_eq!(findings(Kind::Readiness, "+-++", Pace { successes: 2, ..PACE }).await, "uG");
    }
}
