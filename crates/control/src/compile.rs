//! Step 3: a picture and a proxy in, xDS resources out.
//!
//! **Invariants:** pure and total. Equal inputs give equal bytes, so a version is a hash and a
//! golden test is a diff. What cannot be expressed is a diagnostic, never an error.

pub mod resource;
