//! The Node object, its lease and its heartbeat.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::{Capacity, KUBELET_PORT, Settings};

/// The Kubernetes version whose kubelet this agent stands for.
pub(crate) const VERSION: &str = "v1.36.0";

/// How often the lease is renewed; it is valid for four times as long.
const RENEW: Duration = Duration::from_secs(10);

/// Lease renewals per status update.
const STATUS_EVERY: u32 = 6;

/// Registers the node and keeps it alive until the process drains.
pub(crate) async fn keep(
    client: kube::Client,
    settings: Settings,
    capacity: Capacity,
    shutdown: Shutdown,
) {
    let node = Registration {
        nodes: Api::all(client.clone()),
        leases: Api::namespaced(client, "kube-node-lease"),
        settings,
        capacity,
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut round = 0;
    loop {
        let result = node.beat(round % STATUS_EVERY == 0).await;
        let delay = match result {
            Ok(()) => {
                backoff.reset();
                round += 1;
                RENEW
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "node could not be registered, trying again");
                round = 0;
                backoff.delay()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => (),
            () = shutdown.draining() => return,
        }
    }
}

struct Registration {
    nodes: Api<NodeObject>,
    leases: Api<Lease>,
    settings: Settings,
    capacity: Capacity,
}

impl Registration {
    async fn beat(&self, status: bool) -> Result<(), kube::Error> {
        if status {
            self.write_node().await?;
        }
        self.renew().await
    }

    async fn write_node(&self) -> Result<(), kube::Error> {
        let name = &self.settings.node_name;
        let labels = labels(name);
        let cidr = self.settings.pod_cidr.to_string();
        let old = match self.nodes.get_opt(name).await? {
            Some(node) => {
                let patch = json!({"metadata": {"labels": labels}});
                self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                if node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).is_none() {
                    let patch = json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
                    self.nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
                Some(node)
            }
            None => {
                let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
                let node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
                self.nodes.create(&PostParams::default(), &node).await?;
                None
            }
        };
        let patch = json!({"status": status(&self.settings, self.capacity, old.as_ref(), Timestamp::now())});
        self.nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn renew(&self) -> Result<(), kube::Error> {
        let name = &self.settings.node_name;
        let now = format!("{:.6}", Timestamp::now());
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": RENEW.as_secs() * 4, "renewTime": now});
        let patch = Patch::Merge(json!({"spec": spec}));
        match self.leases.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec});
                let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
                self.leases.create(&PostParams::default(), &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(name: &str) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": architecture(),
    });
    if name.contains("control-plane") {
        labels["node-role.kubernetes.io/control-plane"] = json!("");
    }
    labels
}

/// The node's status; a condition's time of change moves only when its status does. Pure.
fn status(
    settings: &Settings,
    capacity: Capacity,
    old: Option<&NodeObject>,
    now: Timestamp,
) -> Value {
    let before = old
        .and_then(|node| node.status.as_ref())
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let changed = |kind: &str, status: &str| {
        let same =
            before.clone().find(|condition| condition.type_ == kind && condition.status == status);
        same.and_then(|same| same.last_transition_time.clone()).unwrap_or(Time(now))
    };
    let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": Time(now), "lastTransitionTime": changed(kind, status)});
    let amount = json!({
        "cpu": capacity.cpus.to_string(),
        "memory": format!("{}Ki", capacity.memory >> 10),
        "pods": "110",
        "ephemeral-storage": "10Gi",
    });
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    json!({
        "addresses": [{"type": "InternalIP", "address": settings.node_ip}, {"type": "Hostname", "address": settings.node_name}],
        "capacity": amount,
        "allocatable": amount,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/etc/machine-id"),
            "bootID": read("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os_name(&read("/etc/os-release")),
            "containerRuntimeVersion": concat!("tombolo://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    })
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}
