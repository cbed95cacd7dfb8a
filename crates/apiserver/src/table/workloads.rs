//! The columns of what makes pods: deployments, sets, jobs, autoscalers, disruption budgets.

use jiff::Timestamp;
use serde_json::Value;

use super::age;
use super::columns::{
    AGE, Column, condition, int_at, labels, list_at, number, or, or_none, selector, str_at, text,
    truth, wide,
};

const POD: &str = "/spec/template/spec/containers";
const CONTAINERS: Column = wide("Containers", |object| containers(object, POD, "name"));
const IMAGES: Column = wide("Images", |object| containers(object, POD, "image"));
const SELECTOR: Column =
    wide("Selector", |object| selector(object.pointer("/spec/selector"), "<none>"));

pub const DEPLOYMENTS: &[Column] = &[
    text("Ready", ready),
    text("Up-to-date", |object| int_at(object, "/status/updatedReplicas").into()),
    text("Available", |object| int_at(object, "/status/availableReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |object| selector(object.pointer("/spec/selector"), "")),
];

pub const REPLICA_SETS: &[Column] = &[
    number("Desired", |object| int_at(object, "/spec/replicas").into()),
    number("Current", |object| int_at(object, "/status/replicas").into()),
    number("Ready", |object| int_at(object, "/status/readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const REPLICATION_CONTROLLERS: &[Column] = &[
    number("Desired", |object| int_at(object, "/spec/replicas").into()),
    number("Current", |object| int_at(object, "/status/replicas").into()),
    number("Ready", |object| int_at(object, "/status/readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |object| labels(object.pointer("/spec/selector"))),
];

pub const STATEFUL_SETS: &[Column] = &[text("Ready", ready), AGE, CONTAINERS, IMAGES];

pub const DAEMON_SETS: &[Column] = &[
    number("Desired", |object| int_at(object, "/status/desiredNumberScheduled").into()),
    number("Current", |object| int_at(object, "/status/currentNumberScheduled").into()),
    number("Ready", |object| int_at(object, "/status/numberReady").into()),
    number("Up-to-date", |object| int_at(object, "/status/updatedNumberScheduled").into()),
    number("Available", |object| int_at(object, "/status/numberAvailable").into()),
    text("Node Selector", |object| labels(object.pointer("/spec/template/spec/nodeSelector"))),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const CONTROLLER_REVISIONS: &[Column] = &[
    text("Controller", |object| {
        let owners = list_at(object, "/metadata/ownerReferences");
        let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) else {
            return "<none>".into();
        };
        let (group, _) = str_at(owner, "/apiVersion").split_once('/').unwrap_or(("", ""));
        let kind = str_at(owner, "/kind").to_lowercase();
        let name = str_at(owner, "/name");
        if group.is_empty() {
            format!("{kind}/{name}").into()
        } else {
            format!("{kind}.{group}/{name}").into()
        }
    }),
    text("Revision", |object| int_at(object, "/revision").into()),
    AGE,
];

pub const JOBS: &[Column] = &[
    text("Status", job_status),
    text("Completions", completions),
    text("Duration", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

const JOB_POD: &str = "/spec/jobTemplate/spec/template/spec/containers";
pub const CRON_JOBS: &[Column] = &[
    text("Schedule", |object| str_at(object, "/spec/schedule").into()),
    text("Timezone", |object| or_none(str_at(object, "/spec/timeZone"))),
    truth("Suspend", |object| match object.pointer("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => "<unset>".into(),
    }),
    number("Active", |object| list_at(object, "/status/active").len().into()),
    text("Last Schedule", |object| match object.pointer("/status/lastScheduleTime") {
        None => "<none>".into(),
        stamp => age::since(stamp).into(),
    }),
    AGE,
    wide("Containers", |object| containers(object, JOB_POD, "name")),
    wide("Images", |object| containers(object, JOB_POD, "image")),
    wide("Selector", |object| {
        selector(object.pointer("/spec/jobTemplate/spec/selector"), "<none>")
    }),
];

pub const POD_TEMPLATES: &[Column] = &[
    text("Containers", |object| containers(object, "/template/spec/containers", "name")),
    text("Images", |object| containers(object, "/template/spec/containers", "image")),
    text("Pod Labels", |object| labels(object.pointer("/template/metadata/labels"))),
];

pub const DISRUPTION_BUDGETS: &[Column] = &[
    text("Min Available", |object| quantity(object.pointer("/spec/minAvailable"))),
    text("Max Unavailable", |object| quantity(object.pointer("/spec/maxUnavailable"))),
    number("Allowed Disruptions", |object| int_at(object, "/status/disruptionsAllowed").into()),
    AGE,
];

pub const AUTOSCALERS: &[Column] = &[
    text("Reference", |object| {
        let (kind, name) = (
            str_at(object, "/spec/scaleTargetRef/kind"),
            str_at(object, "/spec/scaleTargetRef/name"),
        );
        format!("{kind}/{name}").into()
    }),
    text("Targets", targets),
    text("MinPods", |object| match object.pointer("/spec/minReplicas") {
        Some(number) => number.to_string().into(),
        None => "<unset>".into(),
    }),
    text("MaxPods", |object| int_at(object, "/spec/maxReplicas").into()),
    text("Replicas", |object| int_at(object, "/status/currentReplicas").into()),
    AGE,
];

fn containers(object: &Value, pointer: &str, field: &str) -> Value {
    let values: Vec<&str> =
        list_at(object, pointer).iter().filter_map(|container| container[field].as_str()).collect();
    values.join(",").into()
}

fn ready(object: &Value) -> Value {
    let ready = int_at(object, "/status/readyReplicas");
    format!("{ready}/{}", int_at(object, "/spec/replicas")).into()
}

fn quantity(value: Option<&Value>) -> Value {
    match value {
        Some(Value::String(text)) => text.clone().into(),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}

fn job_status(job: &Value) -> Value {
    let is = |kind: &str| condition(job, kind).is_some_and(|c| c["status"] == "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    status.into()
}

fn completions(job: &Value) -> Value {
    let done = int_at(job, "/status/succeeded");
    if let Some(wanted) = job.pointer("/spec/completions").and_then(Value::as_i64) {
        return format!("{done}/{wanted}").into();
    }
    match int_at(job, "/spec/parallelism") {
        parallel if parallel > 1 => format!("{done}/1 of {parallel}").into(),
        _ => format!("{done}/1").into(),
    }
}

fn job_duration(job: &Value) -> Value {
    let Ok(start) = str_at(job, "/status/startTime").parse::<Timestamp>() else {
        return "".into();
    };
    let end = str_at(job, "/status/completionTime").parse().unwrap_or_else(|_| Timestamp::now());
    age::human(end.as_second() - start.as_second()).into()
}

/// The first two metrics as `current/target`, and how many more there are.
fn targets(object: &Value) -> Value {
    let metrics = list_at(object, "/spec/metrics");
    let current = list_at(object, "/status/currentMetrics");
    let texts: Vec<String> =
        metrics.iter().enumerate().map(|(at, metric)| target(metric, current.get(at))).collect();
    if texts.len() > 2 {
        return format!("{} + {} more...", texts[..2].join(", "), texts.len() - 2).into();
    }
    or(&texts.join(", "), "<none>")
}

fn target(metric: &Value, current: Option<&Value>) -> String {
    let (source, name) = match str_at(metric, "/type") {
        "External" => ("external", String::new()),
        "Pods" => ("pods", String::new()),
        "Object" => ("object", String::new()),
        "Resource" => ("resource", format!("{}: ", str_at(metric, "/resource/name"))),
        "ContainerResource" => {
            ("containerResource", format!("{}: ", str_at(metric, "/containerResource/name")))
        }
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = &metric[source]["target"];
    let now = current.map(|current| &current[source]["current"]);
    let show = |field: &str, suffix: &str| {
        let text = |value: &Value| match value {
            Value::String(text) => Some(format!("{text}{suffix}")),
            Value::Number(number) => Some(format!("{number}{suffix}")),
            _ => None,
        };
        let goal = text(&wanted[field])?;
        let unknown = || "<unknown>".to_owned();
        let now = now.and_then(|now| text(&now[field])).unwrap_or_else(unknown);
        Some(format!("{name}{now}/{goal}"))
    };
    show("averageUtilization", "%")
        .or_else(|| {
            let text = show("averageValue", "")?;
            Some(if matches!(source, "external" | "object") {
                format!("{text} (avg)")
            } else {
                text
            })
        })
        .or_else(|| show("value", ""))
        .unwrap_or_else(|| format!("{name}<unknown>/<auto>"))
}
