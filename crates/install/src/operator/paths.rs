//! `--set` paths, and which paths of a document something reads.

use serde_json::{Value, json};

/// Why a `--set` argument could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum SetPathError {
    #[error("--set {0}: write PATH=VALUE, for example values.global.network=network1")]
    NoValue(String),
    #[error(
        "--set {0}: `{1}` is not a list index; write it like components.ingressGateways[0].enabled=true"
    )]
    BadIndex(String, String),
}

enum Step {
    Key(String),
    Index(usize),
}

/// Applies one `path=value` to a spec. Values are read as YAML scalars.
pub(super) fn set(spec: &mut Value, argument: &str) -> Result<(), SetPathError> {
    let Some((path, text)) = argument.split_once('=').filter(|(path, _)| !path.is_empty()) else {
        return Err(SetPathError::NoValue(argument.to_owned()));
    };
    let value: Value =
        serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let path = path.strip_prefix("spec.").unwrap_or(path);
    let mut place = spec;
    for step in steps(argument, path)? {
        place = match step {
            Step::Key(key) => {
                if !place.is_object() {
                    *place = json!({});
                }
                place
                    .as_object_mut()
                    .expect("made a mapping above")
                    .entry(key)
                    .or_insert(Value::Null)
            }
            Step::Index(index) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().expect("made a list above");
                if list.len() <= index {
                    list.resize(index + 1, Value::Null);
                }
                list.get_mut(index).expect("made long enough above")
            }
        };
    }
    *place = value;
    Ok(())
}

/// Splits at dots that are not escaped by `\`, and takes `[n]` off the end of a key.
fn steps(argument: &str, path: &str) -> Result<Vec<Step>, SetPathError> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in path.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' if !escaped => parts.push(String::new()),
            c => {
                escaped = false;
                parts.last_mut().expect("starts with one part").push(c);
            }
        }
    }
    let mut steps = Vec::new();
    for part in parts {
        let mut rest = part.as_str();
        let key = rest.find('[').map_or(rest, |at| &rest[..at]);
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        rest = &rest[key.len()..];
        while let Some(inner) = rest.strip_prefix('[') {
            let bad = || SetPathError::BadIndex(argument.to_owned(), part.clone());
            let (index, after) = inner.split_once(']').ok_or_else(bad)?;
            // Bounded, so that a typing mistake does not ask for all memory.
            let index = index.parse().ok().filter(|index| *index < 1000).ok_or_else(bad)?;
            steps.push(Step::Index(index));
            rest = after;
        }
    }
    Ok(steps)
}

/// The paths that the renderer, the control plane or the injector read. `*` stands for one key or
/// list index, `**` for everything below.
const SUPPORTED: &[&str] = &[
    "profile",
    "hub",
    "tag",
    "revision",
    "namespace",
    "meshConfig.**",
    "components.base.enabled",
    "components.pilot.enabled",
    "components.pilot.k8s.env.**",
    "components.pilot.k8s.replicaCount",
    "components.pilot.k8s.resources.**",
    "components.pilot.k8s.nodeSelector.**",
    "components.pilot.k8s.tolerations.**",
    "components.pilot.k8s.podAnnotations.**",
    "components.ingressGateways.**",
    "components.egressGateways.**",
    "values.revision",
    "values.meshConfig.**",
    "values.global.hub",
    "values.global.tag",
    "values.global.istioNamespace",
    "values.global.meshID",
    "values.global.multiCluster.clusterName",
    "values.global.multiCluster.enabled",
    "values.global.network",
    "values.global.meshNetworks.**",
    "values.global.logAsJson",
    "values.global.logging.level",
    "values.global.configCluster",
    "values.global.configValidation",
    "values.global.remotePilotAddress",
    "values.global.externalIstiod",
    "values.global.omitSidecarInjectorConfigMap",
    "values.global.caAddress",
    "values.global.pilotCertProvider",
    "values.global.sds.token.aud",
    "values.global.proxy.**",
    "values.istiodRemote.enabled",
    "values.istiodRemote.injectionPath",
    "values.istiodRemote.injectionURL",
    "values.istiodRemote.injectionCABundle",
    "values.base.validationURL",
    "values.pilot.env.**",
    "values.pilot.replicaCount",
    "values.pilot.autoscaleEnabled",
    "values.pilot.autoscaleMin",
    "values.pilot.autoscaleMax",
    "values.pilot.resources.**",
    "values.pilot.nodeSelector.**",
    "values.pilot.tolerations.**",
    "values.pilot.podAnnotations.**",
    "values.pilot.podLabels.**",
    "values.pilot.traceSampling",
    "values.sidecarInjectorWebhook.**",
    "values.gateways.istio-ingressgateway.injectionTemplate",
];

/// The full paths of everything in a spec that nothing reads.
pub(super) fn unsupported(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(spec, &mut Vec::new(), &mut found);
    found
}

fn walk(value: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    if !path.is_empty() && SUPPORTED.iter().any(|pattern| covers(pattern, path)) {
        return;
    }
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(key.clone());
                walk(value, path, found);
                path.pop();
            }
        }
        Value::Null => (),
        _ if path.is_empty() => (),
        _ => found.push(format!("spec.{}", path.join("."))),
    }
}

fn covers(pattern: &str, path: &[String]) -> bool {
    let mut parts = pattern.split('.');
    for key in path {
        match parts.next() {
            Some("**") => return true,
            Some(part) if part == key => (),
            _ => return false,
        }
    }
    matches!(parts.next(), None | Some("**"))
}
