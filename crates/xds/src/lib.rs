//! The xDS protocol, both ends, generic over resources, and the Envoy v3 API types.

pub mod proto;
