//! Definitions themselves.

use serde_json::Value;

/// Fills in what a definition leaves open.
pub fn defaults(_value: &mut Value) {}
