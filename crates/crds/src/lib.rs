//! Kubernetes objects that Tombolo reads and writes: Istio's kinds, IstioOperator, MeshConfig, the Mesh file.
