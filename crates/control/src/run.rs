//! The whole control plane as one process: build everything, then run it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::routing::get;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tombolo_ca::authority::Lifetimes;
use tombolo_crds::mesh_config::MeshConfig;
use tombolo_model::id::ObjectName;
use tombolo_runtime::admin::{self, Admin};
use tombolo_runtime::backoff::Backoff;
use tombolo_runtime::errors::chain;
use tombolo_runtime::memory;
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::{Outcome, Shutdown};
use tombolo_tls::spiffe::TrustDomain;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use tombolo_xds::server::Ads;

use crate::index::live::MeshSettings;
use crate::lead::Leading;
use crate::pipeline::{self, Pipeline};
use crate::serve::ads::{Connections, Parts, Source};
use crate::serve::authenticate::Authenticator;
use crate::serve::certificates::{Certificates, Metrics};
use crate::serve::compiler::Compiler;
use crate::serve::debug::{self, Debug};
use crate::serve::injection::{Config, Nodes};
use crate::serve::listen::Listener;
use crate::serve::metrics::State;
use crate::serve::settings::Settings;
use crate::serve::trust::Trust;
use crate::serve::webhooks::{self, Webhooks};
use crate::watch::mesh;

/// The largest message a workload may send, as in gRPC.
const LARGEST_MESSAGE: usize = 64 * 1024;
/// How old a webhook connection may get.
const WEBHOOK_AGE: Duration = Duration::from_secs(600);

/// Serves, leads and follows until the process is asked to stop. `client` talks to the config
/// cluster.
///
/// # Errors
/// When a port cannot be bound, there is no authority to sign with, or an essential task ended.
pub async fn run(settings: Settings, client: kube::Client) -> anyhow::Result<()> {
    let (shutdown, ready) = (Shutdown::default(), Ready::default());
    let settings = Arc::new(settings);
    let metrics = Arc::new(Mutex::new(Registry::default()));

    // Build: every socket is bound and every error surfaces before anything is served.
    let sockets = Sockets::bind(&settings).await?;
    let issuing = ready.block("certificate authority");
    let mesh = mesh_config(&settings, &client).await?;
    let trust_domain = TrustDomain::new(&mesh.trust_domain).context("the mesh's trust domain")?;
    let names = settings.serving_names(&discovery_host(&mesh.default_config, &settings));
    let trust = Trust::load(settings.clone(), client.clone(), &trust_domain, names).await?;
    drop(issuing);
    let pipeline = pipeline::start(settings.pipeline(), client.clone(), &shutdown, &ready).await;
    let Pipeline { clusters, publisher } = pipeline;
    let authenticator =
        Arc::new(Authenticator::new(settings.clone(), clusters.clone(), publisher.clone()));
    let connections = Connections::default();
    let certificates = Certificates::new(
        authenticator.clone(),
        trust.clone(),
        lifetimes(&settings)?,
        ready.clone(),
        Metrics::register(&mut metrics.lock()),
    );
    metrics.lock().register_collector(Box::new(State {
        connections: connections.clone(),
        publisher: publisher.clone(),
        clusters: clusters.clone(),
        trust: trust.clone(),
    }));
    let source = Source::new(Parts {
        settings: settings.clone(),
        authenticator: authenticator.clone(),
        publisher: publisher.clone(),
        compiler: Arc::new(Compiler::default()),
        ready: ready.clone(),
        shutdown: shutdown.clone(),
        connections: connections.clone(),
    });
    let identifier = serde_json::json!({"Component": "istiod", "ID": settings.pod, "Info": {"version": env!("CARGO_PKG_VERSION")}});
    let ads = Ads::new(Arc::new(source), identifier.to_string()).into_service();
    let certificates =
        IstioCertificateServiceServer::new(certificates).max_decoding_message_size(LARGEST_MESSAGE);
    let grpc =
        tonic::service::Routes::new(ads).add_service(certificates).prepare().into_axum_router();
    let injection = Config::default();
    let hooks = webhooks::router(Webhooks {
        settings: settings.clone(),
        publisher: publisher.clone(),
        ready: ready.clone(),
        config: injection.clone(),
        nodes: Arc::new(Nodes::new(settings.native_sidecars, clusters.clone())),
    });
    let debug = debug::router(Debug {
        settings: settings.clone(),
        authenticator,
        clusters: clusters.clone(),
        publisher,
        connections,
    });
    let admin = admin::router(Admin { ready, metrics, shutdown: shutdown.clone() })
        .route("/version", get(async || env!("CARGO_PKG_VERSION")))
        .merge(debug);

    // Run: from here on, a task that ends early ends the process.
    let leading = Leading {
        settings: settings.clone(),
        clusters,
        roots: trust.roots(),
        revocations: trust.revocations(),
        shutdown: shutdown.clone(),
    };
    shutdown.spawn_essential("injection configuration", {
        let (settings, draining) = (settings.clone(), shutdown.clone());
        async move {
            tokio::select! {
                () = injection.follow(settings, client) => (),
                () = draining.draining() => (),
            }
        }
    });
    shutdown.spawn_essential("certificate authority", trust.clone().follow(shutdown.clone()));
    shutdown.spawn_essential("leading", leading.run());
    sockets.serve(&settings, &trust, grpc, hooks, admin, &shutdown);
    tracing::info!(cluster = %settings.cluster, revision = settings.revision, "control plane serves");
    let outcome = shutdown.run_until_asked(settings.grace).await?;
    ensure!(outcome == Outcome::Clean, "shutdown was not clean: {outcome:?}");
    Ok(())
}

/// The mesh's settings as they are now: the authority is named after the trust domain, and the
/// serving certificate after the discovery address. Asks until the API server answers.
async fn mesh_config(settings: &Settings, client: &kube::Client) -> anyhow::Result<MeshConfig> {
    let api = kube::Api::<ConfigMap>::namespaced(client.clone(), &settings.namespace);
    let name = settings.mesh_config_map();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match api.get_opt(&name).await {
            Ok(map) => {
                let data = map.and_then(|map| map.data).unwrap_or_default();
                let object = ObjectName::new(&settings.namespace, &name);
                let old = MeshSettings::default();
                let read = mesh::settings(&settings.cluster, &object, &data, &old);
                for diagnostic in &read.diagnostics {
                    tracing::warn!(%diagnostic, "mesh configuration");
                }
                return Ok(read.config);
            }
            Err(kube::Error::Api(status)) if status.code == 401 || status.code == 403 => {
                anyhow::bail!("read ConfigMap {name} in namespace {}: {status}", settings.namespace)
            }
            Err(error) => {
                let delay = backoff.delay();
                tracing::warn!(error = %chain(&error), ?delay, "the API server does not answer, trying again");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// The host that proxies call, from the mesh's `defaultConfig.discoveryAddress`.
fn discovery_host(default_config: &serde_json::Value, settings: &Settings) -> String {
    let address = default_config.get("discoveryAddress").and_then(serde_json::Value::as_str);
    let host =
        address.and_then(|address| address.rsplit_once(':')).map(|(host, _)| host.to_owned());
    // A serving certificate names hosts only; an address is reached by the usual names.
    host.filter(|host| host.parse::<std::net::IpAddr>().is_err() && !host.is_empty())
        .unwrap_or_else(|| format!("istiod.{}.svc", settings.namespace))
}

fn lifetimes(settings: &Settings) -> anyhow::Result<Lifetimes> {
    let read = |duration: Duration| {
        time::Duration::try_from(duration).context("a certificate lifetime is too long")
    };
    Ok(Lifetimes {
        default: read(settings.workload_certificate)?,
        longest: read(settings.longest_workload_certificate)?,
    })
}

/// The ports, bound.
struct Sockets {
    grpc: TcpListener,
    https: TcpListener,
    http: TcpListener,
    monitoring: TcpListener,
}

impl Sockets {
    async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let bind = async |what: &str, address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("bind {what} on {address}"))
        };
        Ok(Self {
            grpc: bind("xDS and certificates", settings.grpc).await?,
            https: bind("webhooks", settings.https).await?,
            http: bind("readiness", settings.http).await?,
            monitoring: bind("monitoring", settings.monitoring).await?,
        })
    }

    fn serve(
        self,
        settings: &Settings,
        trust: &Trust,
        grpc: Router,
        hooks: Router,
        admin: Router,
        shutdown: &Shutdown,
    ) {
        let xds = Listener {
            name: "xds",
            socket: self.grpc,
            tls: trust.serving().server_with_clients(trust.credentials(), &[b"h2"]),
            age: settings.connection_age,
        };
        let webhooks = Listener {
            name: "webhooks",
            socket: self.https,
            tls: trust.serving().server(&[b"h2", b"http/1.1"]),
            age: WEBHOOK_AGE,
        };
        shutdown.spawn_essential("xds", xds.run(grpc, shutdown.clone()));
        shutdown.spawn_essential("webhooks", webhooks.run(hooks, shutdown.clone()));
        let readiness = admin::serve(self.http, admin.clone(), shutdown.clone());
        shutdown.spawn_essential("readiness", readiness);
        let monitoring = admin::serve(self.monitoring, admin, shutdown.clone());
        shutdown.spawn_essential("monitoring", monitoring);
        shutdown.spawn("memory", memory::give_back_program(shutdown.clone()));
    }
}
