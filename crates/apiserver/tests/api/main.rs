//! The API server as its clients see it: kubectl, kube-rs, and raw requests beside a real one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod differential;
mod harness;
mod kubectl;
mod nodes;
