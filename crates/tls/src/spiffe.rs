//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Parsing is strict: anything that is not exactly this form, or that would not print back to
//! the same text, is refused. The cluster is no part of an identity: the same namespace and
//! service account mean the same workload in every cluster of a trust domain.

use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "spiffe://";
/// The SPIFFE specification's limit for a whole identity, in bytes.
const LONGEST_ID: usize = 2048;
/// The SPIFFE specification's limit for a trust domain, in bytes.
const LONGEST_TRUST_DOMAIN: usize = 255;

/// The name of a domain of trust, such as `cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// The identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: String,
    service_account: String,
}

/// Why a text is no workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text does not start with `spiffe://`.
    #[error("`{0}` is not a SPIFFE identity: it does not start with {SCHEME}")]
    Scheme(String),
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error(
        "`{0}` is not a workload identity: expected {SCHEME}<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Path(String),
    /// The trust domain has a character that is not allowed, is empty or too long.
    #[error(
        "`{0}` is not a trust domain: use lower-case letters, digits, `.`, `-` and `_`, at most {LONGEST_TRUST_DOMAIN} of them"
    )]
    TrustDomain(String),
    /// The namespace or service account is not a Kubernetes name.
    #[error("`{0}` cannot be part of a workload identity: it is not a Kubernetes name")]
    Name(String),
    /// The text is longer than SPIFFE allows.
    #[error("a SPIFFE identity has at most {LONGEST_ID} bytes, this one has {0}")]
    Long(usize),
}

impl TrustDomain {
    /// Checks `name`. As in Istio's configuration, `@` stands for `.`.
    ///
    /// # Errors
    /// When `name` is not a trust domain.
    pub fn new(name: &str) -> Result<Self, Error> {
        let name = name.replace('@', ".");
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > LONGEST_TRUST_DOMAIN || !name.bytes().all(allowed) {
            return Err(Error::TrustDomain(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl SpiffeId {
    /// The identity of service account `service_account` in `namespace`.
    ///
    /// # Errors
    /// When a name is not a Kubernetes name.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, Error> {
        for name in [namespace, service_account] {
            if !is_kubernetes_name(name) {
                return Err(Error::Name(name.to_owned()));
            }
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }

    /// The domain of trust that vouches for the identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

/// Lower-case letters, digits, `-` and `.`, at most 253: a DNS subdomain, which service-account
/// names are and which namespaces (DNS labels) are a part of.
fn is_kubernetes_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.bytes().all(inner)
        && edge(name.bytes().next())
        && edge(name.bytes().last())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(f, "{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > LONGEST_ID {
            return Err(Error::Long(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| Error::Scheme(text.to_owned()))?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Path(text.to_owned()));
        };
        // `@` is a configuration alias only; inside an identity it would not print back.
        if domain.contains('@') {
            return Err(Error::TrustDomain(domain.to_owned()));
        }
        Self::new(TrustDomain::new(domain)?, namespace, account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_prints_as_it_was_parsed() {
        for text in [
            "spiffe://cluster.local/ns/sample/sa/helloworld",
            "spiffe://td_1/ns/a/sa/b.c-d",
            "spiffe://example.org/ns/istio-system/sa/istiod",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_workload_identity_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe:///ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/sa/b/ns/a",
            "spiffe://cluster.local/ns/A/sa/b",
            "spiffe://cluster.local/ns/a/sa/..",
            "spiffe://cluster.local/ns/a/sa/b%2fc",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://CLUSTER.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b\0",
            " spiffe://cluster.local/ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
        assert_eq!(
            format!("spiffe://{}/ns/a/sa/b", "a".repeat(3000)).parse::<SpiffeId>(),
            Err(Error::Long(3019))
        );
    }

    #[test]
    fn an_at_sign_in_a_configured_trust_domain_stands_for_a_dot() {
        assert_eq!(TrustDomain::new("a@b").unwrap().as_str(), "a.b");
    }
}
