//! Step 2: turn what the clusters hold into one picture of the mesh.
//!
//! **Invariant:** the picture is a pure function of the *set* of live objects. The order in which
//! clusters report, and how often an object is re-applied, must not show in the result.

pub mod config;
pub mod live;
pub mod objects;
pub mod picture;

mod endpoints;
mod gateways;
mod locality;
mod networks;
mod services;
