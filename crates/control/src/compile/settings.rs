//! Balancing, limits and outlier detection of an upstream, as a DestinationRule asks for them.

use tombolo_crds::networking::destination_rule::{
    ConnectionPool, ConsistentHash, LoadBalancer, OutlierDetection, SimpleBalancer, TcpPool,
};
use tombolo_xds::proto::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig,
    SlowStartConfig,
};
use tombolo_xds::proto::envoy::config::cluster::v3::{
    Cluster, OutlierDetection as Outliers, UpstreamConnectionOptions,
};
use tombolo_xds::proto::envoy::config::core::v3::{RuntimeDouble, TcpKeepalive};
use tombolo_xds::proto::envoy::r#type::v3::Percent;
use tombolo_xds::proto::google::protobuf::UInt64Value;

use crate::compile::parts;
use crate::compile::policy::Policy;

/// The size of the ring when none is asked for.
const RING: u64 = 1024;

/// Puts a policy on an upstream, with warm-up if the proxy knows it.
pub(crate) fn apply(policy: &Policy<'_>, warmup: bool, cluster: &mut Cluster) {
    if let Some(pool) = policy.pool {
        limits(pool, cluster);
    }
    if let Some(balancer) = policy.balancer {
        balance(balancer, warmup, cluster);
    }
    if let Some(outliers) = policy.outliers {
        cluster.outlier_detection = Some(detection(outliers));
        let threshold = f64::from(outliers.min_health_percent.unwrap_or(0));
        let config = cluster.common_lb_config.get_or_insert_default();
        config.healthy_panic_threshold = Some(Percent { value: threshold });
    }
}

fn balance(balancer: &LoadBalancer, warmup: bool, cluster: &mut Cluster) {
    if cluster.lb_policy == i32::from(LbPolicy::ClusterProvided) {
        return;
    }
    if let Some(hash) = &balancer.consistent_hash {
        let (policy, config) = by_hash(hash);
        cluster.lb_policy = policy.into();
        cluster.lb_config = Some(config);
        return;
    }
    let slow_start = balancer.warmup.as_ref().filter(|_| warmup).map(|warmup| SlowStartConfig {
        slow_start_window: warmup.duration.map(|it| parts::duration(it.0)),
        aggression: warmup.aggression.map(|value| RuntimeDouble {
            default_value: value,
            runtime_key: String::from("aggression"),
        }),
        min_weight_percent: warmup.minimum_percent.map(|value| Percent { value }),
    });
    let simple = balancer.simple.unwrap_or_default();
    let (policy, config) = match simple {
        SimpleBalancer::Random => (LbPolicy::Random, None),
        SimpleBalancer::RoundRobin => {
            let config = slow_start.map(|it| RoundRobinLbConfig { slow_start_config: Some(it) });
            (LbPolicy::RoundRobin, config.map(LbConfig::RoundRobinLbConfig))
        }
        SimpleBalancer::Passthrough => (LbPolicy::ClusterProvided, None),
        SimpleBalancer::Unspecified | SimpleBalancer::LeastConn | SimpleBalancer::LeastRequest => {
            let config = slow_start.map(|it| LeastRequestLbConfig {
                slow_start_config: Some(it),
                ..LeastRequestLbConfig::default()
            });
            (LbPolicy::LeastRequest, config.map(LbConfig::LeastRequestLbConfig))
        }
    };
    cluster.lb_policy = policy.into();
    cluster.lb_config = config;
}

fn by_hash(hash: &ConsistentHash) -> (LbPolicy, LbConfig) {
    if let Some(maglev) = &hash.maglev {
        let table_size = maglev.table_size.map(|value| UInt64Value { value });
        return (LbPolicy::Maglev, LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
    }
    let asked = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    let value = asked.or(hash.minimum_ring_size).unwrap_or(RING);
    let config = RingHashLbConfig {
        minimum_ring_size: Some(UInt64Value { value }),
        ..RingHashLbConfig::default()
    };
    (LbPolicy::RingHash, LbConfig::RingHashLbConfig(config))
}

fn limits(pool: &ConnectionPool, cluster: &mut Cluster) {
    let breakers = cluster.circuit_breakers.get_or_insert_default();
    if let Some(thresholds) = breakers.thresholds.first_mut() {
        let set = |field: &mut Option<_>, value: Option<u32>| {
            // Zero means no limit.
            if let Some(value) = value.filter(|value| *value > 0) {
                *field = parts::number(value);
            }
        };
        set(&mut thresholds.max_connections, pool.tcp.as_ref().and_then(|it| it.max_connections));
        if let Some(http) = &pool.http {
            set(&mut thresholds.max_pending_requests, http.http1_max_pending_requests);
            set(&mut thresholds.max_requests, http.http2_max_requests);
            set(&mut thresholds.max_retries, http.max_retries);
        }
    }
    if let Some(tcp) = &pool.tcp {
        of_connections(tcp, cluster);
    }
}

fn of_connections(tcp: &TcpPool, cluster: &mut Cluster) {
    if let Some(timeout) = tcp.connect_timeout {
        cluster.connect_timeout = Some(parts::duration(timeout.0));
    }
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let whole = |it: Option<tombolo_crds::duration::Duration>| {
            it.and_then(|it| parts::number(u32::try_from(it.0.as_secs()).unwrap_or(u32::MAX)))
        };
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: keepalive.probes.and_then(parts::number),
                keepalive_time: whole(keepalive.time),
                keepalive_interval: whole(keepalive.interval),
            }),
            ..UpstreamConnectionOptions::default()
        });
    }
}

fn detection(asked: &OutlierDetection) -> Outliers {
    let enforcing = |errors: Option<u32>| {
        errors.and_then(|errors| parts::number(if errors > 0 { 100 } else { 0 }))
    };
    let used = |errors: Option<u32>| errors.filter(|errors| *errors > 0).and_then(parts::number);
    let mut outliers = Outliers {
        consecutive_5xx: used(asked.consecutive_5xx_errors),
        enforcing_consecutive_5xx: enforcing(asked.consecutive_5xx_errors),
        consecutive_gateway_failure: used(asked.consecutive_gateway_errors),
        enforcing_consecutive_gateway_failure: enforcing(asked.consecutive_gateway_errors),
        interval: asked.interval.map(|it| parts::duration(it.0)),
        base_ejection_time: asked.base_ejection_time.map(|it| parts::duration(it.0)),
        max_ejection_percent: asked.max_ejection_percent.and_then(parts::number),
        enforcing_success_rate: parts::number(0),
        ..Outliers::default()
    };
    if asked.split_external_local_origin_errors {
        outliers.split_external_local_origin_errors = true;
        outliers.consecutive_local_origin_failure = used(asked.consecutive_local_origin_failures);
        outliers.enforcing_consecutive_local_origin_failure =
            enforcing(asked.consecutive_local_origin_failures);
    }
    outliers
}
