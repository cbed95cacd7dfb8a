//! Writing a pod's status.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tombolo_runtime::errors::chain;

use crate::node::pod::status;
use crate::node::pod::work::{RETRY, Worker};

/// How often a write is tried again because someone else wrote first.
const CONFLICTS: usize = 4;

impl Worker {
    /// Writes the status when it differs from what the API server has.
    pub(super) async fn report(&mut self) {
        if self.gone {
            return;
        }
        for _ in 0..CONFLICTS {
            let status = status::status(&self.pod, &self.records, &self.progress, Timestamp::now());
            if self.pod.status.as_ref() == Some(&status) {
                return;
            }
            let mut pod = Pod::clone(&self.pod);
            pod.status = Some(status);
            // Ours to keep out of the write: what others have written stays as it is.
            pod.metadata.managed_fields = None;
            let name = pod.metadata.name.clone().unwrap_or_default();
            let api = Api::<Pod>::namespaced(
                self.node.client.clone(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
            );
            match api.replace_status(&name, &PostParams::default(), &pod).await {
                Ok(written) => return self.pod = Arc::new(written),
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                    match api.get_opt(&name).await {
                        Ok(Some(fresh)) if fresh.metadata.uid == self.pod.metadata.uid => {
                            self.pod = Arc::new(fresh);
                        }
                        // Gone, or another pod of that name; the watch will say so.
                        Ok(_) => return,
                        Err(error) => return self.later(&error),
                    }
                }
                Err(error) => return self.later(&error),
            }
        }
        self.wake = Some(Instant::now() + RETRY);
    }

    fn later(&mut self, error: &kube::Error) {
        let pod = self.pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(%pod, error = %chain(error), "pod status could not be written, trying again");
        self.wake = Some(Instant::now() + RETRY);
    }
}
