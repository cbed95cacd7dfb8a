//! The embedded Kubernetes API server of lab clusters.
//!
//! ```text
//! connection -> request -> auth -> route -> verbs -> admission -> store
//!                                    |        |                      |
//!                                    |     schema, patch        watch, list
//!                           discovery, health, reviews
//! ```

pub mod admission;
pub mod api;
pub mod auth;
pub mod body;
pub mod bootstrap;
pub mod convert;
pub mod crd;
pub mod defaults;
pub mod dial;
pub mod discovery;
pub mod errors;
pub mod health;
pub mod incoming;
pub mod kinds;
pub mod kubelet;
pub mod managed;
pub mod names;
pub mod negotiate;
pub mod object;
pub mod openapi;
pub mod operation;
pub mod paths;
pub mod quantity;
pub mod quote;
pub mod rbac;
pub mod request;
pub mod resources;
pub mod respond;
pub mod reviews;
pub mod route;
pub mod schema;
pub mod selector;
pub mod server;
pub mod settings;
pub mod status;
pub mod store;
pub mod strategic;
pub mod subresources;
pub mod table;
pub mod user;
pub mod validate;
pub mod verbs;
