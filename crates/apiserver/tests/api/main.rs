//! The API server as its clients see it: kubectl, kube-rs, and raw requests beside a real one.

#![cfg(test)]

mod client;
mod differential;
mod harness;
mod kubectl;
mod nodes;
