//! The data plane: bytes in, bytes out. Sidecar and east-west gateway.
//!
//! ```text
//! config -> accept -> {inbound | outbound | gateway} -> authorize -> route -> balance -> connect -> stream
//! ```

pub mod config;
pub mod proxy;
pub mod snapshot;

pub mod accept;
pub mod gateway;
pub mod inbound;
pub mod outbound;

pub mod http;
pub mod tcp;

pub mod balance;
pub mod connect;
pub mod route;
pub mod stream;

pub mod failure;
pub mod observe;
