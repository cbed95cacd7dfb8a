//! What an analyzer says: a level, one of Istio's codes, the object, and a text.

use std::fmt;

use serde::Serialize;

use crate::object::Object;

/// How bad it is. The order is that of thresholds: `Info < Warning < Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn rank(self) -> u8 {
        match self {
            Self::Info => 0,
            Self::Warning => 1,
            Self::Error => 2,
        }
    }
}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Level {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

/// One message about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub level: Level,
    pub code: &'static str,
    pub kind: String,
    /// None for objects outside namespaces.
    pub namespace: Option<String>,
    pub name: String,
    /// Where the object was read: `FILE:LINE`; empty for objects of a cluster.
    pub reference: String,
    pub text: String,
}

impl PartialOrd for Message {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Message {
    /// The worst first, as istioctl lists them.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |it: &Self| {
            (it.code, it.kind.clone(), it.namespace.clone(), it.name.clone(), it.text.clone())
        };
        other.level.cmp(&self.level).then_with(|| key(self).cmp(&key(other)))
    }
}

impl Message {
    /// A message about `object`.
    pub fn about(object: &Object, level: Level, code: &'static str, text: String) -> Self {
        Self {
            level,
            code,
            kind: object.kind().to_owned(),
            namespace: object.namespace().map(str::to_owned),
            name: object.name().to_owned(),
            reference: String::new(),
            text,
        }
    }

    /// `Kind namespace/name`, as messages and `--suppress` name objects; `name.namespace` there.
    pub fn origin(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, code, origin) = (self.level, self.code, self.origin());
        let place =
            if self.reference.is_empty() { String::new() } else { format!(" {}", self.reference) };
        write!(f, "{level} [{code}] ({origin}{place}) {}", self.text)
    }
}
