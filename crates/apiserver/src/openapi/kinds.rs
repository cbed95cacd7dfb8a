//! The built-in kinds that have a schema, by group and version.

use k8s_openapi::api::admissionregistration::v1 as admissionregistration_v1;
use k8s_openapi::api::apps::v1 as apps_v1;
use k8s_openapi::api::authentication::v1 as authentication_v1;
use k8s_openapi::api::authorization::v1 as authorization_v1;
use k8s_openapi::api::autoscaling::v1 as autoscaling_v1;
use k8s_openapi::api::autoscaling::v2 as autoscaling_v2;
use k8s_openapi::api::batch::v1 as batch_v1;
use k8s_openapi::api::certificates::v1 as certificates_v1;
use k8s_openapi::api::coordination::v1 as coordination_v1;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1 as discovery_v1;
use k8s_openapi::api::events::v1 as events_v1;
use k8s_openapi::api::networking::v1 as networking_v1;
use k8s_openapi::api::node::v1 as node_v1;
use k8s_openapi::api::policy::v1 as policy_v1;
use k8s_openapi::api::rbac::v1 as rbac_v1;
use k8s_openapi::api::scheduling::v1 as scheduling_v1;
use k8s_openapi::api::storage::v1 as storage_v1;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions_v1;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration_v1;
use schemars::{JsonSchema, SchemaGenerator};

/// Adds the schemas of a kind and of all it is made of; returns the name of its own.
type Add = fn(&mut SchemaGenerator) -> String;

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) -> String {
    generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

macro_rules! kinds {
    ($($group:literal $version:literal $module:ident { $($kind:ident)+ })+) => {
        &[$(($group, $version, &[$((stringify!($kind), add::<$module::$kind>)),+])),+]
    };
}

type Group = (&'static str, &'static str, &'static [(&'static str, Add)]);

#[rustfmt::skip]
const KINDS: &[Group] = kinds! {
    "" "v1" core_v1 { Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim PersistentVolume Pod PodTemplate ReplicationController ResourceQuota Secret ServiceAccount Service }
    "apps" "v1" apps_v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
    "events.k8s.io" "v1" events_v1 { Event }
    "authentication.k8s.io" "v1" authentication_v1 { SelfSubjectReview TokenRequest TokenReview }
    "authorization.k8s.io" "v1" authorization_v1 { LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview }
    "autoscaling" "v2" autoscaling_v2 { HorizontalPodAutoscaler }
    "autoscaling" "v1" autoscaling_v1 { HorizontalPodAutoscaler Scale }
    "batch" "v1" batch_v1 { CronJob Job }
    "certificates.k8s.io" "v1" certificates_v1 { CertificateSigningRequest }
    "networking.k8s.io" "v1" networking_v1 { IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR }
    "policy" "v1" policy_v1 { Eviction PodDisruptionBudget }
    "rbac.authorization.k8s.io" "v1" rbac_v1 { ClusterRoleBinding ClusterRole RoleBinding Role }
    "storage.k8s.io" "v1" storage_v1 { CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment }
    "admissionregistration.k8s.io" "v1" admissionregistration_v1 { MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration }
    "scheduling.k8s.io" "v1" scheduling_v1 { PriorityClass }
    "coordination.k8s.io" "v1" coordination_v1 { Lease }
    "node.k8s.io" "v1" node_v1 { RuntimeClass }
    "discovery.k8s.io" "v1" discovery_v1 { EndpointSlice }
    "apiextensions.k8s.io" "v1" apiextensions_v1 { CustomResourceDefinition }
    "apiregistration.k8s.io" "v1" apiregistration_v1 { APIService }
};

/// The kinds of a group and version.
pub fn kinds(group: &str, version: &str) -> &'static [(&'static str, Add)] {
    let found = KINDS.iter().find(|(g, v, _)| *g == group && *v == version);
    found.map_or(&[], |(_, _, kinds)| kinds)
}

/// The name of the schema of a built-in kind, as Kubernetes names it.
pub fn schema_name(group: &str, version: &str, kind: &str) -> Option<String> {
    kinds(group, version).iter().find(|(name, _)| *name == kind)?;
    Some(match group {
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        _ => {
            let short = group.split('.').next().unwrap_or(group);
            format!("io.k8s.api.{short}.{version}.{kind}")
        }
    })
}
