//! The control plane: Kubernetes in, xDS out.
//!
//! ```text
//!  clusters -> [watch] -> events -> [index] -> picture -> [push] -> [serve] -> proxies
//!                                                            |
//!                                     picture + proxy -> [compile] -> resources
//! ```
//!
//! Step by step: `watch`, `index`, `compile`, `push`, `serve`. `pipeline` runs the first, second
//! and fourth; `run` is the whole process.

pub mod compile;
pub mod diagnostic;
pub mod index;
pub mod inject;
pub mod lead;
pub mod pipeline;
pub mod proxy;
pub mod push;
pub mod run;
pub mod serve;
pub mod watch;
