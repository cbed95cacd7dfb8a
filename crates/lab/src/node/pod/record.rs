//! What is known about each container of a pod. Plain data.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// Starts before the pod's own containers and ends after them.
    Sidecar,
    Main,
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waiting { reason: String, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

/// One container, over all its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub name: String,
    pub role: Role,
    pub state: State,
    pub last: Option<Ended>,
    pub restarts: i32,
    /// It has passed its startup probe and its postStart hook.
    pub started: bool,
    /// It has passed its readiness probe.
    pub ready: bool,
    /// Runs that ended early in a row; decides the back-off.
    pub crashes: u32,
    /// It may not start before this time.
    pub not_before: Option<Timestamp>,
    pub id: String,
    /// Its postStart hook has not ended yet; the containers after it wait.
    pub hooked: bool,
    /// Its run is being ended; it does not count as ready.
    pub stopping: bool,
}

/// A run of this length forgets the crashes before it.
const CALM_SECONDS: i64 = 600;

impl Record {
    pub(crate) fn new(name: &str, role: Role) -> Self {
        let reason = if role == Role::Main { "ContainerCreating" } else { "PodInitializing" };
        Self {
            name: name.to_owned(),
            role,
            state: State::Waiting { reason: reason.into(), message: String::new() },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            crashes: 0,
            not_before: None,
            id: String::new(),
            hooked: false,
            stopping: false,
        }
    }

    /// One record per container, init containers first, with what an earlier agent reported.
    pub(crate) fn of(pod: &Pod, now: Timestamp) -> Vec<Self> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (container, if sidecar { Role::Sidecar } else { Role::Init })
        });
        let main = spec.containers.iter().map(|container| (container, Role::Main));
        let mut records: Vec<Self> =
            init.chain(main).map(|(container, role)| Self::new(&container.name, role)).collect();
        let statuses = pod.status.iter().flat_map(|status| {
            status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
        });
        for status in statuses {
            let Some(record) = records.iter_mut().find(|record| record.name == status.name) else {
                continue;
            };
            record.restarts = status.restart_count;
            let Some(id) = status.container_id.clone() else { continue };
            let started = status.state.as_ref().and_then(|state| state.running.as_ref());
            let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            record.id.clone_from(&id);
            record.last = Some(Ended {
                code: ended.map_or(137, |ended| ended.exit_code),
                reason: if ended.is_some_and(|ended| ended.exit_code == 0) {
                    "Completed"
                } else {
                    "ContainerStatusUnknown"
                },
                message: "The container ended together with the node agent that ran it".into(),
                started: started.and_then(|running| running.started_at.as_ref()).map(|time| time.0),
                finished: now,
                id,
            });
        }
        records
    }

    pub(crate) fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(&self.state, State::Ended(ended) if ended.code == 0)
    }

    /// Notes that a run began.
    pub(crate) fn begin(&mut self, id: String, now: Timestamp) {
        if let State::Ended(ended) =
            std::mem::replace(&mut self.state, State::Running { since: now })
        {
            self.last = Some(ended);
        }
        if self.last.is_some() {
            self.restarts += 1;
        }
        self.id = id;
        self.started = false;
        self.ready = false;
        self.stopping = false;
        self.not_before = None;
    }

    /// Notes that a run ended, and when the next may begin: the first at once, then after 10 s,
    /// 20 s, and so on up to five minutes.
    pub(crate) fn end(&mut self, ended: Ended) {
        let long = ended
            .started
            .is_some_and(|start| ended.finished.duration_since(start).as_secs() >= CALM_SECONDS);
        self.crashes = if long { 0 } else { self.crashes };
        let delay = self.delay_seconds();
        self.crashes += 1;
        self.not_before = Some(ended.finished + jiff::SignedDuration::from_secs(delay));
        self.state = State::Ended(ended);
        self.started = false;
        self.ready = false;
        self.hooked = false;
        self.stopping = false;
    }

    /// The delay that the next end of this container causes.
    fn delay_seconds(&self) -> i64 {
        match self.crashes {
            0 => 0,
            crashes => (10i64 << (crashes - 1).min(5)).min(300),
        }
    }

    /// Shows that it waits for its back-off to pass.
    pub(crate) fn back_off(&mut self, pod: &str) {
        if let State::Ended(ended) = &self.state {
            let seconds =
                self.not_before.map_or(0, |at| at.duration_since(ended.finished).as_secs());
            let message =
                format!("back-off {seconds}s restarting failed container={} pod={pod}", self.name);
            let last = ended.clone();
            self.state = State::Waiting { reason: "CrashLoopBackOff".into(), message };
            self.last = Some(last);
        }
    }
}

/// The container of the spec with this index of [`Record::of`].
pub(crate) fn container(pod: &Pod, index: usize) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(at: i64) -> Ended {
        let time = |seconds| Timestamp::from_second(seconds).unwrap();
        Ended {
            code: 1,
            reason: "Error",
            message: String::new(),
            started: Some(time(at)),
            finished: time(at + 1),
            id: "x".into(),
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_back_off_to_five_minutes() {
        let mut record = Record::new("c", Role::Main);
        let delays: Vec<i64> = (0..8)
            .map(|_| {
                record.end(ended(1000));
                record.not_before.unwrap().as_second() - 1001
            })
            .collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_forgets_earlier_crashes() {
        let mut record = Record::new("c", Role::Main);
        (0..4).for_each(|_| record.end(ended(1000)));
        record.end(Ended { finished: Timestamp::from_second(2000).unwrap(), ..ended(1000) });
        assert_eq!(record.not_before.unwrap().as_second(), 2000);
    }

    #[test]
    fn containers_of_an_earlier_agent_count_as_ended() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 2,
                "containerID": "tombolo://1", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]},
        })).unwrap();
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let mut want = Record::new("c", Role::Main);
        want.restarts = 2;
        want.id = "tombolo://1".into();
        want.last = Some(Ended {
            code: 137,
            reason: "ContainerStatusUnknown",
            message: "The container ended together with the node agent that ran it".into(),
            started: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            finished: now,
            id: "tombolo://1".into(),
        });
        assert_eq!(Record::of(&pod, now), [want]);
    }
}
