//! Proxies, applications and configuration for the tests: everything on loopback, port 0.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::{Message, Name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tombolo_proxy::listen;
use tombolo_proxy::observe::metrics::Workload;
use tombolo_proxy::proxy::{Proxy, Settings};
use tombolo_proxy::snapshot::{Builder, Kind};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_tls::identity::Identity;
use tombolo_tls::mesh::Credentials;
use tombolo_tls::roots::{Bundle, Roots};
use tombolo_xds::proto::envoy::config::cluster::v3 as cds;
use tombolo_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType,
};
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::envoy::config::endpoint::v3 as eds;
use tombolo_xds::proto::envoy::config::listener::v3 as lds;
use tombolo_xds::proto::envoy::config::route::v3 as rds;
use tombolo_xds::proto::envoy::extensions::access_loggers::file::v3 as file_log;
use tombolo_xds::proto::envoy::extensions::filters::http::router::v3::Router;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm_parts;
use tombolo_xds::proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use tombolo_xds::proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tombolo_xds::proto::envoy::r#type::matcher::v3 as matcher;
use tombolo_xds::proto::google::protobuf as wkt;

pub const SLEEP: &str = "spiffe://cluster.local/ns/sample/sa/sleep";
pub const HELLO: &str = "spiffe://cluster.local/ns/sample/sa/helloworld";
pub const SERVICE: &str = "outbound|5000||helloworld.sample.svc.cluster.local";
pub const SNI: &str = "outbound_.5000_._.helloworld.sample.svc.cluster.local";

/// Waits until `check` yields something.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A root of trust.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Root CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Chain and key of a workload, in PEM.
    pub fn issue(&self, id: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.pem(), key.serialize_pem())
    }

    pub fn credentials(&self, id: &str) -> Arc<Credentials> {
        let (chain, key) = self.issue(id);
        let credentials = Arc::new(Credentials::default());
        credentials.set_identity(Identity::from_pem(&chain, &key).unwrap());
        credentials.set_bundle(Bundle::for_any(Roots::from_pem(&self.pem).unwrap()));
        credentials
    }
}

/// A proxy under test.
pub struct Node {
    pub proxy: Arc<Proxy>,
    builder: Builder,
}

impl Node {
    pub fn start(credentials: Arc<Credentials>) -> Self {
        Self::start_as(credentials, false)
    }

    pub fn start_as(credentials: Arc<Credentials>, gateway: bool) -> Self {
        let settings = Settings { workload: Workload::unknown(), own_ips: Vec::new(), gateway };
        let proxy = Proxy::new(settings, credentials, Shutdown::default());
        proxy.shutdown.spawn("listeners", listen::run(proxy.clone()));
        let builder = Builder::new(proxy.snapshot.clone());
        Self { proxy, builder }
    }

    /// Applies one resource, which must be accepted.
    pub fn apply<M: Message>(&mut self, kind: Kind, name: &str, message: &M) {
        assert_eq!(self.try_apply(kind, name, message), Vec::<String>::new());
    }

    pub fn try_apply<M: Message>(&mut self, kind: Kind, name: &str, message: &M) -> Vec<String> {
        let bytes = Bytes::from(message.encode_to_vec());
        let rejections = self.builder.apply(kind, &[(name.to_owned(), bytes)], &[]);
        self.proxy.announce();
        rejections.iter().map(ToString::to_string).collect()
    }

    /// The address of a listener's socket.
    pub async fn address(&self, listener: &str) -> SocketAddr {
        eventually("the listener's socket", || self.proxy.bound.lock().get(listener).copied()).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let shutdown = self.proxy.shutdown.clone();
        shutdown.draining_token().cancel();
    }
}

/// An HTTP server, for HTTP/1.1 and cleartext HTTP/2.
pub async fn app<F>(answer: F) -> SocketAddr
where
    F: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
{
    app_behind(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)), answer).await
}

/// The same, answering as many requests as the gate has permits.
pub async fn app_behind<F>(gate: Arc<Semaphore>, answer: F) -> SocketAddr
where
    F: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (answer, gate) = (answer.clone(), gate.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, gate) = (answer.clone(), gate.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    Ok::<_, Infallible>(answer(Request::from_parts(parts, body)).map(Full::new))
                }
            });
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(tcp), service).await);
            });
        }
    });
    address
}

/// An HTTP/1.1 client's connection.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    send(address, "GET", path, headers, Bytes::new()).await
}

pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Response<Bytes> {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sending = sender.send_request(request.body(Full::new(body)).unwrap());
    let response = tokio::time::timeout(Duration::from_secs(10), sending).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

pub fn any<M: Message + Name>(message: &M) -> wkt::Any {
    wkt::Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

pub fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..Default::default()
        })),
    }
}

pub fn seconds(seconds: i64) -> wkt::Duration {
    wkt::Duration { seconds, nanos: 0 }
}

fn on(value: bool) -> Option<wkt::BoolValue> {
    Some(wkt::BoolValue { value })
}

fn transport(name: &str, config: &impl Name) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

fn tls_context(san: matcher::StringMatcher, alpn: &[&str]) -> tls::CommonTlsContext {
    let secret = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), ..Default::default() };
    let san = tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(san),
        ..Default::default()
    };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![san],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(secret("ROOTCA")),
        ..Default::default()
    };
    tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: alpn.iter().map(|name| (*name).to_owned()).collect(),
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..Default::default()
    }
}

/// Mutual TLS as Istio configures it for inbound chains.
pub fn downstream_tls(alpn: &[&str]) -> core::TransportSocket {
    let san = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(
            "spiffe://cluster.local/".to_owned(),
        )),
        ..Default::default()
    };
    transport(
        "envoy.transport_sockets.tls",
        &tls::DownstreamTlsContext {
            common_tls_context: Some(tls_context(san, alpn)),
            require_client_certificate: on(true),
            ..Default::default()
        },
    )
}

/// Mutual TLS as Istio configures it for upstreams.
pub fn upstream_tls(id: &str, sni: &str) -> core::TransportSocket {
    let san = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(id.to_owned())),
        ..Default::default()
    };
    transport(
        "envoy.transport_sockets.tls",
        &tls::UpstreamTlsContext {
            common_tls_context: Some(tls_context(san, &["istio-peer-exchange", "istio"])),
            sni: sni.to_owned(),
            ..Default::default()
        },
    )
}

pub fn text(value: &str) -> wkt::Value {
    wkt::Value { kind: Some(wkt::value::Kind::StringValue(value.to_owned())) }
}

fn fields(pairs: &[(&str, &str)]) -> wkt::Struct {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value)));
    wkt::Struct { fields: pairs.collect() }
}

/// An upstream with endpoint discovery and automatic mutual TLS.
pub fn discovered(name: &str, id: &str, sni: &str) -> cds::Cluster {
    let matching = cds::cluster::TransportSocketMatch {
        name: "tlsMode-istio".to_owned(),
        r#match: Some(fields(&[("tlsMode", "istio")])),
        transport_socket: Some(upstream_tls(id, sni)),
    };
    let plain = cds::cluster::TransportSocketMatch {
        name: "tlsMode-disabled".to_owned(),
        r#match: Some(wkt::Struct::default()),
        transport_socket: Some(core::TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".to_owned(),
            config_type: None,
        }),
    };
    cds::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        connect_timeout: Some(seconds(5)),
        transport_socket_matches: vec![matching, plain],
        ..Default::default()
    }
}

/// An upstream with fixed endpoints, in the clear.
pub fn fixed(name: &str, endpoints: &[SocketAddr]) -> cds::Cluster {
    cds::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(assignment(name, endpoints, false)),
        connect_timeout: Some(seconds(5)),
        ..Default::default()
    }
}

/// The same upstream, asked in HTTP/2.
pub fn http2(mut upstream: cds::Cluster) -> cds::Cluster {
    #[expect(deprecated, reason = "the older form is accepted too")]
    {
        upstream.http2_protocol_options = Some(core::Http2ProtocolOptions::default());
    }
    upstream
}

pub fn assignment(
    name: &str,
    endpoints: &[SocketAddr],
    mutual: bool,
) -> eds::ClusterLoadAssignment {
    let metadata = core::Metadata {
        filter_metadata: [(
            "envoy.transport_socket_match".to_owned(),
            fields(&[("tlsMode", "istio")]),
        )]
        .into(),
        ..Default::default()
    };
    let endpoint = |at: &SocketAddr| eds::LbEndpoint {
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(address(*at)),
            ..Default::default()
        })),
        metadata: mutual.then(|| metadata.clone()),
        ..Default::default()
    };
    eds::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(endpoint).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn filter(name: &str, config: &impl Name) -> lds::Filter {
    lds::Filter {
        name: name.to_owned(),
        config_type: Some(lds::filter::ConfigType::TypedConfig(any(config))),
    }
}

/// HTTP with the given routes.
pub fn manager(routes: hcm_parts::RouteSpecifier) -> hcm::HttpConnectionManager {
    let router = hcm::HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    hcm::HttpConnectionManager {
        route_specifier: Some(routes),
        http_filters: vec![router],
        server_name: "istio-envoy".to_owned(),
        ..Default::default()
    }
}

pub fn named_routes(name: &str) -> hcm_parts::RouteSpecifier {
    hcm_parts::RouteSpecifier::Rds(hcm::Rds {
        route_config_name: name.to_owned(),
        ..Default::default()
    })
}

pub fn http_filter(manager: &hcm::HttpConnectionManager) -> lds::Filter {
    filter("envoy.filters.network.http_connection_manager", manager)
}

pub fn tcp_filter(upstream: &str) -> lds::Filter {
    filter(
        "envoy.filters.network.tcp_proxy",
        &tcp_proxy::TcpProxy {
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
                upstream.to_owned(),
            )),
            ..Default::default()
        },
    )
}

pub fn listener(name: &str, chains: Vec<lds::FilterChain>) -> lds::Listener {
    let inspector =
        |name: &str| lds::ListenerFilter { name: name.to_owned(), ..Default::default() };
    lds::Listener {
        name: name.to_owned(),
        address: Some(address("127.0.0.1:0".parse().unwrap())),
        listener_filters: vec![
            inspector("envoy.filters.listener.tls_inspector"),
            inspector("envoy.filters.listener.http_inspector"),
        ],
        filter_chains: chains,
        ..Default::default()
    }
}

pub fn chain(filter: lds::Filter) -> lds::FilterChain {
    lds::FilterChain { filters: vec![filter], ..Default::default() }
}

pub fn direction(mut listener: lds::Listener, direction: core::TrafficDirection) -> lds::Listener {
    listener.traffic_direction = direction.into();
    listener
}

/// What the only route of [`routes`] does.
pub fn forwarding(routes: &mut rds::RouteConfiguration) -> &mut rds::RouteAction {
    match &mut routes.virtual_hosts[0].routes[0].action {
        Some(rds::route::Action::Route(action)) => action,
        other => panic!("it forwards: {other:?}"),
    }
}

/// One virtual host that sends everything to `upstream`, with Istio's default retries.
pub fn routes(name: &str, upstream: &str) -> rds::RouteConfiguration {
    let retry = rds::RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
            .to_owned(),
        num_retries: Some(wkt::UInt32Value { value: 2 }),
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    };
    let action = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(upstream.to_owned())),
        timeout: Some(seconds(0)),
        retry_policy: Some(retry),
        ..Default::default()
    };
    let route = rds::Route {
        name: "default".to_owned(),
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    };
    rds::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![rds::VirtualHost {
            name: "helloworld".to_owned(),
            domains: vec![
                "helloworld.sample".to_owned(),
                "helloworld.sample.svc.cluster.local".to_owned(),
            ],
            routes: vec![route],
            ..Default::default()
        }],
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// An access log of JSON objects with these fields.
pub fn json_log(
    path: &str,
    pairs: &[(&str, &str)],
) -> tombolo_xds::proto::envoy::config::accesslog::v3::AccessLog {
    use tombolo_xds::proto::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
    let format = core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::JsonFormat(fields(pairs))),
        ..Default::default()
    };
    let file = file_log::FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file_log::file_access_log::AccessLogFormat::LogFormat(format)),
    };
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&file))),
        ..Default::default()
    }
}

/// A server sidecar in front of `app`: strict mutual TLS for HTTP.
pub fn server_sidecar(authority: &Authority, app: SocketAddr) -> Node {
    let mut node = Node::start(authority.credentials(HELLO));
    node.apply(Kind::Upstream, "inbound|5000||", &fixed("inbound|5000||", &[app]));
    let mut inline = routes("inbound|5000||", "inbound|5000||");
    inline.virtual_hosts[0].domains = vec!["*".to_owned()];
    let mut manager = manager(hcm_parts::RouteSpecifier::RouteConfig(inline));
    manager.forward_client_cert_details = hcm_parts::ForwardClientCertDetails::AppendForward.into();
    manager.set_current_client_cert_details = Some(hcm_parts::SetCurrentClientCertDetails {
        subject: on(true),
        uri: true,
        dns: true,
        ..Default::default()
    });
    let mut chain = chain(http_filter(&manager));
    chain.name = "0.0.0.0_5000".to_owned();
    chain.filter_chain_match =
        Some(lds::FilterChainMatch { transport_protocol: "tls".to_owned(), ..Default::default() });
    chain.transport_socket = Some(downstream_tls(&["h2", "http/1.1"]));
    let listener = listener("virtualInbound", vec![chain]);
    let listener = direction(listener, core::TrafficDirection::Inbound);
    node.apply(Kind::Listener, "virtualInbound", &listener);
    node
}

/// A client sidecar that sends HTTP for the service to `endpoints`.
pub fn client_sidecar(authority: &Authority, id: &str, endpoints: &[SocketAddr]) -> Node {
    client_sidecar_as(authority, id, endpoints, false)
}

/// The same configuration, in a sidecar or in a gateway.
pub fn client_sidecar_as(
    authority: &Authority,
    id: &str,
    endpoints: &[SocketAddr],
    gateway: bool,
) -> Node {
    let mut node = Node::start_as(authority.credentials(id), gateway);
    node.apply(Kind::Upstream, SERVICE, &discovered(SERVICE, HELLO, SNI));
    node.apply(Kind::Endpoints, SERVICE, &assignment(SERVICE, endpoints, true));
    let chain = chain(http_filter(&manager(named_routes("5000"))));
    let listener = listener("0.0.0.0_5000", vec![chain]);
    node.apply(
        Kind::Listener,
        "0.0.0.0_5000",
        &direction(listener, core::TrafficDirection::Outbound),
    );
    node.apply(Kind::Routes, "5000", &routes("5000", SERVICE));
    node
}
