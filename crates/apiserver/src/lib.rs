//! The embedded Kubernetes API server of lab clusters.
//!
//! ```text
//! connection -> request -> auth -> route -> verbs -> admission -> store
//!                                    |        |                      |
//!                                    |     schema, patch        watch, list
//!                           discovery, health, reviews
//! ```

pub mod auth;
pub mod discovery;
pub mod health;
pub mod kubelet;
pub mod negotiate;
pub mod openapi;
pub mod paths;
pub mod rbac;
pub mod request;
pub mod resources;
pub mod respond;
pub mod reviews;
pub mod route;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;
pub mod table;
