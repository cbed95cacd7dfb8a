//! The chassis of a process: logs, metrics, admin server, readiness, shutdown.
//!
//! A component has three stages: settings (inert data), build (sockets open, every error
//! surfaces) and `run(self, shutdown)`. Nothing runs before everything is built.

pub mod admin;
pub mod backoff;
pub mod errors;
pub mod listen;
pub mod logs;
pub mod memory;
pub mod ready;
pub mod shutdown;
