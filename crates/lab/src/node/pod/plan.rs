//! What to do next with a pod's containers. Pure: records and the time in, steps out.

use jiff::Timestamp;

use crate::node::pod::record::{Record, Role, State};

/// When a pod's containers are started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(crate) fn parse(policy: Option<&str>) -> Self {
        match policy {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// The end of a pod that has nothing left to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Containers to start, by index.
    pub start: Vec<usize>,
    /// Containers whose back-off has begun to show.
    pub back_off: Vec<usize>,
    /// When to look again.
    pub wake: Option<Timestamp>,
    /// The pod's own containers have ended for good.
    pub outcome: Option<Outcome>,
}

/// Decides. `initialized` is set once the pod's own containers were allowed to start.
pub(crate) fn plan(
    records: &[Record],
    restart: Restart,
    initialized: bool,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    if !initialized && !initialize(records, restart, now, &mut plan) {
        return plan;
    }
    let main = || records.iter().enumerate().filter(|(_, record)| record.role == Role::Main);
    let ended = main().all(|(_, record)| ended_for_good(record, restart));
    if ended {
        let failed = main().any(|(_, record)| !record.succeeded());
        plan.outcome = Some(if failed { Outcome::Failed } else { Outcome::Succeeded });
        return plan;
    }
    if initialized {
        for (index, record) in
            records.iter().enumerate().filter(|(_, record)| record.role == Role::Sidecar)
        {
            want(&mut plan, index, record, now);
        }
    }
    for (index, record) in main() {
        if !ended_for_good(record, restart) {
            want(&mut plan, index, record, now);
        }
        // A postStart hook holds back the containers after it.
        if record.hooked {
            break;
        }
    }
    plan
}

/// Goes through the init containers in order; true when all have done their part.
fn initialize(records: &[Record], restart: Restart, now: Timestamp, plan: &mut Plan) -> bool {
    for (index, record) in
        records.iter().enumerate().filter(|(_, record)| record.role != Role::Main)
    {
        let done = match record.role {
            Role::Sidecar => record.running() && record.started,
            _ => record.succeeded(),
        };
        if done {
            continue;
        }
        if record.role == Role::Init
            && restart == Restart::Never
            && matches!(record.state, State::Ended(_))
        {
            plan.outcome = Some(Outcome::Failed);
            return false;
        }
        want(plan, index, record, now);
        // A sidecar before this one may have crashed meanwhile and was wanted above already.
        return false;
    }
    true
}

fn ended_for_good(record: &Record, restart: Restart) -> bool {
    match (&record.state, restart) {
        (State::Ended(_), Restart::Never) => true,
        (State::Ended(ended), Restart::OnFailure) => ended.code == 0,
        _ => false,
    }
}

/// Starts a container that does not run, now or when its back-off has passed.
fn want(plan: &mut Plan, index: usize, record: &Record, now: Timestamp) {
    if record.running() {
        return;
    }
    match record.not_before.filter(|at| *at > now) {
        None => plan.start.push(index),
        Some(at) => {
            plan.wake = Some(plan.wake.map_or(at, |wake| wake.min(at)));
            if matches!(record.state, State::Ended(_)) {
                plan.back_off.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod::record::Ended;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// `i` init, `s` sidecar, `m` main; then `w` waiting, `r` running, `R` running and started,
    /// a digit for the exit code.
    fn records(text: &str) -> Vec<Record> {
        text.split_whitespace()
            .map(|word| {
                let (role, state) = word.split_at(1);
                let role = match role {
                    "i" => Role::Init,
                    "s" => Role::Sidecar,
                    _ => Role::Main,
                };
                let mut record = Record::new(word, role);
                match state {
                    "w" => (),
                    "r" | "R" => {
                        record.begin("id".into(), at(0));
                        record.started = state == "R";
                    }
                    code => record.end(Ended {
                        code: code.parse().unwrap(),
                        reason: "Error",
                        message: String::new(),
                        started: Some(at(99)),
                        finished: at(100),
                        id: "id".into(),
                    }),
                }
                record
            })
            .collect()
    }

    fn start(indexes: &[usize]) -> Plan {
        Plan { start: indexes.to_vec(), ..Plan::default() }
    }

    fn outcome(outcome: Outcome) -> Plan {
        Plan { outcome: Some(outcome), ..Plan::default() }
    }

    #[track_caller]
    fn check(text: &str, restart: Restart, initialized: bool, want: Plan) {
        assert_eq!(plan(&records(text), restart, initialized, at(100)), want, "{text}");
    }

    #[test]
    fn init_containers_run_in_order_and_sidecars_gate_what_follows() {
        check("iw sw iw mw mw", Restart::Always, false, start(&[0]));
        check("ir sw iw mw mw", Restart::Always, false, start(&[]));
        check("i0 sw iw mw mw", Restart::Always, false, start(&[1]));
        check("i0 sr iw mw mw", Restart::Always, false, start(&[]));
        check("i0 sR iw mw mw", Restart::Always, false, start(&[2]));
        check("i0 sR i0 mw mw", Restart::Always, false, start(&[3, 4]));
    }

    #[test]
    fn a_failed_init_container_is_tried_again_unless_the_pod_never_restarts() {
        check("i1 mw", Restart::OnFailure, false, start(&[0]));
        check("i1 mw", Restart::Never, false, outcome(Outcome::Failed));
    }

    #[test]
    fn a_pod_ends_when_its_own_containers_have_ended_for_good() {
        check("sR m0 m0", Restart::OnFailure, true, outcome(Outcome::Succeeded));
        check("sR m0 m1", Restart::Never, true, outcome(Outcome::Failed));
        check("sR m0 mR", Restart::Never, true, start(&[]));
        check("sR m0 m1", Restart::OnFailure, true, start(&[2]));
        check("sR m0 m1", Restart::Always, true, start(&[1, 2]));
    }

    #[test]
    fn a_sidecar_is_started_again_whatever_the_policy() {
        check("s0 mR", Restart::Never, true, start(&[0]));
    }

    #[test]
    fn a_container_in_back_off_waits() {
        let mut records = records("m1");
        records[0].not_before = Some(at(110));
        let want = Plan { back_off: vec![0], wake: Some(at(110)), ..Plan::default() };
        assert_eq!(plan(&records, Restart::Always, true, at(100)), want);
    }
}
