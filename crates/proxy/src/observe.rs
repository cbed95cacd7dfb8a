//! What the proxy says about its traffic: access log, metrics, response flags.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod metrics;
pub mod record;
pub mod sink;
