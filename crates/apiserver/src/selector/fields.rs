//! Field selectors: `metadata.name=x,status.phase!=Running`. Only the fields that Kubernetes
//! offers for a kind can be named.

use serde_json::Value;

use crate::resources::ResourceType;
use crate::status::Status;

/// A field selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    path: String,
    value: String,
    equal: bool,
}

/// Group, kind, and the fields beside name and namespace that can be selected by.
const OFFERED: &[(&str, &str, &[&str])] = &[
    (
        "",
        "Pod",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("", "Secret", &["type"]),
    ("", "Service", &["spec.clusterIP", "spec.type"]),
    ("", "Namespace", &["status.phase"]),
    ("", "Node", &["spec.unschedulable"]),
    ("", "ReplicationController", &["status.replicas"]),
    ("", "Event", EVENT),
    ("events.k8s.io", "Event", EVENT),
    ("apps", "ReplicaSet", &["status.replicas"]),
    ("batch", "Job", &["status.successful"]),
    ("certificates.k8s.io", "CertificateSigningRequest", &["spec.signerName"]),
    ("networking.k8s.io", "IPAddress", &[]),
];

const EVENT: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingComponent",
    "reportingController",
    "source",
    "type",
];

impl Fields {
    /// Reads a selector for a resource.
    ///
    /// # Errors
    /// 400 when a field is not offered or the text cannot be read.
    pub fn parse(text: &str, resource: &ResourceType) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = part.split_once("==") {
                (path, value, true)
            } else if let Some((path, value)) = part.split_once('=') {
                (path, value, true)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            if !is_offered(path, resource) {
                return Err(Status::bad_request(refusal(path, resource)));
            }
            requirements.push(Requirement {
                path: path.to_owned(),
                value: value.to_owned(),
                equal,
            });
        }
        Ok(Self(requirements))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|r| (value_at(object, &r.path) == r.value) == r.equal)
    }

    /// The name that selected objects must have, if there is one.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|r| r.path == "metadata.name" && r.equal).map(|r| r.value.as_str())
    }
}

fn is_offered(path: &str, resource: &ResourceType) -> bool {
    if path == "metadata.name" || (path == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if let Some(custom) = &resource.custom {
        return custom.selectable_fields.iter().any(|field| field.trim_start_matches('.') == path);
    }
    // Built-in cluster-scoped kinds know the namespace field too; it is always empty.
    path == "metadata.namespace"
        || OFFERED.iter().any(|(group, kind, fields)| {
            *group == resource.group && *kind == resource.kind && fields.contains(&path)
        })
}

fn refusal(path: &str, resource: &ResourceType) -> String {
    let has_own = OFFERED.iter().any(|(g, k, _)| *g == resource.group && *k == resource.kind);
    if resource.custom.is_some() || !has_own {
        return format!(
            "\"{path}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
    format!("field label not supported: {path}")
}

fn value_at(object: &Value, path: &str) -> String {
    let path = match path.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None => path.to_owned(),
    };
    match path.as_str() {
        "source" => return text(&object["source"]["component"]),
        "reportingController" => return text(&object["reportingComponent"]),
        "status.podIPs" => return text(&object["status"]["podIP"]),
        "status.successful" => return number(&object["status"]["succeeded"]),
        "status.replicas" => return number(&object["status"]["replicas"]),
        "spec.unschedulable" | "spec.hostNetwork" => {
            let field = path.trim_start_matches("spec.");
            return object["spec"][field].as_bool().unwrap_or(false).to_string();
        }
        _ => (),
    }
    let mut at = object;
    for segment in path.split('.') {
        at = &at[segment];
    }
    text(at)
}

fn number(value: &Value) -> String {
    value.as_i64().unwrap_or(0).to_string()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
