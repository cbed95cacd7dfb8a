//! The process beside a workload: identity, configuration, traffic, health.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tombolo_proxy::listen;
use tombolo_proxy::observe::metrics::Workload;
use tombolo_proxy::proxy::{self, Proxy};
use tombolo_proxy::resolve;
use tombolo_runtime::admin;
use tombolo_runtime::memory;
use tombolo_runtime::ready::Ready;
use tombolo_runtime::shutdown::{Outcome, Shutdown, asked_to_stop};
use tombolo_tls::mesh::Credentials;
use tombolo_xds::client::{self, Protocol, Subscriptions};

use crate::certificates::Keeper;
use crate::discovery::{ByToken, Follower, Received};
use crate::node::{self, DataPlane};
use crate::serve::{self, Status};
use crate::settings::{Role, Settings};

/// How often unused connections are dropped.
const PRUNE_EVERY: Duration = Duration::from_secs(30);
/// How long connections may take to end once the drain time is over.
const GRACE: Duration = Duration::from_secs(2);
/// How often open connections are counted while the process waits for them.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Runs until the process is asked to stop.
///
/// Traffic has its own threads: configuration, certificates and the admin server are never kept
/// waiting by it, nor it by them.
///
/// # Errors
/// When a port is taken, or a task that the process cannot live without ended.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    tombolo_tls::install_provider();
    let traffic = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.concurrency)
        .thread_name("traffic")
        .enable_all()
        .build()
        .context("start the runtime for traffic")?;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime for control")?;
    control.block_on(serve_all(settings, traffic.handle().clone()))?;
    traffic.shutdown_timeout(GRACE);
    Ok(())
}

async fn serve_all(settings: Settings, traffic: tokio::runtime::Handle) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let (shutdown, ready) = (Shutdown::default(), Ready::default());
    let credentials = Arc::new(Credentials::default());
    let proxy = Proxy::new(proxy_settings(&settings), credentials.clone(), shutdown.clone());
    let received = Received::default();
    let status = Status::new(settings.clone(), proxy.clone(), received.clone(), ready.clone());

    // Build: every socket of our own is open before anything runs.
    let ports = settings.ports;
    let mut servers = Vec::new();
    for (name, host, port, router) in [
        ("admin", "127.0.0.1", ports.admin, serve::admin::router(status.clone())),
        ("status", "0.0.0.0", ports.status, serve::status::router(status.clone())),
        ("health", "0.0.0.0", ports.ready, serve::status::health(status.clone())),
        ("metrics", "0.0.0.0", ports.metrics, serve::status::metrics(status.clone())),
    ] {
        let listener = TcpListener::bind((host, port)).await;
        servers.push((listener.with_context(|| format!("bind port {port} for {name}"))?, router));
    }

    // Run: from here on, a task that ends early ends the process.
    for (listener, router) in servers {
        shutdown.spawn_essential("agent server", admin::serve(listener, router, shutdown.clone()));
    }
    let keeper = Keeper::new(settings.clone(), credentials);
    let certified = ready.block("workload certificate");
    let keeping = until_drained(shutdown.clone(), keeper.run(certified));
    shutdown.spawn_essential("certificates", keeping);
    let subscriptions = Subscriptions::default();
    let configured = ready.block("configuration from the control plane");
    let follower = Follower::new(proxy.clone(), subscriptions.clone(), received, configured);
    let node = node::node(&settings, DataPlane::Tombolo);
    tracing::info!(node = node.id, control_plane = settings.discovery_address, "proxy starts");
    let following = client::run(
        client::Settings { node, protocol: Protocol::Delta },
        subscriptions,
        ByToken(settings.clone()),
        follower,
    );
    shutdown.spawn("memory", memory::give_back_program(shutdown.clone()));
    shutdown.spawn_essential("configuration", until_drained(shutdown.clone(), following));
    {
        let _traffic = traffic.enter();
        shutdown.spawn_essential("listeners", listen::run(proxy.clone()));
        shutdown.spawn("prune", prune(proxy.clone()));
        shutdown.spawn("names of upstreams", resolve::run(proxy.clone()));
    }
    wait_and_stop(&settings, &status, &shutdown).await
}

async fn until_drained(shutdown: Shutdown, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => (),
        () = shutdown.draining() => (),
    }
}

async fn prune(proxy: Arc<Proxy>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PRUNE_EVERY) => proxy.prune(),
            () = proxy.shutdown.draining() => return,
        }
    }
}

async fn wait_and_stop(
    settings: &Settings,
    status: &Status,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let failed = tokio::select! {
        asked = asked_to_stop() => asked.map(|()| None).context("listen for signals")?,
        () = status.asked_to_quit() => None,
        task = shutdown.failed() => Some(task),
    };
    if let Some(task) = failed {
        shutdown.stop(GRACE).await;
        anyhow::bail!("essential task `{task}` ended early");
    }
    // Not ready any more, but still serving: others learn of it only after a while.
    status.drain();
    tracing::info!(drain = ?settings.drain, "asked to stop, draining");
    tokio::time::sleep(settings.drain).await;
    while settings.wait_for_connections
        && status.proxy().totals.active_connections.load(Ordering::Relaxed) > 0
    {
        tokio::time::sleep(COUNT_EVERY).await;
    }
    if let Outcome::Forced(tasks) = shutdown.stop(GRACE).await {
        tracing::info!(?tasks, "connections were cut");
    }
    Ok(())
}

fn proxy_settings(settings: &Settings) -> proxy::Settings {
    let labels = node::labels(&settings.files.labels);
    let unknown = || "unknown".to_owned();
    let label = |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).cloned();
    let workload = settings.metadata.get("WORKLOAD_NAME").and_then(|name| name.as_str());
    let workload = workload.unwrap_or("unknown").to_owned();
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision =
        label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    proxy::Settings {
        workload: Workload {
            name: workload.as_str().into(),
            namespace: settings.namespace.as_str().into(),
            principal: settings.identity.to_string().into(),
            app: label(&["app", "app.kubernetes.io/name"]).unwrap_or_else(unknown).into(),
            version: label(&["version", "app.kubernetes.io/version"])
                .unwrap_or_else(unknown)
                .into(),
            cluster: settings.cluster.as_str().into(),
            canonical_name: canonical.unwrap_or(workload).into(),
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()).into(),
        },
        own_ips: settings.ips.clone(),
        gateway: settings.role == Role::Router,
    }
}
