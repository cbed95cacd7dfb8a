//! The kubelet API: logs, and commands in containers, for the API server.
//!
//! [`server`] listens and finds the container; [`logs`] reads what it wrote; [`session`] runs a
//! command or attaches; [`websocket`] carries a session. SPDY, the older way, is not spoken: API
//! servers since Kubernetes 1.36 use WebSockets towards nodes that declare them.

pub(crate) mod logs;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod websocket;
