//! Envoy's clusters: one upstream for every port of every service and subset a proxy may call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_crds::mesh_config::MeshConfig;
use tombolo_crds::networking::destination_rule::{ClientTls, ClientTlsMode};
use tombolo_crds::security::MutualTlsMode;
use tombolo_model::port::{Protocol, ServicePort};
use tombolo_model::service::{Resolution, Service};
use tombolo_xds::proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use tombolo_xds::proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
    TransportSocketMatch,
};
use tombolo_xds::proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use tombolo_xds::proto::envoy::config::core::v3::{
    Http2ProtocolOptions, HttpProtocolOptions as Limits,
};
use tombolo_xds::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use tombolo_xds::proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use tombolo_xds::proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config,
};
use tombolo_xds::proto::envoy::r#type::v3::Percent;
use tombolo_xds::proto::google::protobuf::{ListValue, Struct, Value, value};

use crate::compile::authentication;
use crate::compile::endpoints::{self, Wanted};
use crate::compile::names::{self, Upstream};
use crate::compile::nearness;
use crate::compile::parts;
use crate::compile::policy::{self, Policy, Rule};
use crate::compile::scope::Scope;
use crate::compile::settings;
use crate::compile::tls;
use crate::diagnostic::Diagnostic;
use crate::proxy::ProxyKind;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// One upstream with all that decides how it is called.
#[derive(Debug)]
pub(crate) struct Called<'a> {
    pub(crate) upstream: Upstream,
    pub(crate) service: &'a Arc<Service>,
    pub(crate) port: &'a ServicePort,
    pub(crate) rule: Option<Arc<Rule<'a>>>,
    pub(crate) policy: Policy<'a>,
}

/// Every upstream of a scope, ordered by service and port, subsets last.
pub(crate) fn of_scope<'a>(scope: &Scope<'a>) -> Vec<Called<'a>> {
    let mut found = Vec::new();
    for service in scope.services.values().copied() {
        of_service(scope, service, &mut found);
    }
    found
}

/// The upstreams of one service.
pub(crate) fn of_service<'a>(
    scope: &Scope<'a>,
    service: &'a Arc<Service>,
    found: &mut Vec<Called<'a>>,
) {
    let rule = policy::rule_of(scope, service).map(Arc::new);
    let subsets = rule.iter().flat_map(|rule| &rule.subsets).map(|it| it.name.as_str());
    let subsets: Vec<&str> = std::iter::once("").chain(subsets).collect();
    for port in service.stream_ports() {
        for subset in &subsets {
            let mut upstream = Upstream::new(&service.host, port.number);
            upstream.subset = (*subset).to_owned();
            found.push(Called {
                policy: policy::policy_of(scope, rule.as_deref(), port.number, subset),
                rule: rule.clone(),
                upstream,
                service,
                port,
            });
        }
    }
}

/// A service as metrics name it: the one that an upstream is of.
pub(crate) fn services(of: &Service) -> Value {
    let service = parts::fields([
        ("host", parts::text(of.host.as_str())),
        ("name", parts::text(&*of.object.name)),
        ("namespace", parts::text(&*of.object.namespace)),
    ]);
    let service = Value { kind: Some(value::Kind::StructValue(service)) };
    Value { kind: Some(value::Kind::ListValue(ListValue { values: vec![service] })) }
}

impl Called<'_> {
    /// Whether its endpoints come by EDS.
    pub(crate) fn has_assignment(&self, scope: &Scope<'_>) -> bool {
        self.discovery(scope) == DiscoveryType::Eds
    }

    fn discovery(&self, scope: &Scope<'_>) -> DiscoveryType {
        use tombolo_crds::networking::destination_rule::SimpleBalancer::Passthrough;
        let balancer = self.policy.balancer.and_then(|balancer| balancer.simple);
        match self.service.resolution {
            _ if balancer == Some(Passthrough) => DiscoveryType::OriginalDst,
            Resolution::Endpoints | Resolution::Alias(_) => DiscoveryType::Eds,
            // A gateway is not called at the address that a headless service's client chose.
            Resolution::Passthrough if scope.proxy.kind == ProxyKind::Router => DiscoveryType::Eds,
            Resolution::Passthrough => DiscoveryType::OriginalDst,
            Resolution::Dns => DiscoveryType::StrictDns,
            Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        }
    }

    /// The endpoints, for EDS.
    pub(crate) fn assignment(
        &self,
        scope: &Scope<'_>,
        name: String,
        only_mutual_tls: bool,
    ) -> ClusterLoadAssignment {
        endpoints::assignment(scope, self.wanted(only_mutual_tls), name, &self.policy)
    }

    fn wanted(&self, only_mutual_tls: bool) -> Wanted<'_> {
        Wanted {
            service: self.service,
            upstream: &self.upstream,
            rule: self.rule.as_deref(),
            only_mutual_tls,
        }
    }

    /// The upstream of sidecars and ingress gateways.
    pub(crate) fn cluster(&self, scope: &Scope<'_>, diagnostics: &mut Vec<Diagnostic>) -> Cluster {
        let name = self.upstream.name();
        let mut cluster = self.plain(scope, name);
        self.add_http_options(scope, &mut cluster);
        self.add_tls(scope, &mut cluster, diagnostics);
        let warms_up = self.policy.balancer.is_some_and(|balancer| balancer.warmup.is_some());
        if warms_up && scope.proxy.is_tombolo {
            let message = "warmup is not carried out by Tombolo's own proxy";
            self.remark(scope, message.to_owned(), diagnostics);
        }
        cluster
    }

    /// The upstream of gateways that pass mutual TLS through: never with TLS of its own.
    pub(crate) fn sni_cluster(&self, scope: &Scope<'_>) -> Cluster {
        self.plain(scope, self.upstream.sni())
    }

    fn plain(&self, scope: &Scope<'_>, name: String) -> Cluster {
        let mesh = &scope.picture.mesh.config;
        let discovery = self.discovery(scope);
        let mut cluster = Cluster {
            alt_stat_name: format!("{name};"),
            connect_timeout: Some(parts::duration(mesh.connect_timeout.0)),
            circuit_breakers: Some(unlimited()),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
            metadata: Some(parts::metadata("istio", self.metadata())),
            common_lb_config: Some(CommonLbConfig {
                healthy_panic_threshold: Some(Percent { value: 0.0 }),
                ..CommonLbConfig::default()
            }),
            lb_policy: LbPolicy::LeastRequest.into(),
            name: name.clone(),
            ..Cluster::default()
        };
        match discovery {
            DiscoveryType::Eds => {
                cluster.eds_cluster_config = Some(EdsClusterConfig {
                    eds_config: Some(parts::from_ads()),
                    service_name: name,
                });
            }
            DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
                let named = self.named(scope, name);
                if discovery == DiscoveryType::LogicalDns && named.endpoints.is_empty() {
                    // No name at all is not for DNS, says Envoy.
                    let fixed = ClusterDiscoveryType::Type(DiscoveryType::Static.into());
                    cluster.cluster_discovery_type = Some(fixed);
                }
                cluster.load_assignment = Some(named);
                resolve_often(mesh, &mut cluster);
                cluster.dns_lookup_family =
                    tombolo_xds::proto::envoy::config::cluster::v3::cluster::DnsLookupFamily::V4Only
                        .into();
            }
            _ => cluster.lb_policy = LbPolicy::ClusterProvided.into(),
        }
        settings::apply(&self.policy, !scope.proxy.is_tombolo, &mut cluster);
        if nearness::setting(scope, &self.policy).0.is_some_and(|it| !it.distribute.is_empty()) {
            let config = cluster.common_lb_config.get_or_insert_default();
            config.locality_config_specifier = Some(
                tombolo_xds::proto::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    Default::default(),
                ),
            );
        }
        cluster
    }

    fn metadata(&self) -> Struct {
        let mut fields = parts::fields([("services", services(self.service))]);
        let mut add = |name: &str, value| fields.fields.insert(name.to_owned(), value);
        if let Some(rule) = &self.rule {
            let path = format!(
                "/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}",
                rule.name.namespace, rule.name.name
            );
            add("config", parts::text(path));
        }
        if !self.upstream.subset.is_empty() {
            add("subset", parts::text(self.upstream.subset.as_str()));
        }
        if self.service.external {
            add("external", Value { kind: Some(value::Kind::BoolValue(true)) });
        }
        fields
    }

    /// The endpoints, for DNS.
    fn named(&self, scope: &Scope<'_>, name: String) -> ClusterLoadAssignment {
        let only_mutual_tls = name == self.upstream.sni();
        let mut named = endpoints::named(scope, self.wanted(only_mutual_tls), name, &self.policy);
        if self.service.resolution == Resolution::DnsRoundRobin {
            // One name only, says Envoy.
            named.endpoints.retain(|group| !group.lb_endpoints.is_empty());
            named.endpoints.sort_by_key(|group| group.priority);
            named.endpoints.truncate(1);
            for group in &mut named.endpoints {
                group.lb_endpoints.truncate(1);
            }
        }
        named
    }

    fn is_http2(&self) -> bool {
        use tombolo_crds::networking::destination_rule::H2Upgrade::Upgrade;
        let http = self.policy.pool.and_then(|pool| pool.http.as_ref());
        let upgraded = http.is_some_and(|http| http.h2_upgrade_policy == Some(Upgrade));
        self.port.protocol.is_http2() || (upgraded && self.port.protocol.is_http())
    }

    fn add_http_options(&self, scope: &Scope<'_>, cluster: &mut Cluster) {
        let http = self.policy.pool.and_then(|pool| pool.http.as_ref());
        let streams = http.and_then(|http| http.max_concurrent_streams).unwrap_or(1 << 30);
        let http2 = Http2ProtocolOptions {
            max_concurrent_streams: parts::number(streams),
            ..Http2ProtocolOptions::default()
        };
        let follows = http.is_some_and(|http| http.use_client_protocol)
            || (self.port.protocol == Protocol::Auto && scope.proxy.kind == ProxyKind::Sidecar);
        let limits = http.and_then(|http| {
            let used = http.idle_timeout.is_some() || http.max_requests_per_connection.is_some();
            used.then(|| Limits {
                idle_timeout: http.idle_timeout.map(|it| parts::duration(it.0)),
                max_requests_per_connection: http
                    .max_requests_per_connection
                    .filter(|most| *most > 0)
                    .and_then(parts::number),
                ..Limits::default()
            })
        });
        let protocol = if follows {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Default::default()),
                http2_protocol_options: Some(http2),
                ..UseDownstreamHttpConfig::default()
            })
        } else if self.is_http2() {
            explicit(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2))
        } else if limits.is_some() {
            explicit(explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default()))
        } else {
            return;
        };
        let options = HttpProtocolOptions {
            common_http_protocol_options: limits,
            upstream_protocol_options: Some(protocol),
            ..HttpProtocolOptions::default()
        };
        cluster.typed_extension_protocol_options =
            BTreeMap::from([(HTTP_OPTIONS.to_owned(), parts::any(&options))]);
    }

    fn add_tls(&self, scope: &Scope<'_>, cluster: &mut Cluster, diagnostics: &mut Vec<Diagnostic>) {
        match self.policy.tls {
            None => {
                if self.infers_mutual_tls(scope) {
                    cluster.transport_socket_matches = self.either(scope);
                }
            }
            Some(tls) => match tls.mode {
                ClientTlsMode::Disable => (),
                ClientTlsMode::IstioMutual => {
                    let sni = match tls.sni.as_str() {
                        "" => self.upstream.sni(),
                        sni => sni.to_owned(),
                    };
                    let names = match tls.subject_alt_names.as_slice() {
                        [] => self.identities(scope),
                        names => names.iter().cloned().collect(),
                    };
                    let names = names.iter().map(String::as_str);
                    cluster.transport_socket = Some(tls::to_mesh(&sni, names, self.is_http2()));
                }
                ClientTlsMode::Simple | ClientTlsMode::Mutual => {
                    self.add_own_tls(scope, tls, cluster, diagnostics);
                }
            },
        }
    }

    /// What users should know about the DestinationRule.
    fn remark(&self, scope: &Scope<'_>, message: String, diagnostics: &mut Vec<Diagnostic>) {
        let name = self.rule.as_ref().map(|rule| rule.name.clone());
        diagnostics.extend(name.map(|object| Diagnostic {
            cluster: scope.picture.config_cluster.clone(),
            kind: String::from("DestinationRule"),
            object,
            message,
        }));
    }

    fn add_own_tls(
        &self,
        scope: &Scope<'_>,
        tls: &ClientTls,
        cluster: &mut Cluster,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let socket = match scope.proxy.is_tombolo {
            true => Err(String::from(
                "Tombolo's own proxy does not start TLS with servers outside of the mesh: no \
                 endpoint is used",
            )),
            false => tls::to_outside(tls, self.is_http2()),
        };
        match socket {
            Ok(socket) => cluster.transport_socket = Some(socket),
            Err(message) => {
                self.remark(scope, message, diagnostics);
                // Never in the clear where TLS was asked for: nobody answers instead.
                cluster.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
                cluster.eds_cluster_config = None;
                cluster.load_assignment = Some(ClusterLoadAssignment {
                    cluster_name: cluster.name.clone(),
                    ..ClusterLoadAssignment::default()
                });
                cluster.lb_policy = LbPolicy::LeastRequest.into();
                cluster.lb_config = None;
            }
        }
    }

    /// Whether mutual TLS is spoken with the endpoints that can.
    fn infers_mutual_tls(&self, scope: &Scope<'_>) -> bool {
        let mesh = &scope.picture.mesh.config;
        if !mesh.enable_auto_mtls || self.service.external {
            return false;
        }
        let endpoints = scope.picture.endpoints_of(&self.service.key());
        if self.discovery(scope) == DiscoveryType::OriginalDst {
            // The endpoint is not chosen from a list, so all of them must be able to.
            let all = endpoints.iter().all(|endpoint| endpoint.workload.mutual_tls);
            if endpoints.is_empty() || !all {
                return false;
            }
        }
        let namespace = &self.service.object.namespace;
        authentication::of_namespace(scope.picture, namespace) != MutualTlsMode::Disable
    }

    /// Mutual TLS with endpoints that answer it, plain with others.
    fn either(&self, scope: &Scope<'_>) -> Vec<TransportSocketMatch> {
        let identities = self.identities(scope);
        let names = identities.iter().map(String::as_str);
        let mutual = tls::to_mesh(&self.upstream.sni(), names, self.is_http2());
        let when = |name: &str, on: Struct, socket| TransportSocketMatch {
            name: name.to_owned(),
            r#match: Some(on),
            transport_socket: Some(socket),
        };
        let original = self.discovery(scope) == DiscoveryType::OriginalDst;
        let istio = match original {
            // The addresses that clients choose carry no metadata.
            true => Struct::default(),
            false => parts::fields([("tlsMode", parts::text("istio"))]),
        };
        let mut matches = vec![when("tlsMode-istio", istio, mutual)];
        if !original {
            matches.push(when("tlsMode-disabled", Struct::default(), tls::plain()));
        }
        matches
    }

    /// Who may answer: the identities of the service's endpoints in all clusters.
    fn identities(&self, scope: &Scope<'_>) -> BTreeSet<String> {
        let endpoints = scope.picture.endpoints_of(&self.service.key()).iter();
        let of_endpoints =
            endpoints.filter_map(|it| it.workload.identity.as_ref().map(ToString::to_string));
        of_endpoints.chain(self.service.declared_identities.iter().cloned()).collect()
    }
}

/// How often DNS names are looked up again.
#[expect(deprecated, reason = "what takes their place is an extension that few proxies know")]
fn resolve_often(mesh: &MeshConfig, cluster: &mut Cluster) {
    cluster.dns_refresh_rate = Some(parts::duration(mesh.dns_refresh_rate.0));
    cluster.respect_dns_ttl = true;
}

fn explicit(protocol: explicit_http_config::ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(protocol),
    })
}

/// Limits that nothing reaches; Envoy's own defaults are too low for a mesh.
pub(crate) fn unlimited() -> CircuitBreakers {
    let most = || parts::number(u32::MAX);
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: most(),
            max_pending_requests: most(),
            max_requests: most(),
            max_retries: most(),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

/// An upstream at whatever address the client called.
pub(crate) fn passthrough(scope: &Scope<'_>) -> Cluster {
    let protocol = UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Default::default()),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: parts::number(1 << 30),
            ..Http2ProtocolOptions::default()
        }),
        ..UseDownstreamHttpConfig::default()
    });
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(Limits {
            idle_timeout: Some(parts::seconds(300)),
            ..Limits::default()
        }),
        upstream_protocol_options: Some(protocol),
        ..HttpProtocolOptions::default()
    };
    Cluster {
        name: names::PASSTHROUGH.to_owned(),
        alt_stat_name: format!("{};", names::PASSTHROUGH),
        connect_timeout: Some(parts::duration(scope.picture.mesh.config.connect_timeout.0)),
        circuit_breakers: Some(unlimited()),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        typed_extension_protocol_options: BTreeMap::from([(
            HTTP_OPTIONS.to_owned(),
            parts::any(&options),
        )]),
        ..Cluster::default()
    }
}

/// An upstream that answers nobody.
pub(crate) fn black_hole(scope: &Scope<'_>) -> Cluster {
    Cluster {
        name: names::BLACK_HOLE.to_owned(),
        alt_stat_name: format!("{};", names::BLACK_HOLE),
        connect_timeout: Some(parts::duration(scope.picture.mesh.config.connect_timeout.0)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        ..Cluster::default()
    }
}
