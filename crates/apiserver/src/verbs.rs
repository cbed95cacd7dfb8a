//! The verbs: what happens to a resource when it is read, written, deleted or watched.

pub mod apply;
pub mod create;
pub mod definitions;
pub mod delete;
pub mod patch;
pub mod read;
pub mod show;
pub mod update;
pub mod watch;
