//! `metadata.managedFields`: who owns which field.

use serde_json::Value;

use crate::verbs::Operation;

/// Records an update by the request's manager.
pub fn by_update(_operation: &Operation, _old: Option<&Value>, _new: &mut Value) {}
