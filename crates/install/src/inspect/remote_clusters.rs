//! `remote-clusters`: the clusters that each control plane follows.

use serde::{Deserialize, Serialize};

use crate::inspect::table::{Table, WIDE};

/// One entry of `/debug/clusterz`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteCluster {
    pub id: String,
    /// `NAMESPACE/NAME`; empty for the control plane's own cluster.
    #[serde(default)]
    pub secret_name: String,
    pub sync_status: String,
    /// Why the secret is refused, when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What one control plane says.
#[derive(Clone, Debug, Serialize)]
pub struct Followed {
    pub istiod: String,
    pub revision: String,
    pub clusters: Vec<RemoteCluster>,
}

/// The table, sorted by control plane.
pub fn table(mut all: Vec<Followed>) -> String {
    all.sort_by(|a, b| a.istiod.cmp(&b.istiod));
    let mut table = Table::new(WIDE, &["NAME", "SECRET", "STATUS", "ISTIOD", "REVISION"]);
    for Followed { istiod, revision, clusters } in &all {
        for cluster in clusters {
            let RemoteCluster { id, secret_name, sync_status, .. } = cluster;
            table.row(&[id, secret_name, sync_status, istiod, revision]);
        }
    }
    table.finish()
}
