//! A pod's place on the node: its network and its volumes.

use tokio::time::Instant;
use tombolo_runtime::errors::chain;

use crate::node::network::addresses;
use crate::node::network::sandbox::Sandbox;
use crate::node::pod::unsupported;
use crate::node::pod::work::{Entrance, Network, REFRESH, Worker};

impl Worker {
    /// Gives the pod its network and volumes; false when it must be tried again. Containers start
    /// only in a pod that has settled.
    pub(super) async fn settle(&mut self) -> bool {
        if self.progress.pod_ip.is_none() {
            match self.join_network().await {
                Ok(ip) => self.progress.pod_ip = Some(ip),
                Err(error) => {
                    self.node.events.warning(&self.pod, None, "FailedCreatePodSandBox", error);
                    return false;
                }
            }
        }
        let facts = self.facts();
        if let Err(error) = self.volumes.set_up(&self.node, &self.pod, &facts).await {
            self.node.events.warning(&self.pod, None, "FailedMount", chain(&error).to_string());
            // The network stays; only the volumes are tried again.
            return false;
        }
        self.settled = true;
        let ignored = unsupported::fields(&self.spec());
        if !ignored.is_empty() {
            let text = format!("lab nodes do not act on {}", ignored.join(", "));
            self.node.events.warning(&self.pod, None, "Unsupported", text);
        }
        true
    }

    pub(super) async fn join_network(&mut self) -> Result<String, String> {
        let spec = self.spec();
        if spec.host_network == Some(true) {
            self.network = Some(Network::Host);
            *self.live.entrance.lock() = Some(Entrance::Host);
            return Ok(self.progress.host_ip.clone());
        }
        let before = self
            .pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|ip| ip.parse().ok());
        let range = self.node.settings.pod_cidr;
        let address = self
            .node
            .addresses
            .lock()
            .take(before)
            .ok_or_else(|| format!("no address is left in {range}"))?;
        let sysctls =
            spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
        let sysctls = sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect();
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        match Sandbox::new(&self.node.links, &uid, address, addresses::gateway(range), sysctls)
            .await
        {
            Ok(sandbox) => {
                *self.live.entrance.lock() = Some(Entrance::Own(sandbox.handle()));
                self.network = Some(Network::Own(sandbox));
                Ok(address.to_string())
            }
            Err(error) => {
                self.node.addresses.lock().give_back(address);
                Err(chain(&error).to_string())
            }
        }
    }

    pub(super) async fn refresh_volumes(&mut self) {
        if Instant::now() < self.refresh {
            return;
        }
        self.refresh = Instant::now() + REFRESH;
        let facts = self.facts();
        if let Err(error) = self.volumes.refresh(&self.node, &self.pod, &facts).await {
            self.node.events.warning(&self.pod, None, "FailedMount", chain(&error).to_string());
        }
    }
}
