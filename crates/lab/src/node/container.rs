//! Containers: how a process gets its own root file system, namespaces and privileges.
//!
//! The node agent starts itself once more as `lab become-container`, as process 1 of a new PID
//! namespace. That process reads an order, builds its surroundings, drops what it must not have
//! and executes the container's command, so nothing of us stays in memory beside it. When the
//! command ends, the kernel ends everything else in its PID namespace; when the node agent ends,
//! the kernel ends the command.

pub mod become_container;
pub(crate) mod logs;
pub(crate) mod order;
pub(crate) mod privileges;
pub(crate) mod rootfs;
pub(crate) mod spawn;
pub(crate) mod terminal;
