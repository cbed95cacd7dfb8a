//! Renders, plans, applies, verifies and explains a mesh.

pub mod cluster;
pub mod eastwest;
pub mod mesh_file;
pub mod object;
pub mod operator;
pub mod progress;
pub mod remote_secret;
pub mod render;
pub mod topology;
pub mod verify;
pub mod wait;
