//! The data plane: bytes in, bytes out. Sidecar and east-west gateway.

pub mod config;
pub mod observe;
