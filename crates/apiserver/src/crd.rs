//! Custom resource definitions and the resources they define.
//!
//! ```text
//! definition --follow--> resource types in the catalog
//! object: prune -> default -> check (schema, then CEL rules)
//! ```

pub mod check;
pub mod definition;
pub mod follow;
pub mod formats;
pub mod values;
