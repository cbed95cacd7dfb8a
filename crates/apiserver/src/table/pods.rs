//! The columns of pods. What `STATUS` says follows from the state of every container.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use super::columns::{AGE, Column, condition, int_at, list_at, or_none, str_at, text, wide};

pub const COLUMNS: &[Column] = &[
    text("Ready", |pod| Summary::of(pod).ready().into()),
    text("Status", |pod| Summary::of(pod).reason.into()),
    text("Restarts", |pod| Summary::of(pod).restarts_text().into()),
    AGE,
    wide("IP", |pod| or_none(str_at(pod, "/status/podIPs/0/ip"))),
    wide("Node", |pod| or_none(str_at(pod, "/spec/nodeName"))),
    wide("Nominated Node", |pod| or_none(str_at(pod, "/status/nominatedNodeName"))),
    wide("Readiness Gates", gates),
];

/// What the containers of a pod add up to.
#[derive(Debug, Default)]
struct Summary {
    total: usize,
    ready: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let sidecars: HashSet<&str> = list_at(pod, "/spec/initContainers")
            .iter()
            .filter(|container| container["restartPolicy"] == "Always")
            .filter_map(|container| container["name"].as_str())
            .collect();
        let phase = str_at(pod, "/status/phase");
        let stated = str_at(pod, "/status/reason");
        let mut summary = Self {
            total: list_at(pod, "/spec/containers").len() + sidecars.len(),
            reason: if stated.is_empty() { phase } else { stated }.to_owned(),
            ..Self::default()
        };
        if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
            "SchedulingGated".clone_into(&mut summary.reason);
        }
        let sidecar_restarts = summary.read_init(pod, &sidecars);
        let initialized = condition(pod, "Initialized").is_some_and(|c| c["status"] == "True");
        if sidecar_restarts.is_some() || initialized {
            if let Some((restarts, last)) = sidecar_restarts {
                summary.restarts = restarts;
                summary.last_restart = last;
            }
            summary.read_containers(pod);
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            if stated == "NodeLost" {
                "Unknown".clone_into(&mut summary.reason);
            } else if !matches!(phase, "Succeeded" | "Failed") {
                "Terminating".clone_into(&mut summary.reason);
            }
        }
        summary
    }

    /// Reads init containers up to the first that is not done. Returns the restarts of sidecars
    /// when all are done or running, nothing while the pod initializes.
    fn read_init(
        &mut self,
        pod: &Value,
        sidecars: &HashSet<&str>,
    ) -> Option<(i64, Option<Timestamp>)> {
        let all = list_at(pod, "/spec/initContainers").len();
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        for (at, status) in list_at(pod, "/status/initContainerStatuses").iter().enumerate() {
            let is_sidecar = sidecars.contains(str_at(status, "/name"));
            let (restarts, last) = restarts_of(status);
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(last);
            if is_sidecar {
                sidecar_restarts += restarts;
                sidecar_last = sidecar_last.max(last);
            }
            let ended = status.pointer("/state/terminated");
            if ended.is_some_and(|ended| int_at(ended, "/exitCode") == 0) {
                continue;
            }
            if is_sidecar && status["started"] == true {
                self.ready += usize::from(status["ready"] == true);
                continue;
            }
            let waiting = str_at(status, "/state/waiting/reason");
            self.reason = match ended {
                Some(ended) => format!("Init:{}", ending(ended)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => {
                    format!("Init:{waiting}")
                }
                None => format!("Init:{at}/{all}"),
            };
            return None;
        }
        Some((sidecar_restarts, sidecar_last))
    }

    fn read_containers(&mut self, pod: &Value) {
        let (mut running, mut failure) = (false, String::new());
        for status in list_at(pod, "/status/containerStatuses").iter().rev() {
            let (restarts, last) = restarts_of(status);
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(last);
            let waiting = str_at(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if let Some(ended) = status.pointer("/state/terminated") {
                self.reason = ending(ended);
                if int_at(ended, "/exitCode") != 0 {
                    failure.clone_from(&self.reason);
                }
            } else if status["ready"] == true && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // A pod of which a part goes on is not completed.
        if self.reason == "Completed" {
            let ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
            if running && ready {
                "Running".clone_into(&mut self.reason);
            } else if !failure.is_empty() {
                self.reason = failure;
            } else if running {
                "NotReady".clone_into(&mut self.reason);
            }
        }
    }

    fn ready(&self) -> String {
        format!("{}/{}", self.ready, self.total)
    }

    fn restarts_text(&self) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                let ago = Timestamp::now().as_second() - last.as_second();
                format!("{} ({} ago)", self.restarts, age::human(ago))
            }
            _ => self.restarts.to_string(),
        }
    }
}

fn restarts_of(status: &Value) -> (i64, Option<Timestamp>) {
    let last = str_at(status, "/lastState/terminated/finishedAt").parse().ok();
    (int_at(status, "/restartCount"), last)
}

/// How a container ended: its reason, or its signal, or its exit code.
fn ending(ended: &Value) -> String {
    let reason = str_at(ended, "/reason");
    let signal = int_at(ended, "/signal");
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", int_at(ended, "/exitCode"))
    }
}

fn gates(pod: &Value) -> Value {
    let gates = list_at(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = gates
        .iter()
        .filter(|gate| {
            condition(pod, str_at(gate, "/conditionType")).is_some_and(|c| c["status"] == "True")
        })
        .count();
    format!("{met}/{}", gates.len()).into()
}
