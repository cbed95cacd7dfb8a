//! Validation: what Kubernetes refuses with 422, in its words.

use serde_json::Value;

use crate::crd;
use crate::errors::Errors;
use crate::operation::Operation;
use crate::resources::ResourceType;
use crate::status::Cause;

pub mod metadata;
mod pods;
mod policy;
mod services;
mod workloads;

/// What is wrong with a new object.
pub fn create(operation: &Operation, value: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::check(&operation.resource, value, &mut errors);
    spec(&operation.resource, value, &mut errors);
    custom(&operation.resource, value, None, &mut errors);
    errors.into_causes()
}

/// Custom resources are checked against their definition.
fn custom(resource: &ResourceType, value: &Value, old: Option<&Value>, errors: &mut Errors) {
    if let Some(custom) = &resource.custom {
        errors.extend(crd::check::check(&custom.open_api, custom.rules.as_ref(), value, old));
    }
}

/// What is wrong with a change.
pub fn update(operation: &Operation, new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::check(&operation.resource, new, &mut errors);
    metadata::check_change(new, old, &mut errors);
    metadata::check_change(new, old, &mut errors);
    let resource = &operation.resource;
    if operation.subresource().is_empty() {
        // What can hardly change is not checked as if it were new.
        let change_first = resource.storage == "apps/daemonsets";
        if change_first {
            change(resource, new, old, &mut errors);
        }
        if resource.storage != "/pods" {
            spec(resource, new, &mut errors);
        }
        if !change_first {
            change(resource, new, old, &mut errors);
        }
    }
    custom(&operation.resource, new, Some(old), &mut errors);
    errors.into_causes()
}

fn spec(resource: &ResourceType, value: &Value, errors: &mut Errors) {
    match resource.storage.as_str() {
        crd::definition::STORAGE => crd::definition::validate(value, errors),
        "/pods" => pods::spec(&value["spec"], "spec", errors),
        "/services" => services::service(value, errors),
        "/configmaps" => policy::config_map(value, errors),
        "/secrets" => policy::secret(value, errors),
        "apps/deployments" => {
            workloads::workload(value, "deployment", errors);
            workloads::deployment(value, errors);
        }
        "apps/replicasets" => workloads::workload(value, "deployment", errors),
        "apps/daemonsets" => workloads::workload(value, "daemonset", errors),
        "apps/statefulsets" => workloads::workload(value, "statefulset", errors),
        "batch/jobs" => workloads::job(&value["spec"], "spec", errors),
        "batch/cronjobs" => workloads::cron_job(value, errors),
        "policy/poddisruptionbudgets" => services::budget(value, errors),
        "discovery.k8s.io/endpointslices" => services::slice(value, errors),
        "rbac.authorization.k8s.io/roles" => policy::role(value, true, errors),
        "rbac.authorization.k8s.io/clusterroles" => policy::role(value, false, errors),
        "rbac.authorization.k8s.io/rolebindings" => policy::binding(value, true, errors),
        "rbac.authorization.k8s.io/clusterrolebindings" => policy::binding(value, false, errors),
        "admissionregistration.k8s.io/mutatingwebhookconfigurations"
        | "admissionregistration.k8s.io/validatingwebhookconfigurations" => {
            policy::webhooks(value, errors);
        }
        _ => (),
    }
}

fn change(resource: &ResourceType, new: &Value, old: &Value, errors: &mut Errors) {
    match resource.storage.as_str() {
        crd::definition::STORAGE => crd::definition::change(new, old, errors),
        "/pods" => pods::change(new, old, errors),
        "/services" => services::service_change(new, old, errors),
        "/configmaps" | "/secrets" => policy::data_change(new, old, errors),
        "apps/deployments" | "apps/replicasets" | "apps/daemonsets" | "apps/statefulsets" => {
            workloads::change(&resource.kind, new, old, errors);
        }
        "batch/jobs" => workloads::job_change(new, old, errors),
        "discovery.k8s.io/endpointslices" => services::slice_change(new, old, errors),
        "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings" => {
            policy::binding_change(new, old, errors);
        }
        _ => (),
    }
}
