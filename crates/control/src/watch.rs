//! Step 1: clusters in, events out. One client per cluster, one watch per kind.

pub mod clusters;
pub mod extract;
pub mod kubeconfig;
pub mod mesh;

pub(crate) mod follow;
pub(crate) mod remotes;
pub(crate) mod started;
