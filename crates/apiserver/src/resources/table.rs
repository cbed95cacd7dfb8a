//! The built-in resource types, one line each, in discovery order.
//!
//! Columns: group, version, kind, plural, short names, categories, scope (`N` namespaced, `C`
//! cluster), verbs, subresources. A subresource is `name[=[group/]version/Kind][:verbs]`; the kind
//! defaults to the resource's own. Verbs are letters: c create, d delete, D deletecollection,
//! g get, l list, p patch, u update, w watch.

use std::sync::{Arc, LazyLock};

use super::{ResourceType, Subresource};
use crate::schema;

const ALL: &str = "cdDglpuw";
const STATUS: &str = "status:gpu";

type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    char,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("", "v1", "Binding", "bindings", "", "", 'N', "c", ""),
    ("", "v1", "ComponentStatus", "componentstatuses", "cs", "", 'C', "gl", ""),
    ("", "v1", "ConfigMap", "configmaps", "cm", "", 'N', ALL, ""),
    ("", "v1", "Endpoints", "endpoints", "ep", "", 'N', ALL, ""),
    ("", "v1", "Event", "events", "ev", "", 'N', ALL, ""),
    ("", "v1", "LimitRange", "limitranges", "limits", "", 'N', ALL, ""),
    ("", "v1", "Namespace", "namespaces", "ns", "", 'C', "cdglpuw", "finalize:u status:gpu"),
    ("", "v1", "Node", "nodes", "no", "", 'C', ALL, "proxy=v1/NodeProxyOptions:cdgpu status:gpu"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "", 'N', ALL, STATUS),
    ("", "v1", "PersistentVolume", "persistentvolumes", "pv", "", 'C', ALL, STATUS),
    ("", "v1", "Pod", "pods", "po", "all", 'N', ALL, "attach=v1/PodAttachOptions:cg binding=v1/Binding:c ephemeralcontainers:gpu eviction=policy/v1/Eviction:c exec=v1/PodExecOptions:cg log:g portforward=v1/PodPortForwardOptions:cg proxy=v1/PodProxyOptions:cdgpu resize:gpu status:gpu"),
    ("", "v1", "PodTemplate", "podtemplates", "", "", 'N', ALL, ""),
    ("", "v1", "ReplicationController", "replicationcontrollers", "rc", "all", 'N', ALL, "scale=autoscaling/v1/Scale:gpu status:gpu"),
    ("", "v1", "ResourceQuota", "resourcequotas", "quota", "", 'N', ALL, STATUS),
    ("", "v1", "Secret", "secrets", "", "", 'N', ALL, ""),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "", 'N', ALL, "token=authentication.k8s.io/v1/TokenRequest:c"),
    ("", "v1", "Service", "services", "svc", "all", 'N', ALL, "proxy=v1/ServiceProxyOptions:cdgpu status:gpu"),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", "", "api-extensions", 'C', ALL, STATUS),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", "", "", 'N', ALL, ""),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", "all", 'N', ALL, STATUS),
    ("apps", "v1", "Deployment", "deployments", "deploy", "all", 'N', ALL, "scale=autoscaling/v1/Scale:gpu status:gpu"),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", "all", 'N', ALL, "scale=autoscaling/v1/Scale:gpu status:gpu"),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts", "all", 'N', ALL, "scale=autoscaling/v1/Scale:gpu status:gpu"),
    ("events.k8s.io", "v1", "Event", "events", "ev", "", 'N', ALL, ""),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", "", 'C', "c", ""),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", "", 'C', "c", ""),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "", "", 'N', "c", ""),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", "", 'C', "c", ""),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", "", 'C', "c", ""),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", "", 'C', "c", ""),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "all", 'N', ALL, STATUS),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "all", 'N', ALL, STATUS),
    ("batch", "v1", "CronJob", "cronjobs", "cj", "all", 'N', ALL, STATUS),
    ("batch", "v1", "Job", "jobs", "", "all", 'N', ALL, STATUS),
    ("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", "csr", "", 'C', ALL, "approval:gpu status:gpu"),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "", "", 'C', ALL, ""),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "", 'N', ALL, STATUS),
    ("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ip", "", 'C', ALL, ""),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "", 'N', ALL, ""),
    ("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "", "", 'C', ALL, STATUS),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "", 'N', ALL, STATUS),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", "", 'C', ALL, ""),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", "", 'C', ALL, ""),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "", 'N', ALL, ""),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "", 'N', ALL, ""),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "", "", 'C', ALL, ""),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", "", "", 'C', ALL, ""),
    ("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "", "", 'N', ALL, ""),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", "", 'C', ALL, ""),
    ("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "", "", 'C', ALL, STATUS),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "", "api-extensions", 'C', ALL, ""),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "", "api-extensions", 'C', ALL, ""),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "crd,crds", "api-extensions", 'C', ALL, STATUS),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", "", 'C', ALL, ""),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "", 'N', ALL, ""),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", "", 'C', ALL, ""),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "", 'N', ALL, ""),
];

/// The table as types, built once.
pub fn builtin() -> &'static [Arc<ResourceType>] {
    static TYPES: LazyLock<Vec<Arc<ResourceType>>> =
        LazyLock::new(|| ROWS.iter().map(|row| Arc::new(resource(row))).collect());
    &TYPES
}

fn resource(row: &Row) -> ResourceType {
    let &(group, version, kind, plural, short, categories, scope, letters, subresources) = row;
    ResourceType {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: words(short),
        categories: words(categories),
        namespaced: scope == 'N',
        verbs: verbs(letters),
        subresources: subresources
            .split_whitespace()
            .map(|text| subresource(text, (group, version, kind)))
            .collect(),
        schema: schema::builtin(group, version, kind),
        custom: None,
        // Both event APIs show the same objects.
        storage: match (group, plural) {
            ("events.k8s.io", "events") => "/events".to_owned(),
            _ => format!("{group}/{plural}"),
        },
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn subresource(text: &str, own: (&str, &str, &str)) -> Subresource {
    let (head, letters) = text.split_once(':').unwrap_or((text, "g"));
    let (name, kind) = head.split_once('=').unwrap_or((head, ""));
    let (group, version, kind) = match kind.split('/').collect::<Vec<_>>()[..] {
        [group, version, kind] => (group, version, kind),
        [version, kind] => ("", version, kind),
        _ => own,
    };
    Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs(letters),
    }
}

fn verbs(letters: &str) -> Vec<String> {
    letters
        .chars()
        .filter_map(|letter| {
            Some(match letter {
                'c' => "create",
                'd' => "delete",
                'D' => "deletecollection",
                'g' => "get",
                'l' => "list",
                'p' => "patch",
                'u' => "update",
                'w' => "watch",
                _ => return None,
            })
        })
        .map(str::to_owned)
        .collect()
}
