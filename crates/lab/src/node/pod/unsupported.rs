//! Fields of a pod that a lab's node does not act on. They are told, never dropped silently.

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};

use crate::node::service::host_ports;

/// The fields of `spec` that have no effect, by path.
pub(crate) fn fields(spec: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |set: bool, field: &str| found.extend(set.then(|| field.to_owned()));
    note(spec.host_pid == Some(true), "spec.hostPID");
    note(spec.host_ipc == Some(true), "spec.hostIPC");
    note(spec.host_users == Some(false), "spec.hostUsers");
    note(spec.share_process_namespace == Some(true), "spec.shareProcessNamespace");
    note(spec.runtime_class_name.is_some(), "spec.runtimeClassName");
    note(spec.set_hostname_as_fqdn == Some(true), "spec.setHostnameAsFQDN");
    note(spec.hostname_override.is_some(), "spec.hostnameOverride");
    note(
        spec.topology_spread_constraints.iter().flatten().next().is_some(),
        "spec.topologySpreadConstraints",
    );
    let affinity = spec.affinity.as_ref();
    let node = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let node = node.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let pod = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let pod = pod.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let anti = anti.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    // The scheduler looks only at what a pod must have.
    for (kind, wishes) in [
        ("nodeAffinity", node.map_or(0, Vec::len)),
        ("podAffinity", pod.map_or(0, Vec::len)),
        ("podAntiAffinity", anti.map_or(0, Vec::len)),
    ] {
        let field = format!("spec.affinity.{kind}.preferredDuringSchedulingIgnoredDuringExecution");
        note(wishes > 0, &field);
    }
    note(spec.ephemeral_containers.iter().flatten().next().is_some(), "spec.ephemeralContainers");
    let context = spec.security_context.as_ref();
    note(
        context.is_some_and(|context| context.se_linux_options.is_some()),
        "spec.securityContext.seLinuxOptions",
    );
    note(
        context.is_some_and(|context| context.app_armor_profile.is_some()),
        "spec.securityContext.appArmorProfile",
    );
    note(
        filters(context.and_then(|context| context.seccomp_profile.as_ref())),
        "spec.securityContext.seccompProfile",
    );
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        found.extend(of_container(container));
    }
    let closed = host_ports::asked(spec).filter(|(_, port)| !host_ports::opened(port));
    found.extend(closed.map(|(container, port)| {
        let number = port.host_port.unwrap_or_default();
        format!("container {container}: ports.hostPort {number} (only TCP and UDP, without hostIP)")
    }));
    found
}

/// Whether a profile asks for system calls to be filtered.
fn filters(profile: Option<&SeccompProfile>) -> bool {
    profile.is_some_and(|profile| profile.type_ != "Unconfined")
}

fn of_container(container: &Container) -> Vec<String> {
    let context = container.security_context.as_ref();
    let mounts = || container.volume_mounts.iter().flatten();
    let fields = [
        (container.volume_devices.iter().flatten().next().is_some(), "volumeDevices"),
        (
            context.is_some_and(|context| context.se_linux_options.is_some()),
            "securityContext.seLinuxOptions",
        ),
        (
            filters(context.and_then(|context| context.seccomp_profile.as_ref())),
            "securityContext.seccompProfile",
        ),
        (context.is_some_and(|context| context.proc_mount.is_some()), "securityContext.procMount"),
        (
            mounts()
                .any(|mount| mount.mount_propagation.as_deref().is_some_and(|kind| kind != "None")),
            "volumeMounts.mountPropagation",
        ),
        (container.restart_policy_rules.iter().flatten().next().is_some(), "restartPolicyRules"),
    ];
    let set = fields.into_iter().filter(|(set, _)| *set);
    set.map(|(_, field)| format!("container {}: {field}", container.name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_without_effect_are_named() {
        let spec = json!({"hostPID": true, "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(fields(&spec), ["spec.hostPID", "container c: volumeMounts.mountPropagation"]);
    }

    #[test]
    fn wishes_to_the_scheduler_and_filters_of_system_calls_are_named() {
        let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}, "podAffinityTerm": {"topologyKey": "zone"}}]});
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]});
        let spec = json!({
            "setHostnameAsFQDN": true,
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "affinity": {"nodeAffinity": preferred, "podAffinity": required, "podAntiAffinity": preferred},
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 81, "hostIP": "127.0.0.1"}],
                 "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p"}}},
                {"name": "b", "securityContext": {"seccompProfile": {"type": "Unconfined"}}},
            ],
        });
        assert_eq!(
            fields(&serde_json::from_value(spec).unwrap()),
            [
                "spec.setHostnameAsFQDN",
                "spec.topologySpreadConstraints",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution",
                "spec.securityContext.seccompProfile",
                "container a: securityContext.seccompProfile",
                "container a: ports.hostPort 81 (only TCP and UDP, without hostIP)",
            ]
        );
        let own = json!({"hostNetwork": true, "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"}]}]});
        assert_eq!(fields(&serde_json::from_value(own).unwrap()), Vec::<String>::new());
    }
}
