//! Dials endpoints, starts TLS, and keeps connections for reuse.

pub mod dial;
pub mod pool;
pub mod tls;
pub mod upstream;
