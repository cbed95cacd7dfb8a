//! Probes of the application, asked by way of the proxy: the kubelet has no mesh certificate, so
//! it asks the agent, which asks the application as if from within the pod.

use serde_json::{Map, Value, json};

use crate::inject::container::put;
use crate::inject::{Context, PROXY, items, list, name};

const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
const HANDLERS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];

/// Rewrites what the kubelet asks and tells the agent what was there. `before` is what an earlier
/// injection rewrote.
pub(crate) fn rewrite(context: &Context<'_>, pod: &mut Value, before: Option<String>) {
    let by_default = context.value("/sidecarInjectorWebhook/rewriteAppHTTPProbe");
    let by_default = by_default.and_then(Value::as_bool).unwrap_or(true);
    let port = context.settings.status_port;
    if !context.settings.rewrite_probes.unwrap_or(by_default) || port == 0 {
        return;
    }
    let before: Map<String, Value> =
        before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let mut probers = Map::new();
    let injected = |container: &Value| name(container) == PROXY;
    for field in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = pod.pointer_mut(&format!("/spec/{field}")) else {
            continue;
        };
        for container in containers.iter_mut().filter(|container| !injected(container)) {
            rewrite_container(container, port, &before, &mut probers);
        }
    }
    if probers.is_empty() {
        return;
    }
    let text = Value::Object(probers).to_string();
    if let Some(proxy) = proxy_mut(pod) {
        put(list(proxy, "env"), VARIABLE, &text);
    }
}

fn rewrite_container(
    container: &mut Value,
    status: u16,
    before: &Map<String, Value>,
    probers: &mut Map<String, Value>,
) {
    let own = container.clone();
    for (field, path) in PROBES {
        let path = format!("/app-health/{}/{path}", name(&own));
        let Some(probe) = container.get_mut(field) else { continue };
        rewrite_one(probe, &own, path, status, before, probers);
    }
    for (field, path) in HANDLERS {
        let path = format!("/app-lifecycle/{}/{path}", name(&own));
        let Some(handler) = container.pointer_mut(&format!("/lifecycle/{field}")) else { continue };
        // Other handlers than HTTP run inside the container anyway.
        if handler.get("httpGet").is_some() {
            rewrite_one(handler, &own, path, status, before, probers);
        }
    }
}

fn rewrite_one(
    probe: &mut Value,
    container: &Value,
    path: String,
    status: u16,
    before: &Map<String, Value>,
    probers: &mut Map<String, Value>,
) {
    let ours = json!({"path": path, "port": status});
    let rewritten = probe.get("httpGet").is_some_and(|get| {
        get.get("path") == ours.get("path") && get.get("port") == ours.get("port")
    });
    if rewritten {
        if let Some(original) = before.get(&path) {
            probers.insert(path, original.clone());
        }
        return;
    }
    let Some((kind, mut action)) = ["httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .find_map(|kind| Some((kind, probe.get(kind)?.clone())))
    else {
        return;
    };
    if let Some(port) = action.get("port").cloned() {
        action["port"] = number(&port, container);
    }
    let mut original = json!({kind: action});
    if let Some(timeout) = probe.get("timeoutSeconds") {
        original["timeoutSeconds"] = timeout.clone();
    }
    probers.insert(path, original);
    if let Some(fields) = probe.as_object_mut() {
        fields.remove(kind);
        fields.insert("httpGet".into(), ours);
    }
}

/// A named port as its number; the agent does not know the names.
fn number(port: &Value, container: &Value) -> Value {
    let Some(text) = port.as_str() else { return port.clone() };
    let named = items(container, "/ports").iter().find(|it| name(it) == text);
    named.and_then(|it| it.get("containerPort")).cloned().unwrap_or_else(|| port.clone())
}

/// The injected container, wherever it is.
pub(crate) fn proxy_mut(pod: &mut Value) -> Option<&mut Value> {
    let is_in = |pod: &Value, field: &str| {
        items(pod, &format!("/spec/{field}")).iter().any(|it| name(it) == PROXY)
    };
    let field = ["initContainers", "containers"].into_iter().find(|field| is_in(pod, field))?;
    let containers = pod.pointer_mut(&format!("/spec/{field}"))?.as_array_mut()?;
    containers.iter_mut().find(|container| name(container) == PROXY)
}
