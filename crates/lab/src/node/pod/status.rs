//! A pod's status as kubectl and controllers expect it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::node::pod::plan::Outcome;
use crate::node::pod::record::{self, Ended, Record, Role, State};

/// What the pod as a whole has come to.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub started: Timestamp,
    pub host_ip: String,
    /// Set once the pod has a network.
    pub pod_ip: Option<String>,
    /// Every init container has done its part.
    pub initialized: bool,
    pub outcome: Option<Outcome>,
    /// Why the pod ended, when it was not its containers' doing.
    pub reason: Option<(String, String)>,
}

/// The status of `pod`, keeping conditions that others own.
pub(crate) fn status(
    pod: &Pod,
    records: &[Record],
    progress: &Progress,
    now: Timestamp,
) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(records, progress);
    let statuses = |init: bool| -> Vec<ContainerStatus> {
        let numbered =
            records.iter().enumerate().filter(|(_, record)| (record.role != Role::Main) == init);
        numbered.map(|(index, record)| container_status(pod, index, record)).collect()
    };
    let (init, main) = (statuses(true), statuses(false));
    let ip = progress.pod_ip.clone();
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions(pod, &old, records, progress, phase, now)),
        reason: progress.reason.as_ref().map(|(reason, _)| reason.clone()),
        message: progress.reason.as_ref().map(|(_, message)| message.clone()),
        host_ip: Some(progress.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: progress.host_ip.clone() }]),
        pod_ips: ip.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: ip,
        start_time: old.start_time.clone().or(Some(Time(progress.started))),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        observed_generation: pod.metadata.generation,
        ..old
    }
}

fn phase(records: &[Record], progress: &Progress) -> &'static str {
    match progress.outcome {
        Some(Outcome::Succeeded) => "Succeeded",
        Some(Outcome::Failed) => "Failed",
        None => {
            let main = || records.iter().filter(|record| record.role == Role::Main);
            let begun = main().any(|record| {
                record.running() || record.last.is_some() || matches!(record.state, State::Ended(_))
            });
            if progress.initialized && begun { "Running" } else { "Pending" }
        }
    }
}

fn container_status(pod: &Pod, index: usize, record: &Record) -> ContainerStatus {
    let container = record::container(pod, index);
    let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
    let running = record.running();
    // An init container is ready when it has done its part.
    let ready = match record.role {
        Role::Init => record.succeeded(),
        _ => running && record.ready && !record.stopping,
    };
    ContainerStatus {
        name: record.name.clone(),
        image_id: if record.id.is_empty() { String::new() } else { image.clone() },
        image,
        ready,
        restart_count: record.restarts,
        started: Some(running && record.started),
        container_id: (!record.id.is_empty()).then(|| record.id.clone()),
        state: Some(container_state(&record.state)),
        last_state: Some(record.last.as_ref().map_or_else(ContainerState::default, terminated)),
        resources: container.and_then(|container| container.resources.clone()),
        ..ContainerStatus::default()
    }
}

fn container_state(state: &State) -> ContainerState {
    match state {
        State::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
            }),
            ..ContainerState::default()
        },
        State::Running { since } => ContainerState {
            running: Some(ContainerStateRunning { started_at: Some(Time(*since)) }),
            ..ContainerState::default()
        },
        State::Ended(ended) => terminated(ended),
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: Some(ended.reason.into()),
            message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
            started_at: ended.started.map(Time),
            finished_at: Some(Time(ended.finished)),
            container_id: Some(ended.id.clone()).filter(|id| !id.is_empty()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

/// A condition's state: whether it holds, and if not, why.
type Verdict = Result<Option<&'static str>, (&'static str, String)>;

fn conditions(
    pod: &Pod,
    old: &PodStatus,
    records: &[Record],
    progress: &Progress,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let ended = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let unready = |what: &str, wanted: &dyn Fn(&Record) -> bool| -> String {
        let names: Vec<&str> = records
            .iter()
            .filter(|record| wanted(record))
            .map(|record| record.name.as_str())
            .collect();
        if names.is_empty() {
            String::new()
        } else {
            format!("containers with {what} status: [{}]", names.join(" "))
        }
    };
    let initialized: Verdict = if progress.initialized || ended == Some("PodCompleted") {
        Ok(ended.filter(|reason| *reason == "PodCompleted"))
    } else {
        let waits = |record: &Record| match record.role {
            Role::Init => !record.succeeded(),
            Role::Sidecar => !record.started,
            Role::Main => false,
        };
        Err(("ContainersNotInitialized", unready("incomplete", &waits)))
    };
    let containers: Verdict = match ended {
        Some(reason) => Err((reason, String::new())),
        None => {
            let waits = |record: &Record| {
                record.role != Role::Init && !(record.running() && record.ready && !record.stopping)
            };
            let text = unready("unready", &waits);
            if text.is_empty() { Ok(None) } else { Err(("ContainersNotReady", text)) }
        }
    };
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let others = old.conditions.iter().flatten();
    let closed: Vec<&str> = gates
        .map(|gate| gate.condition_type.as_str())
        .filter(|gate| {
            !others.clone().any(|condition| condition.type_ == *gate && condition.status == "True")
        })
        .collect();
    let ready: Verdict = match &containers {
        Ok(_) if !closed.is_empty() => Err((
            "ReadinessGatesNotReady",
            format!("the status of pod readiness gates [{}] is not \"True\"", closed.join(" ")),
        )),
        other => other.clone(),
    };
    let network: Verdict = match (&progress.pod_ip, ended) {
        (Some(_), None) => Ok(None),
        _ => Err(("", String::new())),
    };
    let own = [
        ("PodReadyToStartContainers", network),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Ok(None)),
    ];
    let mut all: Vec<PodCondition> = others
        .clone()
        .filter(|condition| !own.iter().any(|(name, _)| *name == condition.type_))
        .cloned()
        .collect();
    all.extend(
        own.into_iter()
            .map(|(name, verdict)| condition(old, name, verdict, pod.metadata.generation, now)),
    );
    all
}

/// One condition; its time of change moves only when its status does.
fn condition(
    old: &PodStatus,
    name: &str,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(reason) => ("True", reason.map(str::to_owned), None),
        Err((reason, message)) => ("False", Some(reason.to_owned()), Some(message)),
    };
    let before = old
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == name && condition.status == status);
    PodCondition {
        type_: name.into(),
        status: status.into(),
        reason: reason.filter(|reason| !reason.is_empty()),
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: before
            .and_then(|before| before.last_transition_time.clone())
            .or(Some(Time(now))),
        observed_generation: generation,
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "generation": 3},
            "spec": {"initContainers": [{"name": "proxy", "image": "a", "restartPolicy": "Always"}], "containers": [{"name": "app", "image": "b:1"}]},
            "status": {"conditions": [{"type": "example.com/gate", "status": "True"}], "qosClass": "BestEffort"},
        })).unwrap()
    }

    fn progress() -> Progress {
        Progress {
            started: at(0),
            host_ip: "172.18.0.2".into(),
            pod_ip: Some("10.10.0.2".into()),
            initialized: true,
            outcome: None,
            reason: None,
        }
    }

    /// Type, status and reason of the conditions.
    fn brief(status: &PodStatus) -> Vec<String> {
        let line = |condition: &PodCondition| {
            format!(
                "{}={} {}",
                condition.type_,
                condition.status,
                condition.reason.as_deref().unwrap_or("-")
            )
        };
        status.conditions.iter().flatten().map(line).collect()
    }

    #[test]
    fn a_ready_pod_is_running_with_every_condition_true() {
        let pod = pod();
        let mut records = Record::of(&pod, at(0));
        for record in &mut records {
            record.begin("tombolo://1".into(), at(1));
            (record.started, record.ready) = (true, true);
        }
        let status = status(&pod, &records, &progress(), at(2));
        assert_eq!(
            (status.phase.as_deref(), status.qos_class.as_deref()),
            (Some("Running"), Some("BestEffort"))
        );
        assert_eq!(
            brief(&status),
            [
                "example.com/gate=True -",
                "PodReadyToStartContainers=True -",
                "Initialized=True -",
                "Ready=True -",
                "ContainersReady=True -",
                "PodScheduled=True -"
            ]
        );
        assert_eq!(
            serde_json::to_value(&status.container_statuses).unwrap(),
            json!([{
                "name": "app", "image": "b:1", "imageID": "b:1", "containerID": "tombolo://1", "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2027-01-15T08:00:01Z"}}, "lastState": {},
            }])
        );
    }

    #[test]
    fn a_pod_waits_for_its_sidecar() {
        let pod = pod();
        let mut records = Record::of(&pod, at(0));
        records[0].begin("tombolo://1".into(), at(1));
        let status = status(&pod, &records, &Progress { initialized: false, ..progress() }, at(2));
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(
            brief(&status)[2..5],
            [
                "Initialized=False ContainersNotInitialized",
                "Ready=False ContainersNotReady",
                "ContainersReady=False ContainersNotReady"
            ]
        );
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let mut pod = pod();
        let mut records = Record::of(&pod, at(0));
        pod.status = Some(status(&pod, &records, &progress(), at(2)));
        records[1].begin("tombolo://1".into(), at(5));
        records.iter_mut().for_each(|record| (record.started, record.ready) = (true, true));
        records[0].begin("tombolo://2".into(), at(5));
        records[0].ready = true;
        let times: Vec<i64> = status(&pod, &records, &progress(), at(9))
            .conditions
            .unwrap()
            .into_iter()
            .filter_map(|condition| {
                Some(condition.last_transition_time?.0.as_second() - 1_800_000_000)
            })
            .collect();
        assert_eq!(times, [2, 2, 9, 9, 2]);
    }
}
