//! What the control plane counts.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::Arc;

use crate::push::publisher::Publisher;
use crate::serve::ads::Connections;
use crate::serve::trust::Trust;
use crate::watch::clusters::Clusters;

/// Reads the state of the moment whenever somebody scrapes.
pub(crate) struct State {
    pub connections: Connections,
    pub publisher: Publisher,
    pub clusters: Clusters,
    pub trust: Arc<Trust>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let published = self.publisher.latest();
        let picture = &published.picture;
        let seconds = |at: SystemTime| {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let authority = self.trust.authority();
        let roots = authority.roots().facts().map(|facts| facts.not_after).min();
        let rejected = |it: &Arc<super::ads::Connected>| {
            it.types.lock().values().filter(|state| state.rejected.is_some()).count()
        };
        let connected = self.connections.all();
        for (name, help, value) in [
            ("pilot_xds", "Proxies that are connected", count(connected.len())),
            (
                "pilot_xds_rejected_types",
                "Types of resources that a connected proxy rejects now",
                count(connected.iter().map(rejected).sum()),
            ),
            ("pilot_services", "Services of the mesh", count(picture.services.len())),
            ("pilot_k8s_clusters", "Clusters that are followed", count(self.clusters.all().len())),
            (
                "pilot_diagnostics",
                "Objects with something that has no effect",
                count(published.diagnostics().len()),
            ),
            (
                "citadel_server_root_cert_expiry_timestamp",
                "When the first trusted root expires",
                roots.map_or(0, seconds),
            ),
            (
                "citadel_server_cert_chain_expiry_timestamp",
                "When nothing can be signed any more",
                seconds(authority.ends().into()),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}
