//! What the mesh is made of: clusters, networks, services, endpoints, identities.
//!
//! Plain values: no async, no I/O, no serialisation. What crosses a process border has its own
//! type in the crate that owns that border.

pub mod endpoint;
pub mod id;
pub mod identity;
pub mod port;
pub mod service;
