//! HTTP: from the head of a request to the last byte of its answer.
//!
//! `serve` reads requests from a connection; `exchange` takes one through authorization, routing
//! and the tries of `attempt`; `lifetime` keeps the limits of the connection; `entry` is its record, which ends in the access log and metrics.

pub mod attempt;
pub mod certificate;
pub mod effects;
pub mod entry;
pub mod exchange;
pub mod head;
pub mod lifetime;
pub mod reply;
pub mod serve;
pub mod tries;
pub mod upgrade;
