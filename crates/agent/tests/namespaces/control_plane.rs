//! A control plane that serves reviewed configurations and signs certificates.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tombolo_tls::key::PrivateKey;
use tombolo_tls::serving::Serving;
use tombolo_xds::json::from_value;
use tombolo_xds::proto::envoy::config::cluster::v3::Cluster;
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::config::listener::v3::Listener;
use tombolo_xds::proto::envoy::config::route::v3::RouteConfiguration;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use tombolo_xds::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tombolo_xds::resource::{Resource, Resources, Snapshot};
use tombolo_xds::server::{Ads, ResourceSource, Subscriber};
use tombolo_xds::types;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

/// Makes the root in `folder`: `root-cert.pem` for everybody, `root-key.pem` for the authority.
pub fn make_root(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let root = root_params().self_signed(&key).unwrap();
    std::fs::write(folder.join("root-cert.pem"), root.pem()).unwrap();
    std::fs::write(folder.join("root-key.pem"), key.serialize_pem()).unwrap();
}

fn root_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Root CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Serves until the process is killed.
pub async fn serve(world: &Path) {
    let root_pem = std::fs::read_to_string(world.join("root-cert.pem")).unwrap();
    let key_pem = std::fs::read_to_string(world.join("root-key.pem")).unwrap();
    let issuer = Issuer::new(root_params(), KeyPair::from_pem(&key_pem).unwrap());
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress("172.18.0.100".parse().unwrap())];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let serving = Arc::new(Serving::default());
    let key = PrivateKey::from_pem(&key.serialize_pem()).unwrap();
    serving.set(&leaf.pem(), &key).unwrap();
    let ads = Ads::new(Arc::new(Source), "test");
    let routes = tonic::service::Routes::new(ads.into_service())
        .add_service(IstioCertificateServiceServer::new(Authority { issuer, root_pem }))
        .prepare();
    let acceptor = TlsAcceptor::from(serving.server(&[b"h2"]));
    let listener = TcpListener::bind("172.18.0.100:15012").await.unwrap();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(routes.clone()));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            drop(http.http2_only().serve_connection(TokioIo::new(tls), service).await);
        });
    }
}

/// Signs for whoever has the right token: the identity itself.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        let id = token.and_then(|token| token.strip_prefix("Bearer "));
        let id = id.ok_or_else(|| Status::unauthenticated("no token"))?.to_owned();
        let mut csr = CertificateSigningRequestParams::from_pem(&request.into_inner().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        csr.params.distinguished_name = DistinguishedName::new();
        csr.params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        csr.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(2);
        csr.params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
        let leaf =
            csr.signed_by(&self.issuer).map_err(|error| Status::internal(error.to_string()))?;
        let cert_chain = vec![leaf.pem(), self.root_pem.clone()];
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

struct Source;

#[tonic::async_trait]
impl ResourceSource for Source {
    type Caller = ();

    async fn authenticate(&self, metadata: &MetadataMap, _: &Extensions) -> Result<(), Status> {
        metadata.get("authorization").map(drop).ok_or_else(|| Status::unauthenticated("no token"))
    }

    async fn connect(&self, (): (), node: Node) -> Result<Arc<dyn Subscriber>, Status> {
        let pod =
            node.id.split('~').nth(2).unwrap_or_default().split('.').next().unwrap_or_default();
        eprintln!("control plane: {} connects", node.id);
        let name = match pod {
            "sleep" => "cluster01-sleep",
            "gateway" => "cluster02-gateway",
            _ => "cluster01-helloworld",
        };
        let snapshot = Arc::new(reviewed(name));
        Ok(Arc::new(Fixed(watch::Sender::new(snapshot))))
    }
}

struct Fixed(watch::Sender<Arc<Snapshot>>);

impl Subscriber for Fixed {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }

    fn rejected(&self, type_url: &str, _: &str, message: &str) {
        eprintln!("control plane: {type_url} was rejected: {message}");
    }
}

/// A configuration that the control plane's own tests have reviewed.
fn reviewed(name: &str) -> Snapshot {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/tests/snapshots");
    let path = folder.join(format!("golden__primary-remote-multi-network__{name}.snap"));
    let text = std::fs::read_to_string(path).unwrap();
    let json: Value = serde_json::from_str(text.splitn(3, "---\n").nth(2).unwrap()).unwrap();
    let mut snapshot = Snapshot { version: "1".to_owned(), ..Snapshot::default() };
    let all: [(&'static str, Resources); 4] = [
        (types::CLUSTER, read::<Cluster>(&json["Cluster"])),
        (types::ENDPOINT, read::<ClusterLoadAssignment>(&json["Endpoint"])),
        (types::LISTENER, read::<Listener>(&json["Listener"])),
        (types::ROUTE, read::<RouteConfiguration>(&json["Route"])),
    ];
    snapshot.types = all.into_iter().map(|(url, resources)| (url, Arc::new(resources))).collect();
    snapshot
}

fn read<M: prost::Message + prost::Name + Default>(json: &Value) -> Resources {
    let resource = |(name, value): (&String, &Value)| {
        let message: M = from_value(value).unwrap();
        (name.as_str().into(), Resource::encode(name.as_str(), &message))
    };
    json.as_object().into_iter().flatten().map(resource).collect()
}
