//! SPIFFE identities of workloads: `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.

use std::fmt;
use std::sync::Arc;

/// Who a workload is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The trust domain, such as `cluster.local`.
    pub trust_domain: Arc<str>,
    /// The namespace of the service account.
    pub namespace: Arc<str>,
    /// The name of the service account.
    pub service_account: Arc<str>,
}

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
pub struct NotAnIdentity(String);

impl Identity {
    /// The identity of a service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// Reads an identity from a SPIFFE URI.
    ///
    /// # Errors
    /// When the text has another form, or one of its parts is empty.
    pub fn parse(uri: &str) -> Result<Self, NotAnIdentity> {
        let bad = || NotAnIdentity(uri.to_owned());
        let parts: Vec<&str> = uri.strip_prefix("spiffe://").ok_or_else(bad)?.split('/').collect();
        match parts.as_slice() {
            [domain, "ns", namespace, "sa", account]
                if !domain.is_empty() && !namespace.is_empty() && !account.is_empty() =>
            {
                Ok(Self::new(domain, namespace, account))
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written() {
        let text = "spiffe://cluster.local/ns/sample/sa/helloworld";
        assert_eq!(Identity::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
        ] {
            assert_eq!(Identity::parse(bad), Err(NotAnIdentity(bad.to_owned())));
        }
    }
}
