//! The control plane: Kubernetes in, xDS out.
