//! Custom resource definitions and the resources they define.
//!
//! ```text
//! definition --known--> resource types in the catalog
//! object: prune -> default -> check (schema, then CEL rules)
//! ```

pub mod check;
pub mod definition;
pub mod formats;
pub mod known;
pub mod values;
