//! Renders, plans, applies, verifies and explains a mesh.

pub mod eastwest;
pub mod mesh_file;
pub mod object;
pub mod operator;
pub mod render;
pub mod topology;
