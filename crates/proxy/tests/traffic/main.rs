//! The proxy in process, on loopback: requests go through real sidecars with real mutual TLS.

mod http;
mod support;
