//! Whether pods get the proxy that their namespace promises.

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, items, namespace, text};
use crate::object::Object;

/// Namespaces whose pods never have a proxy.
const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// IST0102, IST0103 and IST0123.
pub(super) fn injection(world: &World, out: &mut Vec<Message>) {
    for cluster in &world.clusters {
        for space in cluster.of("Namespace") {
            let name = space.name();
            if SYSTEM.contains(&name) || name == world.system || name == "metallb-system" {
                continue;
            }
            let word = space.label("istio-injection");
            let revision = space.label("istio.io/rev");
            let pods = || cluster.of("Pod").filter(move |pod| namespace(pod) == name);
            match (word, revision) {
                (Some(_), Some(_)) => {
                    let text = "it has both labels istio-injection and istio.io/rev, and \
                                istio-injection wins: remove one of them"
                        .to_owned();
                    out.push(Message::about(space, Level::Warning, "IST0123", text));
                }
                (None, None) if pods().next().is_some() => {
                    let text = format!(
                        "it is not enabled for injection, so its pods in cluster {} have no \
                         proxy: label it with `kubectl label namespace {name} \
                         istio-injection=enabled`, or =disabled to say so",
                        cluster.name
                    );
                    out.push(Message::about(space, Level::Info, "IST0102", text));
                }
                _ => (),
            }
            let enabled = word == Some("enabled") || (word.is_none() && revision.is_some());
            for pod in pods().filter(|pod| enabled && wants(pod) && !has_proxy(pod)) {
                let text = format!(
                    "it has no proxy although its namespace is enabled for injection: restart it \
                     (cluster {})",
                    cluster.name
                );
                out.push(Message::about(pod, Level::Warning, "IST0103", text));
            }
        }
    }
}

fn wants(pod: &Object) -> bool {
    let annotation = text(pod.value(), "/metadata/annotations/sidecar.istio.io~1inject");
    let ended = matches!(text(pod.value(), "/status/phase"), "Succeeded" | "Failed");
    let host = pod.value().pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
    pod.label("sidecar.istio.io/inject") != Some("false")
        && annotation != "false"
        && !ended
        && !host
}

fn has_proxy(pod: &Object) -> bool {
    containers(pod.value()).any(|it| text(it, "/name") == "istio-proxy")
}

fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    items(object, "/spec/initContainers").iter().chain(items(object, "/spec/containers"))
}

/// IST0146 and IST0147: `image: auto` is replaced by injection, and by nothing else.
pub(super) fn image_auto(world: &World, out: &mut Vec<Message>) {
    let is_auto = |it: &Value| text(it, "/image") == "auto";
    for cluster in &world.clusters {
        for pod in cluster.of("Pod").filter(|pod| containers(pod.value()).any(is_auto)) {
            let text = "a container still has the image `auto`, which only injection replaces: \
                        the pod was not injected"
                .to_owned();
            out.push(Message::about(pod, Level::Error, "IST0147", text));
        }
        for kind in ["Deployment", "DaemonSet"] {
            for workload in cluster.of(kind) {
                let Some(template) = workload.value().pointer("/spec/template") else { continue };
                if !containers(template).any(is_auto) {
                    continue;
                }
                let space = cluster.of("Namespace").find(|it| it.name() == namespace(workload));
                let word = text(template, "/metadata/labels/sidecar.istio.io~1inject");
                let label = |key| space.and_then(|space| space.label(key));
                let disabled = label("istio-injection") == Some("disabled");
                let enabled =
                    label("istio-injection") == Some("enabled") || label("istio.io/rev").is_some();
                let revision = text(template, "/metadata/labels/istio.io~1rev");
                let asks = word == "true" || !revision.is_empty();
                if word == "false" || disabled || !(enabled || asks) {
                    let text = "a container has the image `auto`, which only injection replaces, \
                                but its pods are not injected: label the pod template with \
                                sidecar.istio.io/inject=true"
                        .to_owned();
                    out.push(Message::about(workload, Level::Warning, "IST0146", text));
                }
            }
        }
    }
}
