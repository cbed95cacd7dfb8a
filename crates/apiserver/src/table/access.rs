//! The columns of what configures and permits: roles' bindings, webhooks, events, storage and the
//! small kinds.

use serde_json::Value;

use super::age;
use super::columns::{
    AGE, Column, condition, int_at, list_at, number, or, or_none, str_at, text, truth, wide,
};

pub const NAMESPACES: &[Column] =
    &[text("Status", |object| str_at(object, "/status/phase").into()), AGE];

pub const CONFIG_MAPS: &[Column] =
    &[text("Data", |object| (size(object, "/data") + size(object, "/binaryData")).into()), AGE];

pub const SECRETS: &[Column] = &[
    text("Type", |object| str_at(object, "/type").into()),
    text("Data", |object| size(object, "/data").into()),
    AGE,
];

pub const ONLY_AGE: &[Column] = &[AGE];

pub const LEASES: &[Column] =
    &[text("Holder", |object| str_at(object, "/spec/holderIdentity").into()), AGE];

pub const BINDINGS: &[Column] = &[
    text("Role", |object| {
        format!("{}/{}", str_at(object, "/roleRef/kind"), str_at(object, "/roleRef/name")).into()
    }),
    AGE,
    wide("Users", |object| subjects(object, "User")),
    wide("Groups", |object| subjects(object, "Group")),
    wide("ServiceAccounts", |object| subjects(object, "ServiceAccount")),
];

pub const WEBHOOKS: &[Column] =
    &[number("Webhooks", |object| list_at(object, "/webhooks").len().into()), AGE];

pub const ADMISSION_POLICIES: &[Column] = &[
    number("Validations", |object| list_at(object, "/spec/validations").len().into()),
    text("ParamKind", |object| match object.pointer("/spec/paramKind") {
        Some(kind) => format!("{}/{}", str_at(kind, "/apiVersion"), str_at(kind, "/kind")).into(),
        None => "<unset>".into(),
    }),
    AGE,
];

pub const ADMISSION_POLICY_BINDINGS: &[Column] = &[
    text("PolicyName", |object| str_at(object, "/spec/policyName").into()),
    text("ParamRef", |object| {
        let Some(reference) = object.pointer("/spec/paramRef") else { return "<unset>".into() };
        match (str_at(reference, "/namespace"), str_at(reference, "/name")) {
            (_, "") => "*".into(),
            ("", name) => format!("*/{name}").into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }),
    AGE,
];

pub const API_SERVICES: &[Column] = &[
    text("Service", |object| match object.pointer("/spec/service") {
        Some(service) if service.is_object() => {
            format!("{}/{}", str_at(service, "/namespace"), str_at(service, "/name")).into()
        }
        _ => "Local".into(),
    }),
    text("Available", |object| match condition(object, "Available") {
        Some(condition) if condition["status"] == "True" => "True".into(),
        Some(condition) => {
            format!("{} ({})", str_at(condition, "/status"), str_at(condition, "/reason")).into()
        }
        None => "Unknown".into(),
    }),
    AGE,
];

pub const SIGNING_REQUESTS: &[Column] = &[
    AGE,
    text("SignerName", |object| or_none(str_at(object, "/spec/signerName"))),
    text("Requestor", |object| str_at(object, "/spec/username").into()),
    text("RequestedDuration", |object| {
        let seconds = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        seconds.map_or_else(|| "<none>".into(), |seconds| age::human(seconds).into())
    }),
    text("Condition", signing_state),
];

pub const EVENTS: &[Column] = &[
    text("Last Seen", |event| last_seen(event).into()),
    text("Type", |event| str_at(event, "/type").into()),
    text("Reason", |event| str_at(event, "/reason").into()),
    text("Object", |event| {
        let about = about(event);
        let (kind, name) = (str_at(about, "/kind").to_lowercase(), str_at(about, "/name"));
        if kind.is_empty() { name.into() } else { format!("{kind}/{name}").into() }
    }),
    wide("Subobject", |event| str_at(about(event), "/fieldPath").into()),
    wide("Source", event_source),
    text("Message", |event| {
        let message = str_at(event, "/message");
        let message = if message.is_empty() { str_at(event, "/note") } else { message };
        message.trim().into()
    }),
    wide("First Seen", |event| first_seen(event).into()),
    wide("Count", |event| {
        let count = match event.pointer("/series/count").and_then(Value::as_i64) {
            Some(count) => count,
            None => int_at(event, "/count").max(int_at(event, "/deprecatedCount")).max(1),
        };
        count.into()
    }),
];

pub const RUNTIME_CLASSES: &[Column] =
    &[text("Handler", |object| str_at(object, "/handler").into()), AGE];

pub const PRIORITY_CLASSES: &[Column] = &[
    number("Value", |object| int_at(object, "/value").into()),
    truth("Global-Default", |object| flag(object, "/globalDefault", false)),
    AGE,
    text("PreemptionPolicy", |object| {
        or(str_at(object, "/preemptionPolicy"), "PreemptLowerPriority")
    }),
];

pub const CSI_DRIVERS: &[Column] = &[
    truth("AttachRequired", |object| flag(object, "/spec/attachRequired", true)),
    truth("PodInfoOnMount", |object| flag(object, "/spec/podInfoOnMount", false)),
    truth("StorageCapacity", |object| flag(object, "/spec/storageCapacity", false)),
    text("TokenRequests", |object| {
        if object.pointer("/spec/tokenRequests").is_none() {
            return "<unset>".into();
        }
        let requests = list_at(object, "/spec/tokenRequests");
        let audiences: Vec<&str> =
            requests.iter().map(|request| str_at(request, "/audience")).collect();
        audiences.join(",").into()
    }),
    truth("RequiresRepublish", |object| flag(object, "/spec/requiresRepublish", false)),
    text("Modes", |object| or_none(&joined(object, "/spec/volumeLifecycleModes"))),
    AGE,
];

pub const CSI_NODES: &[Column] =
    &[number("Drivers", |object| list_at(object, "/spec/drivers").len().into()), AGE];

pub const STORAGE_CLASSES: &[Column] = &[
    text("Provisioner", |object| str_at(object, "/provisioner").into()),
    text("ReclaimPolicy", |object| or(str_at(object, "/reclaimPolicy"), "Delete")),
    text("VolumeBindingMode", |object| or(str_at(object, "/volumeBindingMode"), "Immediate")),
    text("AllowVolumeExpansion", |object| flag(object, "/allowVolumeExpansion", false)),
    AGE,
];

pub const ATTACHMENTS: &[Column] = &[
    text("Attacher", |object| str_at(object, "/spec/attacher").into()),
    text("PV", |object| str_at(object, "/spec/source/persistentVolumeName").into()),
    text("Node", |object| str_at(object, "/spec/nodeName").into()),
    truth("Attached", |object| flag(object, "/status/attached", false)),
    AGE,
];

pub const VOLUMES: &[Column] = &[
    text("Capacity", |object| str_at(object, "/spec/capacity/storage").into()),
    text("Access Modes", |object| access_modes(object, "/spec/accessModes")),
    text("Reclaim Policy", |object| str_at(object, "/spec/persistentVolumeReclaimPolicy").into()),
    text("Status", phase),
    text("Claim", |object| match object.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", str_at(claim, "/namespace"), str_at(claim, "/name")).into(),
        None => "".into(),
    }),
    text("StorageClass", |object| str_at(object, "/spec/storageClassName").into()),
    text("VolumeAttributesClass", |object| {
        or(str_at(object, "/spec/volumeAttributesClassName"), "<unset>")
    }),
    text("Reason", |object| str_at(object, "/status/reason").into()),
    AGE,
    wide("VolumeMode", |object| or(str_at(object, "/spec/volumeMode"), "<unset>")),
];

pub const CLAIMS: &[Column] = &[
    text("Status", phase),
    text("Volume", |object| str_at(object, "/spec/volumeName").into()),
    text("Capacity", |object| {
        let bound = !str_at(object, "/spec/volumeName").is_empty();
        if bound { str_at(object, "/status/capacity/storage").into() } else { "".into() }
    }),
    text("Access Modes", |object| {
        let bound = !str_at(object, "/spec/volumeName").is_empty();
        if bound { access_modes(object, "/status/accessModes") } else { "".into() }
    }),
    text("StorageClass", |object| str_at(object, "/spec/storageClassName").into()),
    text("VolumeAttributesClass", |object| {
        or(str_at(object, "/spec/volumeAttributesClassName"), "<unset>")
    }),
    AGE,
    wide("VolumeMode", |object| or(str_at(object, "/spec/volumeMode"), "<unset>")),
];

pub const QUOTAS: &[Column] = &[
    text("Request", |object| quota(object, false)),
    text("Limit", |object| quota(object, true)),
    AGE,
];

fn size(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

fn flag(object: &Value, pointer: &str, default: bool) -> Value {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(default).into()
}

fn joined(object: &Value, pointer: &str) -> String {
    let texts: Vec<&str> = list_at(object, pointer).iter().filter_map(Value::as_str).collect();
    texts.join(",")
}

fn subjects(object: &Value, kind: &str) -> Value {
    let names: Vec<String> = list_at(object, "/subjects")
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match (kind, str_at(subject, "/namespace")) {
            ("ServiceAccount", namespace) if !namespace.is_empty() => {
                format!("{namespace}/{}", str_at(subject, "/name"))
            }
            _ => str_at(subject, "/name").to_owned(),
        })
        .collect();
    names.join(", ").into()
}

fn signing_state(object: &Value) -> Value {
    let has = |kind: &str| condition(object, kind).is_some();
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !str_at(object, "/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state.into()
}

/// What an event is about, in either of the two event APIs.
fn about(event: &Value) -> &Value {
    match &event["involvedObject"] {
        Value::Null => &event["regarding"],
        object => object,
    }
}

fn stamp<'a>(event: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().map(|name| &event[*name]).find(|value| value.is_string())
}

fn first_seen(event: &Value) -> String {
    age::since(stamp(event, &["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]))
}

fn last_seen(event: &Value) -> String {
    if let Some(last) = event.pointer("/series/lastObservedTime") {
        return age::since(Some(last));
    }
    match stamp(event, &["lastTimestamp", "deprecatedLastTimestamp"]) {
        Some(last) => age::since(Some(last)),
        None => first_seen(event),
    }
}

fn event_source(event: &Value) -> Value {
    let source = if event["source"].is_object() { "/source" } else { "/deprecatedSource" };
    let component = str_at(event, &format!("{source}/component"));
    let host = str_at(event, &format!("{source}/host"));
    let component = if component.is_empty() {
        let controller = str_at(event, "/reportingComponent");
        if controller.is_empty() { str_at(event, "/reportingController") } else { controller }
    } else {
        component
    };
    let host = if host.is_empty() { str_at(event, "/reportingInstance") } else { host };
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}

fn phase(object: &Value) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating".into();
    }
    str_at(object, "/status/phase").into()
}

fn access_modes(object: &Value, pointer: &str) -> Value {
    let short: Vec<&str> = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]
        .into_iter()
        .zip(["RWO", "ROX", "RWX", "RWOP"])
        .filter(|(mode, _)| list_at(object, pointer).iter().any(|own| own == mode))
        .map(|(_, short)| short)
        .collect();
    short.join(",").into()
}

fn quota(object: &Value, limits: bool) -> Value {
    let hard = object.pointer("/status/hard").and_then(Value::as_object);
    let parts: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = object
                .pointer("/status/used")
                .map_or("", |used| used[name].as_str().unwrap_or_default());
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    parts.join(", ").into()
}
