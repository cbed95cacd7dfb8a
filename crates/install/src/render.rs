//! Renders an installation to Kubernetes objects: what `install` applies and `manifest generate`
//! prints.
//!
//! Pure and ordered: equal installations give equal objects in an order that can be applied.

use serde_json::{Value, json};

use crate::object::Object;
use crate::operator::{Operator, VERSION};

mod base;
mod gateway;
mod istiod;
mod rbac;
mod remote;
mod webhooks;

pub use base::READER;

/// Objects of one component, in the order they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Istio's name: `Base`, `Pilot`, `IngressGateways`, `EgressGateways`.
    pub name: &'static str,
    pub objects: Vec<Object>,
}

/// Everything an installation consists of, by component, in the order of installation.
pub fn render(operator: &Operator) -> Vec<Component> {
    let mut components = Vec::new();
    if operator.enabled("base") {
        components.push(Component { name: "Base", objects: base::objects(operator) });
    }
    if operator.enabled("pilot") {
        let objects = if operator.is_remote() {
            remote::objects(operator)
        } else {
            istiod::objects(operator)
        };
        components.push(Component { name: "Pilot", objects });
    }
    for gateway in operator.gateways() {
        components.push(Component {
            name: gateway.component,
            objects: gateway::objects(operator, &gateway),
        });
    }
    for component in &mut components {
        for object in &mut component.objects {
            stamp(object, operator, component.name);
        }
    }
    components
}

/// The labels by which an installation finds its own objects again.
fn stamp(object: &mut Object, operator: &Operator, component: &str) {
    object.set_label("operator.istio.io/managed", "Reconcile");
    object.set_label("operator.istio.io/version", VERSION);
    object.set_label("operator.istio.io/component", component);
    object.set_label("install.operator.istio.io/owning-resource", &operator.name);
    object.set_label("app.kubernetes.io/managed-by", "tombolo");
    object.set_label("app.kubernetes.io/part-of", "istio");
    object.set_label("istio.io/rev", operator.revision_label());
}

/// `{apiVersion, kind, metadata: {name[, namespace][, labels]}}` merged with `rest`.
fn object(api_version: &str, kind: &str, metadata: Value, rest: Value) -> Object {
    let mut value = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
    if let (Some(value), Value::Object(rest)) = (value.as_object_mut(), rest) {
        value.extend(rest);
    }
    Object::new(value)
}

fn service_account(name: &str, namespace: &str, app: &str) -> Object {
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": app}});
    object("v1", "ServiceAccount", metadata, json!({}))
}

/// A HorizontalPodAutoscaler over a Deployment of the same name.
fn autoscaler(name: &str, namespace: &str, app: &str, spec: &Value) -> Object {
    let at = |key: &str, default: u64| spec.get(key).and_then(Value::as_u64).unwrap_or(default);
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": app}});
    let spec = json!({"spec": {
        "minReplicas": at("minReplicas", 1),
        "maxReplicas": at("maxReplicas", 5),
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
    }});
    object("autoscaling/v2", "HorizontalPodAutoscaler", metadata, spec)
}

#[cfg(test)]
mod tests;
