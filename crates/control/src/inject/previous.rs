//! Takes out what an earlier injection put in, so that injecting again starts from the pod as its
//! owner wrote it.

use serde::Deserialize;
use serde_json::Value;

use crate::inject::{INIT, OVERRIDES, PROXY, Refused, STATUS, items, list, name};

const PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";
const PROMETHEUS: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

/// A pod without a proxy, and what the owner said about the proxy.
pub(crate) struct Taken {
    pub pod: Value,
    /// The owner's own `istio-proxy` container.
    pub overrides: Option<Value>,
    /// Probes that were rewritten, as the proxy's environment holds them.
    pub probers: Option<String>,
    /// The application's own metrics port, as the proxy's environment holds it.
    pub prometheus: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    init_containers: Option<Vec<String>>,
    containers: Option<Vec<String>>,
    volumes: Option<Vec<String>>,
}

pub(crate) fn take_out(pod: &Value) -> Result<Taken, Refused> {
    let mut pod = pod.clone();
    let annotation = |pod: &Value, key: &str| {
        let annotations = pod.pointer("/metadata/annotations");
        annotations.and_then(|all| all.get(key)).and_then(Value::as_str).map(str::to_owned)
    };
    let Some(status) = annotation(&pod, STATUS) else {
        let overrides = remove(&mut pod, "containers", PROXY)
            .or_else(|| remove(&mut pod, "initContainers", PROXY));
        return Ok(Taken { pod, overrides, probers: None, prometheus: None });
    };
    let variable = |variable: &str| {
        let containers = ["/spec/containers", "/spec/initContainers"].map(|at| items(&pod, at));
        let mut proxies = containers.into_iter().flatten().filter(|it| name(it) == PROXY);
        let env = proxies.next().map(|proxy| items(proxy, "/env")).unwrap_or_default();
        let found = env.iter().find(|it| name(it) == variable);
        found.and_then(|it| it.get("value")).and_then(Value::as_str).map(str::to_owned)
    };
    let (probers, prometheus) = (variable(PROBERS), variable(PROMETHEUS));
    let overrides = match annotation(&pod, OVERRIDES) {
        None => None,
        Some(text) => Some(overridden(&text)?),
    };
    // A status that is damaged names nothing; the usual names are taken out anyway.
    let status: Status = serde_json::from_str(&status).unwrap_or_default();
    let names = |of: Option<Vec<String>>, usual: &[&str]| {
        let mut names = of.unwrap_or_default();
        names.extend(usual.iter().map(|name| (*name).to_owned()));
        names
    };
    for name in names(status.init_containers, &[INIT, PROXY]) {
        remove(&mut pod, "initContainers", &name);
    }
    for name in names(status.containers, &[PROXY]) {
        remove(&mut pod, "containers", &name);
    }
    for name in names(status.volumes, &[]) {
        remove(&mut pod, "volumes", &name);
    }
    Ok(Taken { pod, overrides, probers, prometheus })
}

/// The owner's container out of the annotation, which holds lists as a pod does.
fn overridden(text: &str) -> Result<Value, Refused> {
    let all: Value =
        serde_json::from_str(text).map_err(|error| Refused::Overrides(error.to_string()))?;
    let mut lists = ["/containers", "/initContainers"].into_iter().flat_map(|at| items(&all, at));
    lists
        .find(|container| name(container) == PROXY)
        .cloned()
        .ok_or_else(|| Refused::Overrides(format!("it names no container {PROXY}")))
}

fn remove(pod: &mut Value, field: &str, wanted: &str) -> Option<Value> {
    pod.pointer(&format!("/spec/{field}"))?;
    let list = list(&mut pod["spec"], field);
    let at = list.iter().position(|item| name(item) == wanted)?;
    Some(list.remove(at))
}
