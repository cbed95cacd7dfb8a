//! The proxy in process, on loopback: requests go through real sidecars with real mutual TLS.

#![cfg(test)]

mod access_log;
mod balance;
mod connections;
mod effects;
mod gateway;
mod http_path;
mod identity;
mod protocols;
mod support;
