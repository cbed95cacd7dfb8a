//! The embedded Kubernetes API server of lab clusters, over a durable versioned store.
