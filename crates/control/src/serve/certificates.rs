//! Istio's certificate service: a token in, a certificate for its identity out.

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tombolo_ca::authority::{Lifetimes, Unsigned};
use tombolo_runtime::errors::chain;
use tombolo_runtime::ready::Ready;
use tombolo_xds::proto::google::protobuf::value::Kind;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateService;
use tombolo_xds::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use crate::serve::authenticate::{Authenticator, Connection, Unauthenticated};
use crate::serve::trust::Trust;

/// How many requests are worked on at a time; more wait for their turn.
const AT_A_TIME: usize = 32;

/// The counters that Istio's certificate service has.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Counter,
    unauthenticated: Counter,
    refused: Counter,
    issued: Counter,
}

impl Metrics {
    /// Registers the counters.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        add("citadel_server_csr_count", "Signing requests received", &metrics.requests);
        add(
            "citadel_server_authentication_failure_count",
            "Signing requests of callers that are not known",
            &metrics.unauthenticated,
        );
        add("citadel_server_csr_sign_err_count", "Signing requests refused", &metrics.refused);
        add("citadel_server_success_cert_issuance_count", "Certificates issued", &metrics.issued);
        metrics
    }
}

/// Issues workload certificates.
pub struct Certificates {
    authenticator: Arc<Authenticator>,
    trust: Arc<Trust>,
    lifetimes: Lifetimes,
    /// Until the mesh was seen, nobody knows the trust domain for sure.
    ready: Ready,
    turns: Arc<Semaphore>,
    metrics: Metrics,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    pub fn new(
        authenticator: Arc<Authenticator>,
        trust: Arc<Trust>,
        lifetimes: Lifetimes,
        ready: Ready,
        metrics: Metrics,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(AT_A_TIME));
        Self { authenticator, trust, lifetimes, ready, turns, metrics }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.requests.inc();
        if !self.ready.is_ready() {
            return Err(Status::unavailable("the control plane has not seen the mesh yet"));
        }
        let (metadata, extensions, request) = request.into_parts();
        let headers = metadata.into_headers();
        let connection = extensions.get::<Connection>();
        let caller =
            self.authenticator.authenticate(&headers, connection).await.map_err(|error| {
                self.metrics.unauthenticated.inc();
                unauthenticated(&error)
            })?;
        refuse_demands(&request)?;
        let _turn = self
            .turns
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Status::unavailable("the control plane is stopping"))?;
        let (authority, lifetimes) = (self.trust.authority(), self.lifetimes);
        let id = caller.id.clone();
        // Signing with a big RSA key takes milliseconds, too long for a thread that serves xDS.
        let signed = tokio::task::spawn_blocking(move || {
            authority.sign(&request.csr, &id, request.validity_duration, lifetimes)
        });
        let signed = signed.await.map_err(|error| Status::internal(error.to_string()))?;
        let cert_chain = signed.map_err(|error| {
            self.metrics.refused.inc();
            tracing::warn!(caller = %caller.id, error = %chain(&error), "certificate not issued");
            unsigned(&error)
        })?;
        self.metrics.issued.inc();
        tracing::debug!(caller = %caller.id, cluster = ?caller.cluster, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// Refuses what a request may ask for beyond a certificate for the caller itself.
fn refuse_demands(request: &IstioCertificateRequest) -> Result<(), Status> {
    let Some(metadata) = &request.metadata else { return Ok(()) };
    let asks = |key: &str| {
        let value = metadata.fields.get(key).and_then(|value| value.kind.as_ref());
        value.is_some_and(|kind| !matches!(kind, Kind::StringValue(text) if text.is_empty()))
    };
    if asks("ImpersonatedIdentity") {
        return Err(Status::permission_denied(
            "certificates for other identities are not issued by this control plane",
        ));
    }
    if asks("CertSigner") {
        return Err(Status::invalid_argument(
            "this control plane signs itself and has no other certificate signers",
        ));
    }
    Ok(())
}

/// The status for a caller that is not known.
pub(crate) fn unauthenticated(error: &Unauthenticated) -> Status {
    let text = chain(error).to_string();
    tracing::warn!(error = %text, "caller not authenticated");
    if error.is_temporary() {
        return Status::unavailable(format!("request authenticate failure: {text}"));
    }
    Status::unauthenticated(format!("request authenticate failure: {text}"))
}

fn unsigned(error: &Unsigned) -> Status {
    let text = chain(error).to_string();
    match error {
        Unsigned::Request(_) | Unsigned::Lifetime { .. } => Status::invalid_argument(text),
        _ => Status::internal(text),
    }
}
