//! What a user should know about an object: that a part of it has no effect, and what to do.

use std::fmt;

use tombolo_model::id::{ClusterId, ObjectName};

/// One remark about one object. Ordered, so that lists of them are stable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The cluster the object is in.
    pub cluster: ClusterId,
    /// The kind of the object, such as `VirtualService`.
    pub kind: String,
    /// The object.
    pub object: ObjectName,
    /// What it means and what to do.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, kind, object, message } = self;
        write!(f, "{kind} {object} in cluster {cluster}: {message}")
    }
}
