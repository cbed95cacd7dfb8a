//! What control planes and proxies say about themselves, as istioctl's reporting commands show it.
//!
//! [`reach`] asks them, through the API server and the programs in their own containers, so that
//! it works wherever `kubectl exec` does. Everything else is pure: documents in, tables and
//! documents out.
//!
//! **Documents:** [`dump`] and its sections (upstreams, listeners, routes, endpoints, secrets,
//! bootstrap) read protobuf JSON with fields in lower camel case; whoever has a document of
//! Envoy's admin server renames its fields first.

pub mod bootstrap;
pub mod compare;
pub mod dump;
pub mod endpoints;
pub mod levels;
pub mod listeners;
pub mod reach;
pub mod remote_clusters;
pub mod routes;
pub mod secrets;
pub mod status;
pub mod subset_key;
pub mod summary;
pub mod table;
pub mod upstreams;
pub mod version;

#[cfg(test)]
mod tests;
