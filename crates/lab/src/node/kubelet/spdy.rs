//! SPDY/3.1 as Kubernetes speaks it: many streams over one upgraded HTTP/1.1 connection.
//!
//! [`frame`] is the wire format, [`headers`] the compressed header blocks in it, [`dictionary`]
//! what both ends compress with, and [`connection`] the server's side of a connection.
//!
//! The format is that of the SPDY protocol's draft 3.1. Kubernetes uses a part of it: clients open
//! all streams, windows are neither announced nor kept to, and priorities are not used. A slow
//! reader is held back by not reading its connection.

pub(crate) mod connection;
mod dictionary;
pub(crate) mod frame;
mod headers;
#[cfg(test)]
pub(crate) mod tests;
