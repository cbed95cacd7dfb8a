//! Kubernetes objects that Tombolo reads and writes: Istio's kinds, IstioOperator, MeshConfig, the Mesh file.

pub mod document;
pub mod duration;
pub mod mesh_config;
pub mod networking;
pub mod security;
pub mod validity;
