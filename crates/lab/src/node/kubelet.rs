//! The kubelet API: logs, commands in containers and forwarded ports, for the API server.
//!
//! [`server`] listens and finds the container; [`logs`] reads what it wrote; [`streams`] has the
//! routes that leave HTTP, which [`upgrade`] negotiates. [`session`] runs a command or attaches;
//! [`websocket`] and [`remote_command`] carry it, the latter over [`spdy`]; [`forward`] connects to
//! ports of pods.

pub(crate) mod forward;
pub(crate) mod logs;
pub(crate) mod remote_command;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod spdy;
pub(crate) mod streams;
pub(crate) mod upgrade;
pub(crate) mod websocket;
