//! The doors, opened for real: TLS on loopback, a fake API server behind `TokenReview`.

#[path = "../../tests/revocations/support.rs"]
mod revocations;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tombolo_ca::authority::Lifetimes;
use tombolo_ca::offline::{Root, Settings as Offline};
use tombolo_model::id::{ClusterId, ObjectName};
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_tls::identity::Identity;
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::mesh::Credentials;
use tombolo_tls::roots::{Bundle, Roots};
use tombolo_tls::spiffe::TrustDomain;
use tombolo_xds::channel::Target;
use tombolo_xds::client::{
    self, Connect, Connection as State, Handler, Refusal, Subscriptions, Update,
};
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::proto::google::protobuf::{Struct, Value as Proto, value};
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use tombolo_xds::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tombolo_xds::server::Ads;
use tombolo_xds::types;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::index::live::{Change, Event, Live};
use crate::index::objects::{NamespaceObject, Object, PodObject};
use crate::index::picture::Picture;
use crate::push::publisher::Publisher;
use crate::serve::ads::{Connections, Parts, Source};
use crate::serve::authenticate::Authenticator;
use crate::serve::certificates::{Certificates, Metrics};
use crate::serve::compiler::Compiler;
use crate::serve::listen::Listener;
use crate::serve::settings::{Flags, Settings};
use crate::serve::trust::Trust;
use crate::watch::clusters::{Cluster, Clusters, Sync};

const HOST: &str = "istiod.istio-system.svc";

/// What a fake API server answers to tokens.
type Tokens = Arc<Mutex<BTreeMap<String, Value>>>;

/// An API server that knows only `TokenReview`.
fn api_server(tokens: Tokens) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let tokens = tokens.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(path, "/apis/authentication.k8s.io/v1/tokenreviews");
            let review: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(review["spec"]["audiences"], json!(["istio-ca"]));
            let token = review["spec"]["token"].as_str().unwrap();
            let status = tokens.lock().get(token).cloned();
            let status = status.unwrap_or_else(|| json!({"authenticated": false}));
            let answer = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                "metadata": {}, "spec": {}, "status": status,
            });
            let body = http_body_util::Full::new(Bytes::from(answer.to_string()));
            Ok::<_, std::io::Error>(http::Response::new(body))
        }
    });
    kube::Client::new(service, "default")
}

/// A review that confirms a service account.
fn confirmed(namespace: &str, account: &str, pod: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": format!("system:serviceaccount:{namespace}:{account}"),
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/pod-name": [pod]},
        },
    })
}

/// A control plane whose doors are open, without watches.
struct Plane {
    address: String,
    roots: Roots,
    publisher: Publisher,
    live: Mutex<Live>,
    connections: Connections,
    authenticator: Arc<Authenticator>,
    shutdown: Shutdown,
    trust: Arc<Trust>,
    root: Root,
    cacerts: TempDir,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shutdown.draining_token().cancel();
    }
}

pub(crate) fn settings(cacerts: &TempDir) -> Settings {
    let flags = Flags {
        http_addr: "127.0.0.1:0".into(),
        https_addr: "127.0.0.1:0".into(),
        secure_grpc_addr: "127.0.0.1:0".into(),
        monitoring_addr: "127.0.0.1:0".into(),
        domain: "cluster.local".into(),
        cluster_id: Some("cluster01".into()),
        cluster_aliases: vec![],
        kubeconfig: None,
        namespace: None,
        shutdown_duration: "1s".into(),
        max_connection_age: "30m".into(),
    };
    let settings = Settings::read(flags, &|_| None).unwrap();
    Settings { cacerts: cacerts.path().to_owned(), ..settings }
}

async fn plane(home: Tokens, remote: Tokens) -> Plane {
    tombolo_tls::install_provider();
    let cacerts = TempDir::new().unwrap();
    let quick = |settings: Offline| Offline { key: KeyKind::Rsa2048, ..settings };
    let root = Root::generate(&quick(Offline::root())).unwrap();
    let one = root.intermediate("cluster01", &quick(Offline::intermediate())).unwrap();
    for (name, text) in one.cacerts() {
        std::fs::write(cacerts.path().join(name), text.as_bytes()).unwrap();
    }
    let settings = Arc::new(settings(&cacerts));
    let clusters = Clusters::new(ClusterId::new("cluster01"), api_server(home));
    clusters.set(Cluster {
        id: ClusterId::new("cluster02"),
        secret: "istio-system/istio-remote-secret-cluster02".into(),
        sync: Sync::Synced,
        client: api_server(remote),
        incarnation: 1,
    });
    let mut live = Live::new(ClusterId::new("cluster01"), "cluster.local", "istio-system");
    for cluster in ["cluster01", "cluster02"] {
        tell(&mut live, cluster, Change::Opened);
        for namespace in ["sample", "istio-system"] {
            let name = ObjectName::new("", namespace);
            let (labels, annotations) = (BTreeMap::new(), BTreeMap::new());
            let object = NamespaceObject { name, labels, annotations };
            tell(&mut live, cluster, Change::Apply(Object::Namespace(object)));
        }
        tell(&mut live, cluster, Change::Apply(Object::Pod(pod("sleep-1", "sleep"))));
    }
    let publisher = Publisher::new(Picture::of(&live));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let client = clusters.client(clusters.config_cluster()).unwrap();
    let trust = Trust::load(settings.clone(), client, &domain, vec![HOST.into()]).await.unwrap();
    let (shutdown, connections) = (Shutdown::default(), Connections::default());
    let authenticator = Arc::new(Authenticator::new(settings.clone(), clusters, publisher.clone()));
    let source = Source::new(Parts {
        settings: settings.clone(),
        authenticator: authenticator.clone(),
        publisher: publisher.clone(),
        compiler: Arc::new(Compiler::default()),
        ready: Ready::default(),
        shutdown: shutdown.clone(),
        connections: connections.clone(),
    });
    let certificates = Certificates::new(
        authenticator.clone(),
        trust.clone(),
        Lifetimes::default(),
        Ready::default(),
        Metrics::default(),
    );
    let router = tonic::service::Routes::new(Ads::new(Arc::new(source), "istiod").into_service())
        .add_service(IstioCertificateServiceServer::new(certificates))
        .prepare()
        .into_axum_router();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let listener = Listener {
        name: "xds",
        socket,
        tls: trust.serving().server_with_clients(trust.credentials(), &[b"h2"]),
        age: Duration::from_secs(60),
    };
    shutdown.spawn("certificate authority", trust.clone().follow(shutdown.clone()));
    shutdown.spawn("xds", listener.run(router, shutdown.clone()));
    let roots = Roots::from_pem(&one.root_pem()).unwrap();
    let live = Mutex::new(live);
    Plane {
        address,
        roots,
        publisher,
        live,
        connections,
        authenticator,
        shutdown,
        trust,
        root,
        cacerts,
    }
}

fn tell(live: &mut Live, cluster: &str, change: Change) {
    live.apply(Event { cluster: ClusterId::new(cluster), incarnation: 1, change });
}

fn pod(name: &str, account: &str) -> PodObject {
    PodObject {
        name: ObjectName::new("sample", name),
        labels: BTreeMap::from([("app".into(), "sleep".into())]),
        ips: vec!["10.10.0.5".parse().unwrap()],
        service_account: account.into(),
        node: "node".into(),
        workload: "sleep".into(),
        serving: true,
    }
}

impl Plane {
    fn target(&self, credentials: Option<&Arc<Credentials>>) -> Target {
        let tls = tombolo_tls::serving::client(&self.roots, credentials, &[b"h2"]).unwrap();
        let (address, server_name) = (self.address.clone(), Some(HOST.into()));
        Target { address, tls: Some(tls), server_name }
    }

    async fn certificate(
        &self,
        headers: &[(&str, &str)],
        key: &PrivateKey,
    ) -> Result<IstioCertificateResponse, Status> {
        let channel = self.target(None).connect().await.unwrap();
        let csr = key.request(&"spiffe://cluster.local/ns/x/sa/y".parse().unwrap()).unwrap();
        let mut request = Request::new(IstioCertificateRequest { csr, ..Default::default() });
        *request.metadata_mut() = metadata(headers);
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Follows as `node` and returns what the first update or refusal was.
    async fn first(
        &self,
        node: Node,
        headers: &[(&str, &str)],
        how: Option<&Arc<Credentials>>,
    ) -> Seen {
        let mut seen = self.follow(node, headers, how);
        loop {
            match tokio::time::timeout(Duration::from_secs(10), seen.recv()).await {
                Ok(Some(Seen::Up)) => (),
                Ok(Some(other)) => return other,
                other => panic!("nothing was seen: {other:?}"),
            }
        }
    }

    fn follow(
        &self,
        node: Node,
        headers: &[(&str, &str)],
        how: Option<&Arc<Credentials>>,
    ) -> mpsc::Receiver<Seen> {
        let (sender, receiver) = mpsc::channel(64);
        let subscriptions = Subscriptions::default();
        subscriptions.want_all(types::CLUSTER);
        subscriptions.want_all(types::LISTENER);
        let connect = Fixed { target: self.target(how), metadata: metadata(headers) };
        let settings = client::Settings { node, ..client::Settings::default() };
        let following = client::run(settings, subscriptions, connect, Report(sender.clone()));
        self.shutdown.spawn("client", async move {
            tokio::select! {
                () = following => (),
                () = sender.closed() => (),
            }
        });
        receiver
    }
}

fn metadata(headers: &[(&str, &str)]) -> MetadataMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    MetadataMap::from_headers(map)
}

struct Fixed {
    target: Target,
    metadata: MetadataMap,
}

#[tonic::async_trait]
impl Connect for Fixed {
    async fn connect(
        &mut self,
    ) -> Result<(Channel, MetadataMap), Box<dyn std::error::Error + Send + std::marker::Sync>> {
        Ok((self.target.connect().await?, self.metadata.clone()))
    }
}

#[derive(Debug)]
enum Seen {
    Up,
    Down(String),
    Update(String, Vec<String>),
}

struct Report(mpsc::Sender<Seen>);

impl Handler for Report {
    fn update(&mut self, update: Update) -> Vec<Refusal> {
        let names = update.changed.iter().map(|it| it.name.to_string()).collect();
        drop(self.0.try_send(Seen::Update(update.type_url, names)));
        Vec::new()
    }

    fn connection(&mut self, connection: State) {
        drop(self.0.try_send(match connection {
            State::Up => Seen::Up,
            State::Down(why) => Seen::Down(why),
        }));
    }
}

fn node(id: &str, fields: &[(&str, &str)]) -> Node {
    let text = |text: &str| Proto { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
    Node { id: id.into(), metadata: Some(Struct { fields: fields.collect() }), ..Node::default() }
}

fn sleep(cluster: &str) -> Node {
    node(
        "sidecar~10.10.0.5~sleep-1.sample~sample.svc.cluster.local",
        &[("CLUSTER_ID", cluster), ("NAMESPACE", "sample"), ("SERVICE_ACCOUNT", "sleep")],
    )
}

fn tokens(all: &[(&str, Value)]) -> Tokens {
    let all = all.iter().map(|(token, status)| ((*token).to_owned(), status.clone()));
    Arc::new(Mutex::new(all.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_a_certificate_for_who_its_cluster_says_it_is() {
    let home = tokens(&[("home", confirmed("sample", "sleep", "sleep-1"))]);
    let remote = tokens(&[("away", confirmed("sample", "helloworld", "hello-1"))]);
    let plane = plane(home, remote).await;
    let key = || PrivateKey::generate(KeyKind::P256).unwrap();
    for (headers, want) in [
        (vec![("authorization", "Bearer home")], "spiffe://cluster.local/ns/sample/sa/sleep"),
        (
            vec![("authorization", "bearer home"), ("clusterid", "cluster01")],
            "spiffe://cluster.local/ns/sample/sa/sleep",
        ),
        (
            vec![("authorization", "Bearer away"), ("clusterid", "cluster02")],
            "spiffe://cluster.local/ns/sample/sa/helloworld",
        ),
    ] {
        let key = key();
        let mut chain = plane.certificate(&headers, &key).await.unwrap().cert_chain;
        let roots = chain.pop().unwrap();
        assert_eq!(Roots::from_pem(&roots).unwrap(), plane.roots);
        let identity = Identity::new(&chain.concat(), key).unwrap();
        assert_eq!(identity.id().to_string(), want);
    }
    for (headers, code, want) in [
        (vec![], Code::Unauthenticated, "no client certificate and no bearer token"),
        (vec![("authorization", "Basic home")], Code::Unauthenticated, "not a bearer token"),
        (
            vec![("authorization", "Bearer nope")],
            Code::Unauthenticated,
            "does not accept the token",
        ),
        (
            vec![("authorization", "Bearer home"), ("clusterid", "cluster02")],
            Code::Unauthenticated,
            "cluster cluster02 does not accept",
        ),
        (
            vec![("authorization", "Bearer home"), ("clusterid", "cluster09")],
            Code::Unauthenticated,
            "claims to be in cluster cluster09, but only these are known: [\"cluster01\", \"cluster02\"]",
        ),
        (
            vec![("authorization", "Bearer home"), ("authorization", "Bearer away")],
            Code::Unauthenticated,
            "more than one `authorization`",
        ),
        (
            vec![
                ("authorization", "Bearer home"),
                ("clusterid", "cluster01"),
                ("clusterid", "cluster02"),
            ],
            Code::Unauthenticated,
            "more than one `clusterid`",
        ),
    ] {
        let status = plane.certificate(&headers, &key()).await.unwrap_err();
        assert_eq!(status.code(), code, "{headers:?}");
        assert!(status.message().contains(want), "{headers:?}: {}", status.message());
    }
}

#[tokio::test]
async fn reviews_that_are_not_exactly_a_service_account_are_refused() {
    let user = |name: &str| json!({"username": name, "groups": ["system:serviceaccounts"]});
    let review =
        |user: Value| json!({"authenticated": true, "audiences": ["istio-ca"], "user": user});
    let cases = [
        ("empty", review(user("")), "is not a service account"),
        ("long", review(user("system:serviceaccount:ns:sa:extra")), "is not a service account"),
        ("human", review(user("kubernetes-admin")), "is not a service account"),
        ("node", review(user("system:node:n")), "is not a service account"),
        ("odd", review(user("system:serviceaccount:NS:../sa")), "not a Kubernetes name"),
        ("nobody", review(json!({})), "is not a service account"),
        (
            "group",
            review(json!({"username": "system:serviceaccount:ns:sa", "groups": []})),
            "is not a service account",
        ),
        (
            "audience",
            json!({"authenticated": true, "audiences": ["api"], "user": user("system:serviceaccount:ns:sa")}),
            "the token is for audiences [\"api\"]",
        ),
        (
            "no audience",
            json!({"authenticated": true, "user": user("system:serviceaccount:ns:sa")}),
            "the token is for audiences []",
        ),
        (
            "error",
            json!({"authenticated": true, "error": "expired", "audiences": ["istio-ca"], "user": user("system:serviceaccount:ns:sa")}),
            "expired",
        ),
    ];
    let plane =
        plane(tokens(&cases.clone().map(|(token, review, _)| (token, review))), tokens(&[])).await;
    for (token, _, want) in cases {
        let headers = metadata(&[("authorization", &format!("Bearer {token}"))]).into_headers();
        let error = plane.authenticator.authenticate(&headers, None).await.unwrap_err();
        let text = tombolo_runtime::errors::chain(&error).to_string();
        assert!(text.contains(want), "{token}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_follows_its_configuration_by_token_and_by_certificate() {
    let home = tokens(&[("home", confirmed("sample", "sleep", "sleep-1"))]);
    let plane = plane(home, tokens(&[])).await;
    let token = [("authorization", "Bearer home"), ("clusterid", "cluster01")];
    let Seen::Update(kind, names) = plane.first(sleep("cluster01"), &token, None).await else {
        panic!("refused")
    };
    assert_eq!(kind, types::CLUSTER);
    assert!(names.contains(&"BlackHoleCluster".to_owned()), "{names:?}");

    let key = PrivateKey::generate(KeyKind::P256).unwrap();
    let mut chain = plane.certificate(&token, &key).await.unwrap().cert_chain;
    chain.pop();
    let credentials = Arc::new(Credentials::default());
    credentials.set_identity(Identity::new(&chain.concat(), key).unwrap());
    credentials.set_bundle(Bundle::for_any(plane.roots.clone()));
    let seen = plane.first(sleep("cluster01"), &[], Some(&credentials)).await;
    assert!(matches!(&seen, Seen::Update(kind, _) if kind == types::CLUSTER), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_it_is_somebody_else_is_refused() {
    let home = tokens(&[("home", confirmed("sample", "sleep", "sleep-1"))]);
    let plane = plane(home, tokens(&[])).await;
    let token = [("authorization", "Bearer home"), ("clusterid", "cluster01")];
    let own = "sidecar~10.10.0.5~sleep-1.sample~sample.svc.cluster.local";
    for (node, want) in [
        (node(own, &[("CLUSTER_ID", "cluster01"), ("NAMESPACE", "prod")]), "says namespace `prod`"),
        (
            node(
                "sidecar~10.10.0.5~sleep-1.prod~prod.svc.cluster.local",
                &[("CLUSTER_ID", "cluster01"), ("NAMESPACE", "sample")],
            ),
            "says namespace",
        ),
        (
            node(own, &[("CLUSTER_ID", "cluster01"), ("SERVICE_ACCOUNT", "admin")]),
            "says service account `admin`",
        ),
        (node(own, &[("CLUSTER_ID", "cluster02")]), "says cluster `cluster02`"),
        (
            node(
                "sidecar~10.10.0.5~other.sample~sample.svc.cluster.local",
                &[("CLUSTER_ID", "cluster01")],
            ),
            "says pod `other`",
        ),
        (node("ztunnel~10.10.0.5~sleep-1.sample~x", &[]), "is of type `ztunnel`"),
        (node("nonsense", &[]), "is not of the form"),
        (node("", &[]), "must name its node"),
    ] {
        let seen = plane.first(node, &token, None).await;
        let Seen::Down(why) = seen else { panic!("{want}: let in: {seen:?}") };
        assert!(why.contains(want), "{want}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_no_pod_opens_the_pods_of_its_service_account_only() {
    let mut loose = confirmed("sample", "sleep", "");
    loose["user"]["extra"] = json!({});
    let plane = plane(tokens(&[("loose", loose)]), tokens(&[])).await;
    {
        let mut live = plane.live.lock();
        tell(&mut live, "cluster01", Change::Apply(Object::Pod(pod("gateway-1", "gateway"))));
        assert!(plane.publisher.publish(Picture::of(&live)));
    }
    let token = [("authorization", "Bearer loose"), ("clusterid", "cluster01")];
    let seen = plane.first(sleep("cluster01"), &token, None).await;
    assert!(matches!(&seen, Seen::Update(kind, _) if kind == types::CLUSTER), "{seen:?}");
    let gateway = node(
        "router~10.10.0.5~gateway-1.sample~sample.svc.cluster.local",
        &[("CLUSTER_ID", "cluster01"), ("NAMESPACE", "sample")],
    );
    let seen = plane.first(gateway, &token, None).await;
    let Seen::Down(why) = seen else { panic!("let in: {seen:?}") };
    assert!(why.contains("pod `sample/gateway-1` of cluster `cluster01`"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_picture_reaches_a_connected_proxy_and_leaving_is_noticed() {
    let home = tokens(&[("home", confirmed("sample", "sleep", "sleep-1"))]);
    let plane = plane(home, tokens(&[])).await;
    let token = [("authorization", "Bearer home"), ("clusterid", "cluster01")];
    let mut seen = plane.follow(sleep("cluster01"), &token, None);
    let mut updates = async |until: &str| {
        loop {
            match tokio::time::timeout(Duration::from_secs(10), seen.recv()).await {
                Ok(Some(Seen::Update(_, names))) if names.iter().any(|it| it.contains(until)) => {
                    return;
                }
                Ok(Some(_)) => (),
                other => panic!("`{until}` did not come: {other:?}"),
            }
        }
    };
    updates("virtualOutbound").await;
    assert_eq!(plane.connections.all().len(), 1);
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(json!({
        "metadata": {"name": "helloworld", "namespace": "sample"},
        "spec": {"clusterIP": "10.11.0.7", "ports": [{"name": "http", "port": 5000}]},
    }))
    .unwrap();
    let service = crate::watch::extract::service(service);
    {
        let mut live = plane.live.lock();
        tell(&mut live, "cluster01", Change::Apply(Object::Service(service)));
        assert!(plane.publisher.publish(Picture::of(&live)));
    }
    updates("outbound|5000||helloworld.sample.svc.cluster.local").await;
    drop(seen);
    let gone = async {
        while !plane.connections.all().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the proxy is still listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_intermediate_is_taken_up_and_another_root_is_not() {
    let home = tokens(&[("home", confirmed("sample", "sleep", "sleep-1"))]);
    let plane = plane(home, tokens(&[])).await;
    let quick = |settings: Offline| Offline { key: KeyKind::Rsa2048, ..settings };
    let write = |root: &Root| {
        let next = root.intermediate("cluster01", &quick(Offline::intermediate())).unwrap();
        for (name, text) in next.cacerts() {
            std::fs::write(plane.cacerts.path().join(name), text.as_bytes()).unwrap();
        }
        next.certificate_pem()
    };
    let signs_with = async |pem: &str| {
        let replaced = async {
            while plane.trust.authority().certificate_pem() != pem {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), replaced).await.is_ok()
    };
    let second = write(&plane.root);
    assert!(signs_with(&second).await, "the new intermediate is not used");
    // Certificates of the new intermediate, and the serving certificate, which changed with it.
    let key = PrivateKey::generate(KeyKind::P256).unwrap();
    let answer = plane.certificate(&[("authorization", "Bearer home")], &key).await.unwrap();
    assert_eq!(answer.cert_chain[1], second);

    write(&Root::generate(&quick(Offline::root())).unwrap());
    let error = plane.trust.look().await.unwrap_err();
    let text = tombolo_runtime::errors::chain(&error).to_string();
    assert!(text.contains("publish old and new root together first"), "{text}");
    assert_eq!(plane.trust.authority().certificate_pem(), second);
    let third = write(&plane.root);
    assert!(signs_with(&third).await, "the third intermediate is not used");
}

#[tokio::test]
async fn revocations_that_can_be_read_are_taken_up_and_stay() {
    let plane = plane(tokens(&[]), tokens(&[])).await;
    let now = || plane.trust.revocations().borrow().to_string();
    assert_eq!(now(), "");
    let file = plane.cacerts.path().join("ca-crl.pem");
    for number in [1, 2] {
        let list = revocations::list(number);
        std::fs::write(&file, &list).unwrap();
        plane.trust.look().await.unwrap();
        assert_eq!(now(), list);
    }
    let before = now();
    std::fs::write(&file, "nonsense").unwrap();
    let text = tombolo_runtime::errors::chain(&plane.trust.look().await.unwrap_err()).to_string();
    assert!(text.contains("ca-crl.pem"), "{text}");
    std::fs::remove_file(&file).unwrap();
    plane.trust.look().await.unwrap();
    assert_eq!(now(), before);
}
