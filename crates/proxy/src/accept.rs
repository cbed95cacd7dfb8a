//! Original destinations, what a client speaks, and who it is.

pub mod connection;
pub mod detect;
pub mod hello;
pub mod inspect;
