//! Passes a TCP connection on to an endpoint of its chain's upstream.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::accept::connection::Connection;
use crate::config::listener::{Direction, TcpSettings};
use crate::config::upstream::Policy;
use crate::connect::dial::{Dialled, dial};
use crate::connect::pool::Permit;
use crate::connect::tls::Spoken;
use crate::connect::upstream::{Endpoint, Upstream};
use crate::failure::{Failure, Kind};
use crate::observe::flags::Flags;
use crate::observe::metrics::{Labels, Reporter, TcpSeries, Workload};
use crate::observe::record::Record;
use crate::stream::io::Io;
use crate::stream::relay::{End, relay};

/// How long the end of a connection may take to be sent: a client need not read it.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves a connection until it ends, and logs it.
pub async fn serve(connection: &Arc<Connection>, settings: &TcpSettings, mut io: Io) {
    let started = Instant::now();
    let mut record = connection.record();
    let name = choose(settings);
    record.upstream = Some(name.clone());
    let snapshot = connection.proxy.snapshot.load_full();
    let opened = match snapshot.upstreams.get(&name) {
        Some(upstream) => {
            open(connection, settings, upstream, &mut record).await.map(|opened| (upstream, opened))
        }
        None => Err(Failure::new(Kind::NoSuchUpstream)),
    };
    match opened {
        Ok((upstream, (dialled, endpoint, _permit))) => {
            let working = endpoint.work();
            let series = series(connection, upstream, &endpoint, &dialled);
            series.opened.fetch_add(1, Ordering::Relaxed);
            let relaying = relay(&mut io, dialled.io, settings.idle_timeout);
            let relayed = match settings.max_duration {
                Some(most) => tokio::time::timeout(most, relaying).await.ok(),
                None => Some(relaying.await),
            };
            if let Some(relayed) = relayed {
                record.bytes_received = relayed.received;
                record.bytes_sent = relayed.sent;
                match relayed.end {
                    End::Finished | End::Idle => {}
                    End::Downstream(_) => record.flags.add(Flags::DOWNSTREAM_TERMINATION),
                    End::Upstream(_) => record.flags.add(Flags::UPSTREAM_TERMINATION),
                }
            } else {
                record.flags.add(Flags::DURATION_TIMEOUT);
            }
            series.sent.fetch_add(record.bytes_sent, Ordering::Relaxed);
            series.received.fetch_add(record.bytes_received, Ordering::Relaxed);
            series.closed.fetch_add(1, Ordering::Relaxed);
            drop(working);
        }
        Err(failure) => {
            tracing::debug!(upstream = %name, error = %failure, "connection cannot be passed on");
            record.flags.add(failure.kind.response().0);
            record.transport_failure = failure.transport;
            if record.attempts >= settings.connect_attempts && record.attempts > 0 {
                record.flags.add(Flags::RETRY_LIMIT);
            }
        }
    }
    // The client may have gone first; there is nobody left to tell then.
    drop(tokio::time::timeout(GOODBYE, io.shutdown()).await);
    record.duration = started.elapsed();
    connection.log(&record);
}

fn choose(settings: &TcpSettings) -> Arc<str> {
    let total: u64 = settings.targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut point = if total > 1 { rand::rng().random_range(0..total) } else { 0 };
    for (name, weight) in &settings.targets {
        if point < u64::from(*weight) {
            return name.clone();
        }
        point -= u64::from(*weight);
    }
    settings.targets.first().map_or_else(|| "".into(), |(name, _)| name.clone())
}

async fn open(
    connection: &Connection,
    settings: &TcpSettings,
    upstream: &Arc<Upstream>,
    record: &mut Record,
) -> Result<(Dialled, Arc<Endpoint>, Permit), Failure> {
    let Some(permit) = Permit::take(&upstream.connections, upstream.config.limits.connections)
    else {
        upstream.totals.overflows.fetch_add(1, Ordering::Relaxed);
        return Err(Failure::new(Kind::Overflow));
    };
    loop {
        let endpoint = pick(connection, upstream)?;
        record.attempts += 1;
        record.upstream_host = Some(endpoint.config.address);
        upstream.totals.connections.fetch_add(1, Ordering::Relaxed);
        let target = upstream.target(&endpoint, &connection.proxy.credentials, Spoken::Bytes);
        match dial(&target).await {
            Ok(dialled) => {
                upstream.learn(&endpoint, Some(200));
                record.upstream_local = dialled.local;
                record.upstream_peer = dialled.peer.clone();
                return Ok((dialled, endpoint, permit));
            }
            Err(failure) => {
                upstream.learn(&endpoint, None);
                upstream.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
                endpoint.totals.connect_failures.fetch_add(1, Ordering::Relaxed);
                if record.attempts >= settings.connect_attempts {
                    return Err(failure);
                }
            }
        }
    }
}

fn pick(connection: &Connection, upstream: &Upstream) -> Result<Arc<Endpoint>, Failure> {
    if upstream.config.policy == Policy::OriginalDestination {
        if connection.proxy.is_own(connection.destination) {
            return Err(Failure::new(Kind::NoHealthyUpstream));
        }
        return Ok(upstream.original(connection.destination));
    }
    let usable = |endpoint: &Endpoint| !upstream.is_ejected(endpoint);
    let picked = upstream.endpoints().pick(&mut rand::rng(), None, &usable);
    picked.ok_or_else(|| Failure::new(Kind::NoHealthyUpstream))
}

fn series(
    connection: &Connection,
    upstream: &Upstream,
    endpoint: &Endpoint,
    dialled: &Dialled,
) -> Arc<TcpSeries> {
    let own = connection.proxy.settings.workload.clone();
    let inbound = connection.listener.direction == Direction::Inbound;
    let (source, destination) = match inbound {
        true => (Workload::of_peer(connection.peer().map(|peer| &peer.uri)), own),
        false => {
            let workload = endpoint.config.workload.as_deref();
            (own, Workload::of_endpoint(workload, dialled.peer.as_ref()))
        }
    };
    let [service, service_name, service_namespace] =
        Labels::service(upstream.config.service.as_ref(), || "unknown".into());
    connection.proxy.metrics.tcp(&Labels {
        reporter: if inbound { Reporter::Destination } else { Reporter::Source },
        source,
        destination,
        service,
        service_name,
        service_namespace,
        protocol: "tcp",
        status: 0,
        grpc_status: "".into(),
        flags: "-".into(),
        mutual_tls: inbound.then(|| connection.peer().is_some()),
    })
}
