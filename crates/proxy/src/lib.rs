//! The data plane: bytes in, bytes out. Sidecar and east-west gateway.
//!
//! ```text
//! config -> listen -> {inbound | outbound | gateway} -> accept -> {http -> route | tcp} -> balance -> connect -> stream
//! ```

pub mod config;
pub mod proxy;
pub mod snapshot;

pub mod gateway;
pub mod inbound;
pub mod listen;
pub mod outbound;

pub mod accept;
pub mod serve;

pub mod http;
pub mod tcp;

pub mod balance;
pub mod connect;
pub mod resolve;
pub mod route;
pub mod stream;

pub mod failure;
pub mod observe;
