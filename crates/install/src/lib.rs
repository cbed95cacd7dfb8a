//! Renders, plans, applies, verifies and explains a mesh.
//!
//! In reading order: [`mesh_file`] is what the user writes, [`topology`] what follows from it,
//! `documents` what that amounts to in each cluster, [`operator`] and [`render`] what is installed, [`mesh`] and [`install`] how, [`plan`] what that
//! would change, [`verify`] whether it works, [`inspect`] what its parts say of themselves, and
//! [`analyze`] what is wrong with its configuration.

pub mod analyze;
pub mod cluster;
mod documents;
pub mod eastwest;
pub mod exec;
pub mod inspect;
pub mod install;
pub mod installed;
pub mod mesh;
pub mod mesh_file;
pub mod object;
pub mod operator;
pub mod plan;
pub mod precheck;
pub mod progress;
pub mod remote_secret;
pub mod removal;
pub mod render;
pub mod root_ca;
pub mod sample;
pub mod topology;
pub mod trust;
pub mod verify;
pub mod wait;
