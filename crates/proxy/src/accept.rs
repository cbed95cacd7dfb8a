//! Sockets, original destinations, and what a client speaks.

pub mod connection;
pub mod detect;
pub mod hello;
pub mod inspect;
pub mod listen;
