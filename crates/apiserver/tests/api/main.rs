//! The API server as its clients see it: kubectl, kube-rs, and raw requests beside a real one.

mod client;
mod differential;
mod harness;
mod kubectl;
mod nodes;
