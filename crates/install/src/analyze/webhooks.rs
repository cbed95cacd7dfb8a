//! Injection webhooks: a pod that two of them take gets two proxies, and one that leads nowhere
//! stops pods from being made.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::analyze::message::{Level, Message};
use crate::analyze::world::{World, items, text};
use crate::object::Object;

/// Labels that a namespace or a pod may carry in a trial.
type Labels = BTreeMap<&'static str, String>;

/// IST0139.
pub(super) fn webhooks(world: &World, out: &mut Vec<Message>) {
    let configurations: Vec<&Object> = world
        .of("MutatingWebhookConfiguration")
        .filter(|it| items(it.value(), "/webhooks").iter().any(injects))
        .collect();
    overlaps(&configurations, out);
    for object in configurations {
        missing_service(world, object, out);
    }
}

fn injects(webhook: &Value) -> bool {
    text(webhook, "/name").ends_with("sidecar-injector.istio.io")
}

fn missing_service(world: &World, object: &Object, out: &mut Vec<Message>) {
    let mut said = Vec::new();
    for webhook in items(object.value(), "/webhooks").iter().filter(|it| injects(it)) {
        let Some(service) = webhook.pointer("/clientConfig/service") else { continue };
        let (name, space) = (text(service, "/name"), text(service, "/namespace"));
        let there =
            world.of("Service").any(|it| it.name() == name && it.namespace() == Some(space));
        if there || said.contains(&(name, space)) {
            continue;
        }
        said.push((name, space));
        let text = format!(
            "its webhooks call service {space}/{name}, which does not exist: pods of injected \
             namespaces cannot be made"
        );
        out.push(Message::about(object, Level::Error, "IST0139", text));
    }
}

/// Tries every combination of the labels that injection looks at.
fn overlaps(configurations: &[&Object], out: &mut Vec<Message>) {
    let mut revisions: Vec<&str> =
        configurations.iter().filter_map(|it| it.label("istio.io/rev")).collect();
    revisions.extend(configurations.iter().filter_map(|it| it.label("istio.io/tag")));
    revisions.sort_unstable();
    revisions.dedup();
    let all: Vec<(&Object, &Value)> = configurations
        .iter()
        .flat_map(|object| {
            items(object.value(), "/webhooks")
                .iter()
                .filter(|webhook| injects(webhook))
                .map(move |webhook| (*object, webhook))
        })
        .collect();
    let (mut namespaces, mut pods) = (vec![Labels::new()], vec![Labels::new()]);
    for (key, value) in [("istio-injection", "enabled"), ("istio-injection", "disabled")] {
        namespaces.push(Labels::from([(key, value.to_owned())]));
    }
    for value in ["true", "false"] {
        pods.push(Labels::from([("sidecar.istio.io/inject", value.to_owned())]));
    }
    for revision in revisions {
        let revision = ("istio.io/rev", revision.to_owned());
        namespaces.push(Labels::from([revision.clone()]));
        pods.push(Labels::from([revision]));
    }
    let mut said: Vec<(&str, &str)> = Vec::new();
    for namespace in &namespaces {
        for pod in &pods {
            let taken: Vec<&(&Object, &Value)> = all
                .iter()
                .filter(|(_, webhook)| {
                    matches(webhook.get("namespaceSelector"), namespace)
                        && matches(webhook.get("objectSelector"), pod)
                })
                .collect();
            let [(first, one), (second, other), ..] = taken.as_slice() else { continue };
            let pair = (first.name(), second.name());
            if said.contains(&pair) {
                continue;
            }
            said.push(pair);
            let text = format!(
                "webhook {} overlaps with {} of {}: a pod labelled {} in a namespace labelled {} \
                 is injected twice",
                text(one, "/name"),
                text(other, "/name"),
                second.name(),
                shown(pod),
                shown(namespace)
            );
            out.push(Message::about(first, Level::Error, "IST0139", text));
        }
    }
}

fn shown(labels: &Labels) -> String {
    let all: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if all.is_empty() { "with nothing".to_owned() } else { all.join(",") }
}

/// Whether a label selector takes the labels (Kubernetes' rules; no selector takes all).
fn matches(selector: Option<&Value>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return true };
    let equal = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let expressions = items(selector, "/matchExpressions");
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key.as_str()).map(String::as_str) == value.as_str())
        && expressions.iter().all(|expression| {
            let value = labels.get(text(expression, "/key"));
            let listed = |value: &String| {
                items(expression, "/values").iter().any(|it| it.as_str() == Some(value))
            };
            match text(expression, "/operator") {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
