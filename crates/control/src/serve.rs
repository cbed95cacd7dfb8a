//! Step 5: the control plane's doors.
//!
//! | Port | What | Who may enter |
//! |---|---|---|
//! | 15012 | xDS and certificates | a mesh certificate, or a token its cluster confirms |
//! | 15017 | injection and validation webhooks | API servers (nothing secret is told) |
//! | 15014 | metrics and debugging | metrics: all; debugging: authenticated |
//! | 8080 | readiness | all |

pub mod ads;
pub mod authenticate;
pub mod certificates;
pub mod compiler;
pub mod debug;
pub mod injection;
pub(crate) mod listen;
pub(crate) mod metrics;
pub mod settings;
#[cfg(test)]
pub(crate) mod tests;
pub mod trust;
mod validation;
pub mod webhooks;
