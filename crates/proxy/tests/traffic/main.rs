//! The proxy in process, on loopback: requests go through real sidecars with real mutual TLS.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod access_log;
mod balance;
mod effects;
mod gateway;
mod http_path;
mod identity;
mod protocols;
mod support;
