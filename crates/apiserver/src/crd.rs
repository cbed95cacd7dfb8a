//! Custom resource definitions and the resources they define.

use serde_json::Value;

use crate::resources::Custom;
use crate::schema::Schema;

pub mod definition;

/// Drops what the schema does not know; returns the paths of what was dropped.
pub fn prune(_custom: &Custom, _schema: Option<&Schema>, _object: &mut Value) -> Vec<String> {
    Vec::new()
}

/// Fills in the schema's defaults.
pub fn default(_custom: &Custom, _object: &mut Value) {}
