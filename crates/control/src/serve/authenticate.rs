//! Who calls: a workload by its mesh certificate, or by a service-account token that the cluster
//! it comes from has confirmed.
//!
//! *Guarantees*
//! * An identity is taken from a verified chain or from an API server's answer, never from what
//!   the caller says. The cluster that a caller names decides only whom we ask.
//! * Anything ambiguous is refused: several tokens, several cluster names, a user name that is
//!   not exactly that of a service account, an answer for another audience.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tombolo_model::id::ClusterId;
use tombolo_runtime::errors::chain;
use tombolo_tls::spiffe::{self, SpiffeId, TrustDomain};

use crate::push::publisher::Publisher;
use crate::serve::settings::Settings;
use crate::watch::clusters::Clusters;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Longer tokens are not from a Kubernetes cluster.
const LONGEST_TOKEN: usize = 16 * 1024;
/// How many tokens a cluster judges at a time; more wait for their turn. Tokens come from anybody,
/// and each costs the cluster a request.
const AT_A_TIME: usize = 32;
/// How long that may take with the wait for it; callers try again.
const REVIEW: Duration = Duration::from_secs(10);

/// What a connection's handshake established; attached to every request on it.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: std::net::SocketAddr,
    /// Who the client's certificate says it is, verified.
    pub certificate: Option<SpiffeId>,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub id: SpiffeId,
    /// The cluster that confirmed the token; none when a certificate was shown.
    pub cluster: Option<ClusterId>,
    /// The pod that the token was issued for.
    pub pod: Option<String>,
    pub pod_uid: Option<String>,
}

/// Why a caller is not who it says, or does not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum Unauthenticated {
    #[error("no client certificate and no bearer token")]
    Nothing,
    #[error("more than one `{0}` header")]
    Twice(&'static str),
    #[error("the authorization header is not a bearer token")]
    Scheme,
    #[error("the token has {0} bytes, which no service-account token has")]
    Long(usize),
    #[error(
        "client claims to be in cluster {claimed}, but only these are known: {known:?}; create a remote secret for it"
    )]
    Cluster { claimed: ClusterId, known: Vec<String> },
    #[error("ask cluster {cluster} about the token: {reason}")]
    Review { cluster: ClusterId, reason: String },
    #[error("cluster {cluster} does not accept the token: {reason}")]
    Rejected { cluster: ClusterId, reason: String },
    #[error("the token is for audiences {found:?}, expected one of {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    #[error("`{0}` is not a service account")]
    User(String),
    #[error("the caller's identity")]
    Identity(#[from] spiffe::Error),
    #[error("trust domain `{0}` is not part of this mesh")]
    TrustDomain(TrustDomain),
}

impl Unauthenticated {
    /// Whether the same call may work later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Review { .. })
    }
}

/// Authenticates callers. Cheap to share.
pub struct Authenticator {
    settings: Arc<Settings>,
    clusters: Clusters,
    publisher: Publisher,
    /// By cluster, so that one that is slow holds up no other.
    turns: Mutex<BTreeMap<ClusterId, Arc<Semaphore>>>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

impl Authenticator {
    pub fn new(settings: Arc<Settings>, clusters: Clusters, publisher: Publisher) -> Self {
        Self { settings, clusters, publisher, turns: Mutex::default() }
    }

    /// Says who calls with these headers over this connection.
    ///
    /// # Errors
    /// When that is not known for sure.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        connection: Option<&Connection>,
    ) -> Result<Caller, Unauthenticated> {
        if let Some(id) = connection.and_then(|connection| connection.certificate.clone()) {
            if !self.trust_domains()?.contains(id.trust_domain()) {
                return Err(Unauthenticated::TrustDomain(id.trust_domain().clone()));
            }
            return Ok(Caller { id, cluster: None, pod: None, pod_uid: None });
        }
        let token = bearer(headers)?;
        let cluster = self.settings.resolve(single(headers, "clusterid")?.unwrap_or_default());
        let status = self.review(&cluster, token).await?;
        self.caller(cluster, status)
    }

    async fn review(
        &self,
        cluster: &ClusterId,
        token: &str,
    ) -> Result<TokenReviewStatus, Unauthenticated> {
        let Some(client) = self.clusters.client(cluster) else {
            let known = self.clusters.all().iter().map(|known| known.id.to_string()).collect();
            return Err(Unauthenticated::Cluster { claimed: cluster.clone(), known });
        };
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(self.settings.audiences.clone()),
            },
            status: None,
        };
        let failed = |reason: String| Unauthenticated::Review { cluster: cluster.clone(), reason };
        let (reviews, params) = (Api::<TokenReview>::all(client), PostParams::default());
        let turns = Arc::clone(
            self.turns
                .lock()
                .entry(cluster.clone())
                .or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME))),
        );
        let asked = async {
            let _turn = turns.acquire().await;
            reviews.create(&params, &review).await
        };
        let answer = tokio::time::timeout(REVIEW, asked)
            .await
            .map_err(|_| failed(format!("no answer within {REVIEW:?}")))?
            .map_err(|error| failed(chain(&error).to_string()))?;
        answer.status.ok_or_else(|| failed("the answer has no status".into()))
    }

    fn caller(
        &self,
        cluster: ClusterId,
        status: TokenReviewStatus,
    ) -> Result<Caller, Unauthenticated> {
        if status.authenticated != Some(true)
            || status.error.as_ref().is_some_and(|e| !e.is_empty())
        {
            let reason = status.error.unwrap_or_else(|| "not authenticated".into());
            return Err(Unauthenticated::Rejected { cluster, reason });
        }
        let wanted = &self.settings.audiences;
        let found = status.audiences.unwrap_or_default();
        if !found.iter().any(|audience| wanted.contains(audience)) {
            return Err(Unauthenticated::Audience { found, wanted: wanted.clone() });
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        let groups = user.groups.unwrap_or_default();
        let mut parts = name.split(':');
        let (Some("system"), Some("serviceaccount"), Some(namespace), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unauthenticated::User(name));
        };
        if !groups.iter().any(|group| group == "system:serviceaccounts") {
            return Err(Unauthenticated::User(name));
        }
        let id = SpiffeId::new(self.trust_domain()?, namespace, account)?;
        let extra = user.extra.unwrap_or_default();
        let only = |key: &str| extra.get(key).and_then(|values| values.first().cloned());
        Ok(Caller { id, cluster: Some(cluster), pod: only(POD_NAME), pod_uid: only(POD_UID) })
    }

    /// The trust domain that identities are issued in.
    pub fn trust_domain(&self) -> Result<TrustDomain, spiffe::Error> {
        TrustDomain::new(&self.publisher.latest().picture.mesh.config.trust_domain)
    }

    /// The trust domains whose workloads belong to the mesh.
    fn trust_domains(&self) -> Result<Vec<TrustDomain>, spiffe::Error> {
        let latest = self.publisher.latest();
        let config = &latest.picture.mesh.config;
        std::iter::once(&config.trust_domain)
            .chain(&config.trust_domain_aliases)
            .map(|name| TrustDomain::new(name))
            .collect()
    }
}

/// The only value of a header.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Unauthenticated> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Unauthenticated::Twice(name));
    }
    Ok(first.and_then(|value| value.to_str().ok()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Unauthenticated> {
    let Some(value) = single(headers, "authorization")? else {
        return Err(Unauthenticated::Nothing);
    };
    let token = value
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or(Unauthenticated::Scheme)?;
    if token.len() > LONGEST_TOKEN {
        return Err(Unauthenticated::Long(token.len()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;

    use super::*;
    use crate::index::live::Live;
    use crate::index::picture::Picture;
    use crate::watch::clusters::{Cluster, Sync};

    /// A cluster that counts the tokens it is asked about and confirms none, when the gate lets it.
    fn cluster(asked: &Arc<AtomicUsize>, gate: &Arc<Semaphore>) -> kube::Client {
        let (asked, gate) = (asked.clone(), gate.clone());
        let answer = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let gate = gate.clone();
            async move {
                let _open = gate.acquire().await;
                let review = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": {"authenticated": false}}"#;
                Ok::<_, std::io::Error>(http::Response::new(axum::body::Body::from(review)))
            }
        });
        kube::Client::new(answer, "default")
    }

    #[tokio::test]
    async fn a_flood_of_tokens_reaches_a_cluster_a_few_at_a_time_and_holds_up_no_other() {
        let (asked, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let home = ClusterId::new("cluster01");
        let clusters = Clusters::new(home.clone(), cluster(&asked, &closed));
        clusters.set(Cluster {
            id: ClusterId::new("cluster02"),
            secret: String::new(),
            sync: Sync::Synced,
            client: cluster(&Arc::default(), &Arc::new(Semaphore::new(1))),
            incarnation: 1,
        });
        let settings = crate::serve::tests::settings(&TempDir::new().unwrap());
        let live = Live::new(home, "cluster.local", "istio-system");
        let publisher = Publisher::new(Picture::of(&live));
        let authenticator = Authenticator::new(Arc::new(settings), clusters, publisher);
        let call = async |cluster: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", "Bearer any".parse().unwrap());
            headers.insert("clusterid", cluster.parse().unwrap());
            authenticator.authenticate(&headers, None).await.unwrap_err()
        };
        let flood = futures::future::join_all((0..4 * AT_A_TIME).map(|_| call("cluster01")));
        let other = async {
            while asked.load(Ordering::Relaxed) < AT_A_TIME {
                tokio::task::yield_now().await;
            }
            let error = call("cluster02").await;
            assert!(matches!(error, Unauthenticated::Rejected { .. }), "{error}");
            let most = asked.load(Ordering::Relaxed);
            closed.add_permits(AT_A_TIME);
            most
        };
        let (errors, most) = tokio::join!(flood, other);
        assert_eq!(most, AT_A_TIME);
        assert_eq!(asked.load(Ordering::Relaxed), 4 * AT_A_TIME);
        assert!(errors.iter().all(|error| matches!(error, Unauthenticated::Rejected { .. })));
    }
}
