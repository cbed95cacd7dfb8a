//! What stands beside a data plane in a pod: identity, xDS connection, capture rules, health.

pub mod capture;
