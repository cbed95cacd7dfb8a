//! Generated types of the interface definitions under `proto/`. No handwritten logic.
#![allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    clippy::wildcard_imports,
    clippy::too_many_lines,
    missing_debug_implementations,
    unused_qualifications,
    rustdoc::all,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/mod.rs"));

/// The descriptors of everything above, for protobuf JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
