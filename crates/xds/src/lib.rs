//! The xDS protocol, both ends, generic over resources, and the Envoy v3 API types.
//!
//! * [`server`] serves snapshots of resources over aggregated discovery, delta and
//!   state-of-the-world.
//! * [`client`] follows a server, delta first, and survives its loss.
//! * [`channel`] opens the TLS connection that both certificate and discovery clients use.
//! * [`json`] turns messages into protobuf JSON and back.
//!
//! The engines know nothing of what they carry: a resource is a name, a version and bytes.
#![deny(missing_docs)]

pub mod channel;
pub mod client;
#[cfg(test)]
mod convergence;
pub mod json;
#[expect(missing_docs, reason = "generated code")]
pub mod proto;
pub mod resource;
pub mod server;
pub mod types;
