//! Moves bytes and bodies.

pub mod body;
pub mod io;
pub mod relay;
