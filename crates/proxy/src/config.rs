//! xDS resources into an immutable routing snapshot.
//!
//! Everything here is synchronous and pure. A resource is accepted whole or rejected with the
//! path of the field that is not understood; nothing is ignored silently.

pub mod access_log;
pub mod chains;
pub mod convert;
pub mod effects;
pub mod endpoints;
pub mod headers;
pub mod http;
pub mod listener;
pub mod matchers;
pub mod problem;
pub mod rbac;
pub mod retry;
pub mod routes;
pub mod strict;
pub mod tls;
pub mod understood;
pub mod upstream;
