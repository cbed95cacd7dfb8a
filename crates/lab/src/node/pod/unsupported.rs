//! Fields of a pod that a lab's node does not act on. They are told, never dropped silently.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// The fields of `spec` that have no effect, by path.
pub(crate) fn fields(spec: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |set: bool, field: &str| found.extend(set.then(|| field.to_owned()));
    note(spec.host_pid == Some(true), "spec.hostPID");
    note(spec.host_ipc == Some(true), "spec.hostIPC");
    note(spec.host_users == Some(false), "spec.hostUsers");
    note(spec.share_process_namespace == Some(true), "spec.shareProcessNamespace");
    note(spec.runtime_class_name.is_some(), "spec.runtimeClassName");
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
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        found.extend(of_container(container));
    }
    found
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
    use super::*;

    #[test]
    fn fields_without_effect_are_named() {
        let spec = serde_json::json!({"hostPID": true, "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(fields(&spec), ["spec.hostPID", "container c: volumeMounts.mountPropagation"]);
    }
}
