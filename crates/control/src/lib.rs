//! The control plane: Kubernetes in, xDS out.
//!
//! ```text
//!  clusters -> [watch] -> events -> [index] -> picture -> [push] -> [serve] -> proxies
//!                                                            |
//!                                     picture + proxy -> [compile] -> resources
//! ```
//!
//! In reading order:

pub mod compile;
pub mod diagnostic;
pub mod index;
pub mod inject;
pub mod lead;
pub mod proxy;
pub mod push;
pub mod run;
pub mod serve;
pub mod watch;
