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
mod kubernetes;
mod patches;
mod rbac;
mod remote;
mod webhooks;

pub use base::READER;
pub use patches::PatchError;
pub use webhooks::injection_name;

/// Objects of one component, in the order they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Istio's name: `Base`, `Pilot`, `IngressGateways`, `EgressGateways`.
    pub name: &'static str,
    pub objects: Vec<Object>,
}

/// Everything an installation consists of, by component, in the order of installation.
pub fn render(operator: &Operator) -> Vec<Component> {
    components(operator).0
}

/// What `k8s.overlays` ask for that the rendered objects have no place for.
pub fn overlay_problems(operator: &Operator) -> Vec<PatchError> {
    components(operator).1
}

/// The account that remote secrets are made for, with what it may read.
pub fn reader(operator: &Operator) -> Vec<Object> {
    let mut objects = base::reader(operator);
    for object in &mut objects {
        stamp(object, operator, "Base");
    }
    objects
}

fn components(operator: &Operator) -> (Vec<Component>, Vec<PatchError>) {
    let (mut components, mut problems) = (Vec::new(), Vec::new());
    if operator.enabled("base") {
        let mut objects = base::objects(operator);
        kubernetes::patch(&mut objects, operator.base_k8s(), &mut problems);
        components.push(Component { name: "Base", objects });
    }
    if operator.enabled("pilot") {
        let mut objects = if operator.is_remote() {
            remote::objects(operator)
        } else {
            istiod::objects(operator)
        };
        let name = operator.revisioned("istiod");
        let target = kubernetes::Target {
            name: &name,
            namespace: operator.namespace(),
            container: "discovery",
            component: "Pilot",
            selector: istiod::selector(operator),
        };
        kubernetes::apply(&mut objects, &operator.pilot_k8s(), &target, &mut problems);
        components.push(Component { name: "Pilot", objects });
    }
    for gateway in operator.gateways() {
        let mut objects = gateway::objects(operator, &gateway);
        let target = kubernetes::Target {
            name: &gateway.name,
            namespace: &gateway.namespace,
            container: "istio-proxy",
            component: gateway.component,
            selector: gateway::selector(&gateway),
        };
        kubernetes::apply(&mut objects, &gateway.k8s, &target, &mut problems);
        components.push(Component { name: gateway.component, objects });
    }
    for component in &mut components {
        for object in &mut component.objects {
            stamp(object, operator, component.name);
        }
    }
    (components, problems)
}

/// The labels by which an installation finds its own objects again.
fn stamp(object: &mut Object, operator: &Operator, component: &str) {
    object.set_label("operator.istio.io/managed", "Reconcile");
    object.set_label("operator.istio.io/version", VERSION);
    object.set_label("operator.istio.io/component", component);
    object.set_label("install.operator.istio.io/owning-resource", &operator.name);
    object.set_label("install.operator.istio.io/owning-resource-namespace", operator.namespace());
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
    let at = |key: &str, default: u64| {
        spec.get(key).map(kubernetes::number).and_then(|it| it.as_u64()).unwrap_or(default)
    };
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
