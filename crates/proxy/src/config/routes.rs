//! Route configurations: from a request's head to what is done with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use tombolo_xds::proto::envoy::config::route::v3 as rds;
use tombolo_xds::proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use tombolo_xds::proto::envoy::config::route::v3::route::Action as ProtoAction;
use tombolo_xds::proto::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier,
};
use tombolo_xds::proto::envoy::config::route::v3::route_match::PathSpecifier;

use crate::config::convert::{duration, flag, fraction, inline, number, timeout};
use crate::config::effects::{Effects, effects};
use crate::config::headers::HeaderChanges;
use crate::config::matchers::{HeaderMatch, QueryMatch, Substitution, full};
use crate::config::problem::{At, Problem, each};
use crate::config::retry::{RetryPolicy, retry_policy};

/// How long an upstream may take to answer where the route does not say.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// A table of virtual hosts.
#[derive(Debug)]
pub struct Routes {
    pub name: String,
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Host, or host pattern without its star, to index in `hosts`.
    pub exact: HashMap<String, usize>,
    pub suffixes: Vec<(String, usize)>,
    pub prefixes: Vec<(String, usize)>,
    pub any: Option<usize>,
    pub ignore_port: bool,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub most_specific_wins: bool,
}

/// The routes of some host names.
#[derive(Debug)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub routes: Vec<Arc<Route>>,
    pub require_tls: bool,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub attempt_count: bool,
    pub attempt_count_in_response: bool,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    pub name: Option<Arc<str>>,
    pub condition: Condition,
    pub action: Action,
    pub effects: Effects,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
}

/// What a request must be like to take a route.
#[derive(Debug)]
pub struct Condition {
    pub path: PathMatch,
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    pub grpc: bool,
    /// Out of 1,000,000 requests; all if none.
    pub fraction: Option<u32>,
}

/// A condition on the path without its query.
#[derive(Debug)]
pub enum PathMatch {
    Prefix(String),
    Exact(String),
    Regex(Regex),
    /// A prefix that ends at a slash or at the end.
    Separated(String),
}

/// What is done with a request.
#[derive(Debug)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    Direct { status: u16, body: bytes::Bytes },
}

/// Sends a request on.
#[derive(Debug)]
pub struct Forward {
    pub targets: Targets,
    pub not_found_status: u16,
    pub prefix_rewrite: Option<String>,
    pub regex_rewrite: Option<Substitution>,
    pub host_rewrite: Option<HostRewrite>,
    pub append_forwarded_host: bool,
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Option<Duration>>,
    pub max_duration: Option<Duration>,
    pub retry: Option<RetryPolicy>,
    pub upgrades: Vec<(String, bool)>,
    pub hash: Vec<HashSource>,
}

/// Where a request is sent.
#[derive(Debug)]
pub enum Targets {
    One(Arc<str>),
    Header(String),
    Weighted { total: u64, targets: Vec<Target> },
}

/// One of several weighted upstreams.
#[derive(Debug)]
pub struct Target {
    pub upstream: Arc<str>,
    pub weight: u32,
    pub host_rewrite: Option<String>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
}

/// How the authority changes.
#[derive(Debug)]
pub enum HostRewrite {
    Literal(String),
    Header(String),
}

/// What a consistent-hash balancer hashes.
#[derive(Debug)]
pub enum HashSource {
    Header(String),
    Cookie {
        name: String,
        /// With one, a client that has no such cookie gets it, for so long; zero is a session.
        ttl: Option<Duration>,
        path: String,
    },
    SourceIp,
    Query(String),
}

/// Sends the client elsewhere.
#[derive(Debug)]
pub struct Redirect {
    pub status: u16,
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    pub strip_query: bool,
}

/// How the path of a redirect is made.
#[derive(Debug)]
pub enum RedirectPath {
    Replace(String),
    Prefix(String),
    Regex(Substitution),
}

/// Reads a route configuration.
pub fn routes(config: &rds::RouteConfiguration) -> Result<Routes, Problem> {
    let hosts = each("virtual_hosts", &config.virtual_hosts, virtual_host)?;
    let (request_headers, response_headers) = HeaderChanges::both(
        (&config.request_headers_to_add, &config.request_headers_to_remove),
        (&config.response_headers_to_add, &config.response_headers_to_remove),
    )?;
    let mut routes = Routes {
        name: config.name.clone(),
        hosts: hosts.into_iter().map(Arc::new).collect(),
        exact: HashMap::new(),
        suffixes: Vec::new(),
        prefixes: Vec::new(),
        any: None,
        ignore_port: config.ignore_port_in_host_matching,
        request_headers,
        response_headers,
        most_specific_wins: config.most_specific_header_mutations_wins,
    };
    for (index, host) in config.virtual_hosts.iter().enumerate() {
        for (domain_index, domain) in host.domains.iter().enumerate() {
            let field = format!("virtual_hosts[{index}].domains[{domain_index}]");
            add_domain(&mut routes, index, &domain.to_ascii_lowercase()).at(field)?;
        }
    }
    let longest_first = |list: &mut Vec<(String, usize)>| {
        list.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    };
    longest_first(&mut routes.suffixes);
    longest_first(&mut routes.prefixes);
    Ok(routes)
}

fn add_domain(routes: &mut Routes, index: usize, domain: &str) -> Result<(), Problem> {
    let twice = || Problem::new(format!("`{domain}` is there twice"));
    if domain == "*" {
        return match routes.any.replace(index) {
            Some(_) => Err(twice()),
            None => Ok(()),
        };
    }
    let (list, pattern) = match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
        (Some(suffix), _) => (&mut routes.suffixes, suffix),
        (None, Some(prefix)) => (&mut routes.prefixes, prefix),
        (None, None) => {
            return match routes.exact.insert(domain.to_owned(), index) {
                Some(_) => Err(twice()),
                None => Ok(()),
            };
        }
    };
    if list.iter().any(|(known, _)| known == pattern) {
        return Err(twice());
    }
    list.push((pattern.to_owned(), index));
    Ok(())
}

fn virtual_host(config: &rds::VirtualHost) -> Result<VirtualHost, Problem> {
    use rds::virtual_host::TlsRequirementType;
    no_filter_config(&config.typed_per_filter_config)?;
    let retry = config.retry_policy.as_ref().map(retry_policy).transpose().at("retry_policy")?;
    let route = |config: &rds::Route| route(config, retry.as_ref()).map(Arc::new);
    let (request_headers, response_headers) = HeaderChanges::both(
        (&config.request_headers_to_add, &config.request_headers_to_remove),
        (&config.response_headers_to_add, &config.response_headers_to_remove),
    )?;
    Ok(VirtualHost {
        name: config.name.as_str().into(),
        routes: each("routes", &config.routes, route)?,
        require_tls: config.require_tls() != TlsRequirementType::None,
        request_headers,
        response_headers,
        attempt_count: config.include_request_attempt_count,
        attempt_count_in_response: config.include_attempt_count_in_response,
    })
}

/// Settings of filters for a whole virtual host are not read; those of routes are.
fn no_filter_config<V>(config: &BTreeMap<String, V>) -> Result<(), Problem> {
    match config.keys().next() {
        Some(name) => Err(Problem::new("is not supported")
            .inside(format_args!("typed_per_filter_config[{name}]"))),
        None => Ok(()),
    }
}

fn route(config: &rds::Route, retry: Option<&RetryPolicy>) -> Result<Route, Problem> {
    let effects = effects(&config.typed_per_filter_config)?;
    let action = match config.action.as_ref() {
        Some(ProtoAction::Route(action)) => {
            Action::Forward(Box::new(forward(action, retry).at("route")?))
        }
        Some(ProtoAction::Redirect(action)) => {
            Action::Redirect(Box::new(redirect(action).at("redirect")?))
        }
        Some(ProtoAction::DirectResponse(action)) => {
            let body = action.body.as_ref().map(inline).transpose();
            Action::Direct {
                status: status(action.status).at("direct_response.status")?,
                body: body.at("direct_response.body")?.unwrap_or_default().into(),
            }
        }
        _ => {
            return Err(Problem::new("must be route, redirect or direct_response").inside("action"));
        }
    };
    let (request_headers, response_headers) = HeaderChanges::both(
        (&config.request_headers_to_add, &config.request_headers_to_remove),
        (&config.response_headers_to_add, &config.response_headers_to_remove),
    )?;
    Ok(Route {
        name: Some(config.name.as_str()).filter(|name| !name.is_empty()).map(Into::into),
        condition: condition(config.r#match.as_ref()).at("match")?,
        action,
        effects,
        request_headers,
        response_headers,
    })
}

fn status(status: u32) -> Result<u16, Problem> {
    let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
    status.ok_or_else(|| Problem::new("must be from 200 to 599"))
}

fn condition(config: Option<&rds::RouteMatch>) -> Result<Condition, Problem> {
    let config = config.ok_or_else(|| Problem::new("must be set"))?;
    let path = match config.path_specifier.as_ref() {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(prefix.clone()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::SafeRegex(regex)) => PathMatch::Regex(full(regex).at("safe_regex")?),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::Separated(prefix.clone()),
        _ => return Err(Problem::new("must have a condition on the path")),
    };
    Ok(Condition {
        path,
        case_sensitive: flag(config.case_sensitive, true),
        headers: each("headers", &config.headers, HeaderMatch::new)?,
        query: each("query_parameters", &config.query_parameters, QueryMatch::new)?,
        grpc: config.grpc.is_some(),
        fraction: config.runtime_fraction.as_ref().map(|f| fraction(f.default_value.as_ref())),
    })
}

fn forward(config: &rds::RouteAction, retry: Option<&RetryPolicy>) -> Result<Forward, Problem> {
    use rds::route_action::ClusterNotFoundResponseCode as NotFound;
    let own = config.retry_policy.as_ref().map(retry_policy).transpose().at("retry_policy")?;
    let host_rewrite = match config.host_rewrite_specifier.as_ref() {
        None | Some(HostRewriteSpecifier::AutoHostRewrite(_)) => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(host.clone()))
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            Some(HostRewrite::Header(name.clone()))
        }
        Some(_) => return Err(Problem::new("is not supported").inside("host_rewrite_path_regex")),
    };
    if let Some(HostRewriteSpecifier::AutoHostRewrite(on)) = config.host_rewrite_specifier.as_ref()
        && on.value
    {
        return Err(Problem::new("is not supported").inside("auto_host_rewrite"));
    }
    let stream = config.max_stream_duration.as_ref();
    let upgrade = |upgrade: &rds::route_action::UpgradeConfig| {
        (upgrade.upgrade_type.to_ascii_lowercase(), flag(upgrade.enabled, true))
    };
    Ok(Forward {
        targets: targets(config)?,
        not_found_status: match config.cluster_not_found_response_code() {
            NotFound::ServiceUnavailable => 503,
            NotFound::NotFound => 404,
            NotFound::InternalServerError => 500,
        },
        prefix_rewrite: Some(config.prefix_rewrite.clone()).filter(|prefix| !prefix.is_empty()),
        regex_rewrite: config
            .regex_rewrite
            .as_ref()
            .map(Substitution::new)
            .transpose()
            .at("regex_rewrite")?,
        host_rewrite,
        append_forwarded_host: config.append_x_forwarded_host,
        timeout: match config.timeout.as_ref() {
            Some(_) => timeout("timeout", config.timeout.as_ref())?,
            None => Some(ROUTE_TIMEOUT),
        },
        idle_timeout: match config.idle_timeout.as_ref() {
            Some(_) => Some(timeout("idle_timeout", config.idle_timeout.as_ref())?),
            None => None,
        },
        max_duration: stream
            .map(|stream| timeout("max_stream_duration", stream.max_stream_duration.as_ref()))
            .transpose()?
            .flatten(),
        retry: own.or_else(|| retry.cloned()),
        upgrades: config.upgrade_configs.iter().map(upgrade).collect(),
        hash: each("hash_policy", &config.hash_policy, hash_source)?,
    })
}

fn targets(config: &rds::RouteAction) -> Result<Targets, Problem> {
    Ok(match config.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => Targets::One(name.as_str().into()),
        Some(ClusterSpecifier::ClusterHeader(name)) => Targets::Header(name.to_ascii_lowercase()),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let targets = each("clusters", &weighted.clusters, target).at("weighted_clusters")?;
            let total = targets.iter().map(|target| u64::from(target.weight)).sum();
            if total == 0 {
                return Err(Problem::new("has no weight at all").inside("weighted_clusters"));
            }
            Targets::Weighted { total, targets }
        }
        _ => return Err(Problem::new("must be cluster, cluster_header or weighted_clusters")),
    })
}

fn target(config: &rds::weighted_cluster::ClusterWeight) -> Result<Target, Problem> {
    use rds::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral;
    let (request_headers, response_headers) = HeaderChanges::both(
        (&config.request_headers_to_add, &config.request_headers_to_remove),
        (&config.response_headers_to_add, &config.response_headers_to_remove),
    )?;
    Ok(Target {
        upstream: config.name.as_str().into(),
        weight: number(config.weight, 0),
        host_rewrite: config
            .host_rewrite_specifier
            .as_ref()
            .map(|HostRewriteLiteral(host)| host.clone()),
        request_headers,
        response_headers,
    })
}

fn hash_source(config: &rds::route_action::HashPolicy) -> Result<HashSource, Problem> {
    use rds::route_action::hash_policy::PolicySpecifier;
    Ok(match config.policy_specifier.as_ref() {
        Some(PolicySpecifier::Header(header)) => {
            HashSource::Header(header.header_name.to_ascii_lowercase())
        }
        Some(PolicySpecifier::Cookie(cookie)) => HashSource::Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.as_ref().map(duration).transpose().at("cookie.ttl")?,
            path: cookie.path.clone(),
        },
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => {
            HashSource::SourceIp
        }
        Some(PolicySpecifier::QueryParameter(query)) => HashSource::Query(query.name.clone()),
        _ => return Err(Problem::new("must be header, cookie, source_ip or query_parameter")),
    })
}

fn redirect(config: &rds::RedirectAction) -> Result<Redirect, Problem> {
    let scheme = match config.scheme_rewrite_specifier.as_ref() {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
        _ => None,
    };
    let path = match config.path_rewrite_specifier.as_ref() {
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(RedirectPath::Replace(path.clone())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            Some(RedirectPath::Prefix(prefix.clone()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            Some(RedirectPath::Regex(Substitution::new(regex).at("regex_rewrite")?))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Problem::new("is not supported").inside("path_rewrite"));
        }
        None => None,
    };
    Ok(Redirect {
        status: match config.response_code() {
            RedirectResponseCode::MovedPermanently => 301,
            RedirectResponseCode::Found => 302,
            RedirectResponseCode::SeeOther => 303,
            RedirectResponseCode::TemporaryRedirect => 307,
            RedirectResponseCode::PermanentRedirect => 308,
        },
        scheme,
        host: Some(config.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: u16::try_from(config.port_redirect).ok().filter(|port| *port != 0),
        path,
        strip_query: config.strip_query,
    })
}
