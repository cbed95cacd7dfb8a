//! Pods: what one needs, what to do next, what is running, and how it is reported.
//!
//! Reading order: [`work`] drives one pod; [`plan`] decides, [`status`] reports (both pure);
//! [`environment`], [`volumes`] and [`prepare`] make what a container sees; [`process`] runs it;
//! [`probes`] and [`hooks`] ask it; [`record`] is what is known about it.

pub(crate) mod environment;
pub(crate) mod fields;
pub(crate) mod hooks;
pub(crate) mod plan;
pub(crate) mod prepare;
pub(crate) mod probes;
pub(crate) mod process;
pub(crate) mod record;
pub(crate) mod status;
pub(crate) mod unsupported;
pub(crate) mod volumes;
pub(crate) mod work;
