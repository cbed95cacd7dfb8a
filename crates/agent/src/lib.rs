//! What stands beside a data plane in a pod: identity, xDS connection, capture rules, health.
//!
//! [`run`] is the process of a sidecar or gateway, [`capture`] the set-up of a pod's traffic
//! capture before it starts, [`wait`] a client that waits until it is ready.

pub mod capture;
pub mod certificates;
pub mod discovery;
pub mod node;
pub mod run;
pub mod serve;
pub mod settings;
pub mod wait;
