//! The kinds of `networking.istio.io`, as far as the control plane understands them.

pub mod destination_rule;
pub mod gateway;
pub mod service_entry;
pub mod virtual_service;
