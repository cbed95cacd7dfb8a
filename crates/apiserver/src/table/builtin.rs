//! Which built-in kind has which columns.

use super::access;
use super::columns::{CREATED, Column};
use super::network;
use super::pods;
use super::workloads;

/// The columns of a resource after the name.
#[rustfmt::skip]
pub fn columns(group: &str, plural: &str) -> &'static [Column] {
    match (group, plural) {
        ("", "pods") => pods::COLUMNS,
        ("", "services") => network::SERVICES,
        ("", "endpoints") => network::ENDPOINTS,
        ("", "nodes") => network::NODES,
        ("", "namespaces") => access::NAMESPACES,
        ("", "configmaps") => access::CONFIG_MAPS,
        ("", "secrets") => access::SECRETS,
        ("", "serviceaccounts") => access::ONLY_AGE,
        ("", "podtemplates") => workloads::POD_TEMPLATES,
        ("", "replicationcontrollers") => workloads::REPLICATION_CONTROLLERS,
        ("", "resourcequotas") => access::QUOTAS,
        ("", "persistentvolumes") => access::VOLUMES,
        ("", "persistentvolumeclaims") => access::CLAIMS,
        ("" | "events.k8s.io", "events") => access::EVENTS,
        ("apps", "deployments") => workloads::DEPLOYMENTS,
        ("apps", "replicasets") => workloads::REPLICA_SETS,
        ("apps", "statefulsets") => workloads::STATEFUL_SETS,
        ("apps", "daemonsets") => workloads::DAEMON_SETS,
        ("apps", "controllerrevisions") => workloads::CONTROLLER_REVISIONS,
        ("batch", "jobs") => workloads::JOBS,
        ("batch", "cronjobs") => workloads::CRON_JOBS,
        ("autoscaling", "horizontalpodautoscalers") => workloads::AUTOSCALERS,
        ("policy", "poddisruptionbudgets") => workloads::DISRUPTION_BUDGETS,
        ("discovery.k8s.io", "endpointslices") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "ingresses") => network::INGRESSES,
        ("networking.k8s.io", "ingressclasses") => network::INGRESS_CLASSES,
        ("networking.k8s.io", "networkpolicies") => network::NETWORK_POLICIES,
        ("networking.k8s.io", "ipaddresses") => network::IP_ADDRESSES,
        ("networking.k8s.io", "servicecidrs") => network::SERVICE_CIDRS,
        ("coordination.k8s.io", "leases") => access::LEASES,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => access::BINDINGS,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => access::WEBHOOKS,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => access::ADMISSION_POLICIES,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => access::ADMISSION_POLICY_BINDINGS,
        ("apiregistration.k8s.io", "apiservices") => access::API_SERVICES,
        ("certificates.k8s.io", "certificatesigningrequests") => access::SIGNING_REQUESTS,
        ("node.k8s.io", "runtimeclasses") => access::RUNTIME_CLASSES,
        ("scheduling.k8s.io", "priorityclasses") => access::PRIORITY_CLASSES,
        ("storage.k8s.io", "csidrivers") => access::CSI_DRIVERS,
        ("storage.k8s.io", "csinodes") => access::CSI_NODES,
        ("storage.k8s.io", "storageclasses") => access::STORAGE_CLASSES,
        ("storage.k8s.io", "volumeattachments") => access::ATTACHMENTS,
        _ => &[CREATED],
    }
}
