//! Names that must not be mixed up: of clusters, networks and hosts.
//!
//! They are cheap to clone, since every endpoint carries several.

use std::fmt;
use std::sync::Arc;

/// Which Kubernetes cluster. For a remote cluster: the key in the remote secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(Arc<str>);

impl ClusterId {
    /// The cluster called `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which network. The empty name is the default network, which is near to every other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(Arc<str>);

impl NetworkId {
    /// The network called `name`; empty for the default network.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the default network.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something here reaches something in `other` without a gateway: the networks are
    /// equal, or one of them is not known.
    pub fn reaches(&self, other: &Self) -> bool {
        self.is_default() || other.is_default() || self == other
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The mesh-wide name of a service, such as `helloworld.sample.svc.cluster.local`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

impl Host {
    /// The host `name`; upper-case letters are made lower case, since DNS does not tell them apart.
    pub fn new(name: &str) -> Self {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Self(name.to_ascii_lowercase().into());
        }
        Self(name.into())
    }

    /// The host of a Kubernetes service.
    pub fn of_service(name: &str, namespace: &str, domain: &str) -> Self {
        Self::new(&format!("{name}.{namespace}.svc.{domain}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name starts with a `*` and so stands for many hosts.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether every host that `self` stands for is also one of `pattern`'s.
    pub fn is_within(&self, pattern: &Self) -> bool {
        match pattern.0.strip_prefix('*') {
            Some(suffix) => self.0.trim_start_matches('*').ends_with(suffix),
            None => self == pattern,
        }
    }

    /// Whether some host is one of both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_within(other) || other.is_within(self)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that lives in a namespace of a cluster: a pod, a service, a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Empty for what is not in a namespace, such as a node.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The object `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_holds_the_hosts_that_end_like_it() {
        let host = |name| Host::new(name);
        assert!(host("a.b.local").is_within(&host("*.local")));
        assert!(host("*.b.local").is_within(&host("*.local")));
        assert!(host("A.b.local").is_within(&host("a.B.local")));
        assert!(host("anything").is_within(&host("*")));
        assert!(!host("local").is_within(&host("*.local")));
        assert!(!host("*.local").is_within(&host("*.b.local")));
        assert!(host("*.local").overlaps(&host("*.b.local")));
    }

    #[test]
    fn an_unknown_network_is_near_to_every_other() {
        let (n1, n2, unknown) =
            (NetworkId::new("network1"), NetworkId::new("network2"), NetworkId::new(""));
        assert!(n1.reaches(&n1) && n1.reaches(&unknown) && unknown.reaches(&n2));
        assert!(!n1.reaches(&n2));
    }
}
