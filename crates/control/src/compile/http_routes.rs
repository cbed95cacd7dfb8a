//! The `http` routes of VirtualServices as Envoy's routes.

use tombolo_crds::networking::virtual_service::{
    HttpDestination, HttpMatch, HttpRoute, StringMatch, VirtualService,
};
use tombolo_model::id::Host;
use tombolo_model::service::Service;
use tombolo_xds::proto::envoy::config::core::v3::DataSource;
use tombolo_xds::proto::envoy::config::core::v3::data_source;
use tombolo_xds::proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use tombolo_xds::proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use tombolo_xds::proto::envoy::config::route::v3::{
    Decorator, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route,
    RouteAction, RouteMatch, WeightedCluster, header_matcher, query_parameter_matcher, route,
    route_action, route_match,
};
use tombolo_xds::proto::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, StringMatcher};

use crate::compile::effects;
use crate::compile::names;
use crate::compile::parts;
use crate::compile::policy;
use crate::compile::retries;
use crate::compile::routes::everything;
use crate::compile::routing;
use crate::compile::scope::{Scope, has_all};
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

/// Where routes are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The port that clients call.
    pub(crate) port: u16,
    /// `namespace/name` of the gateway; nothing for sidecars.
    pub(crate) gateway: Option<&'a str>,
}

/// The routes of a rule, in its order, up to the first that takes everything.
pub(crate) fn of_rule(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Route> {
    let mut routes = Vec::new();
    for of in &rule.spec.http {
        if let Some(problem) = of_route(of).find_map(unusable) {
            let message = format!("a route is left out: {problem}");
            diagnostics.push(routing::remark(scope, rule, message));
            continue;
        }
        let action =
            |diagnostics: &mut Vec<Diagnostic>| action(scope, rule, of, context, diagnostics);
        if of.r#match.is_empty() {
            let built = base(scope, rule, of, None, action(diagnostics), diagnostics);
            routes.push(built);
            return routes;
        }
        for on in &of.r#match {
            if !holds(scope, rule, on, context) {
                continue;
            }
            if let Some(problem) = of_match(on).find_map(unusable) {
                let message = format!("a match is left out: {problem}");
                diagnostics.push(routing::remark(scope, rule, message));
                continue;
            }
            let takes_everything = takes_everything(on);
            routes.push(base(scope, rule, of, Some(on), action(diagnostics), diagnostics));
            if takes_everything {
                return routes;
            }
        }
    }
    routes
}

/// The expressions of a match.
fn of_match(on: &HttpMatch) -> impl Iterator<Item = &str> {
    let single = [&on.uri, &on.scheme, &on.method, &on.authority].into_iter().flatten();
    let several = on.headers.values().chain(on.without_headers.values());
    let all = single.chain(several).chain(on.query_params.values());
    all.filter_map(|want| want.regex.as_deref()).filter(|text| *text != "*")
}

/// The expressions of a route besides those of its matches.
fn of_route(of: &HttpRoute) -> impl Iterator<Item = &str> {
    let rewrite = of.rewrite.as_ref().and_then(|it| it.uri_regex_rewrite.as_ref());
    let origins = of.cors_policy.iter().flat_map(|cors| &cors.allow_origins);
    let origins = origins.filter_map(|want| want.regex.as_deref());
    origins.chain(rewrite.map(|it| it.r#match.as_str()))
}

/// Why no proxy could use an expression. It would reject everything that comes with it.
fn unusable(expression: &str) -> Option<String> {
    let problem = regex::Regex::new(expression).err()?;
    let problem = problem.to_string();
    let why = problem.lines().last().unwrap_or_default().trim();
    Some(format!("`{expression}` is no regular expression: {}", why.trim_start_matches("error: ")))
}

/// Whether a match can hold for this proxy and port at all.
fn holds(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    on: &HttpMatch,
    context: &Context<'_>,
) -> bool {
    if on.port.is_some_and(|port| port != context.port) {
        return false;
    }
    match context.gateway {
        Some(gateway) => {
            let named = |name: &String| gateway_name(rule, name) == gateway;
            on.gateways.is_empty() || on.gateways.iter().any(named)
        }
        None => {
            let for_mesh = on.gateways.is_empty() || on.gateways.iter().any(|it| it == "mesh");
            for_mesh
                && on.source_namespace.as_deref().is_none_or(|it| it == scope.proxy.namespace())
                && has_all(&scope.proxy.labels, &on.source_labels)
        }
    }
}

/// `namespace/name` of a gateway that a rule names.
pub(crate) fn gateway_name(rule: &Configured<VirtualService>, name: &str) -> String {
    match name.split_once('/') {
        Some((".", name)) => format!("{}/{name}", rule.namespace()),
        Some(_) => name.to_owned(),
        None => format!("{}/{name}", rule.namespace()),
    }
}

fn takes_everything(on: &HttpMatch) -> bool {
    let all_paths = on
        .uri
        .as_ref()
        .is_none_or(|uri| uri.prefix.as_deref() == Some("/") || uri.regex.as_deref() == Some(".*"));
    let bare = HttpMatch {
        name: on.name.clone(),
        uri: on.uri.clone(),
        port: on.port,
        source_labels: on.source_labels.clone(),
        source_namespace: on.source_namespace.clone(),
        gateways: on.gateways.clone(),
        ignore_uri_case: on.ignore_uri_case,
        ..HttpMatch::default()
    };
    all_paths && bare == *on
}

fn base(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    on: Option<&HttpMatch>,
    action: route::Action,
    diagnostics: &mut Vec<Diagnostic>,
) -> Route {
    let name = match (of.name.as_str(), on.map_or("", |on| on.name.as_str())) {
        ("", _) => String::from("default"),
        (name, "") => name.to_owned(),
        (name, of_match) => format!("{name}.{of_match}"),
    };
    let path = format!(
        "/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{}",
        rule.name.namespace, rule.name.name
    );
    let mut built = Route {
        name,
        r#match: Some(on.map_or_else(everything, route_match)),
        metadata: Some(parts::metadata("istio", parts::fields([("config", parts::text(path))]))),
        decorator: decorator(of, &action),
        typed_per_filter_config: effects::per_filter(scope, rule, of, diagnostics),
        action: Some(action),
        ..Route::default()
    };
    if let Some(headers) = &of.headers {
        built.request_headers_to_add = effects::added(&headers.request);
        built.request_headers_to_remove = effects::removed(&headers.request);
        built.response_headers_to_add = effects::added(&headers.response);
        built.response_headers_to_remove = effects::removed(&headers.response);
    }
    built
}

fn decorator(of: &HttpRoute, action: &route::Action) -> Option<Decorator> {
    let route::Action::Route(_) = action else { return None };
    let host = of.route.first().map(|to| to.destination.host.clone())?;
    Some(Decorator { operation: format!("{host}/*"), ..Decorator::default() })
}

fn route_match(on: &HttpMatch) -> RouteMatch {
    use route_match::PathSpecifier;
    let path = match &on.uri {
        Some(StringMatch { exact: Some(path), .. }) => PathSpecifier::Path(path.clone()),
        Some(StringMatch { prefix: Some(prefix), .. }) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch { regex: Some(regex), .. }) => {
            PathSpecifier::SafeRegex(parts::regex(regex))
        }
        _ => PathSpecifier::Prefix(String::from("/")),
    };
    let mut headers: Vec<HeaderMatcher> =
        on.headers.iter().map(|(name, want)| header(name, want, false)).collect();
    headers.extend(on.without_headers.iter().map(|(name, want)| header(name, want, true)));
    let pseudo = [(":scheme", &on.scheme), (":method", &on.method), (":authority", &on.authority)];
    for (name, want) in pseudo {
        headers.extend(want.as_ref().map(|want| header(name, want, false)));
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let query = on.query_params.iter().map(|(name, want)| QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(match text(want) {
            Some(text) => query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(text),
            None => query_parameter_matcher::QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    });
    RouteMatch {
        path_specifier: Some(path),
        case_sensitive: if on.ignore_uri_case { parts::no() } else { None },
        headers,
        query_parameters: query.collect(),
        ..RouteMatch::default()
    }
}

/// A condition on a text; nothing when it only has to be there.
fn text(want: &StringMatch) -> Option<StringMatcher> {
    match want {
        StringMatch { exact: Some(text), .. } => Some(parts::exact(text)),
        StringMatch { prefix: Some(text), .. } => Some(parts::prefix(text)),
        StringMatch { regex: Some(text), .. } if text != "*" => Some(parts::matching(text)),
        _ => None,
    }
}

fn header(name: &str, want: &StringMatch, invert: bool) -> HeaderMatcher {
    use header_matcher::HeaderMatchSpecifier;
    let specifier = text(want);
    HeaderMatcher {
        name: name.to_owned(),
        invert_match: invert,
        treat_missing_header_as_empty: invert && specifier.is_some(),
        header_match_specifier: Some(match specifier {
            Some(text) => HeaderMatchSpecifier::StringMatch(text),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
    }
}

fn action(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> route::Action {
    if of.redirect.is_some() {
        return route::Action::Redirect(redirect(scope, rule, of, diagnostics));
    }
    if let Some(response) = &of.direct_response {
        let specifier = response.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
            (Some(text), _) => Some(data_source::Specifier::InlineString(text.clone())),
            (None, Some(bytes)) => {
                use base64::Engine;
                let decoded = base64::engine::general_purpose::STANDARD.decode(bytes).ok()?;
                Some(data_source::Specifier::InlineBytes(decoded))
            }
            (None, None) => None,
        });
        let body = specifier
            .map(|specifier| DataSource { specifier: Some(specifier), ..DataSource::default() });
        return route::Action::DirectResponse(DirectResponseAction {
            status: u32::from(response.status),
            body,
            ..DirectResponseAction::default()
        });
    }
    route::Action::Route(forward(scope, rule, of, context, diagnostics))
}

fn forward(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    context: &Context<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> RouteAction {
    let timeout = parts::duration(of.timeout.unwrap_or_default().0);
    let mut action = RouteAction {
        timeout: Some(timeout),
        max_stream_duration: parts::grpc_timeout(timeout),
        retry_policy: match &of.retries {
            Some(asked) => retries::of(asked),
            None => retries::default(&scope.picture.mesh.config),
        },
        ..RouteAction::default()
    };
    action.cluster_specifier =
        Some(targets(scope, rule, &of.route, context, &mut action, diagnostics));
    if let Some(rewrite) = &of.rewrite {
        action.prefix_rewrite = rewrite.uri.clone();
        if let Some(regex) = &rewrite.uri_regex_rewrite {
            action.prefix_rewrite = String::new();
            action.regex_rewrite = Some(RegexMatchAndSubstitute {
                pattern: Some(parts::regex(&regex.r#match)),
                substitution: regex.rewrite.clone(),
            });
        }
    }
    let asked = of.rewrite.as_ref().map(|rewrite| rewrite.authority.clone());
    let asked = asked.filter(|authority| !authority.is_empty());
    let of_headers = of.headers.as_ref().and_then(|headers| effects::authority(&headers.request));
    action.host_rewrite_specifier =
        asked.or(of_headers).map(route_action::HostRewriteSpecifier::HostRewriteLiteral);
    effects::mirrors(scope, rule, of, context, &mut action, diagnostics);
    action
}

fn targets(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    to: &[HttpDestination],
    context: &Context<'_>,
    action: &mut RouteAction,
    diagnostics: &mut Vec<Diagnostic>,
) -> route_action::ClusterSpecifier {
    let several = to.len() > 1;
    let mut weighted = Vec::new();
    for to in to.iter().filter(|to| !several || to.weight > 0) {
        let host: Host = rule.host(&to.destination.host, &scope.picture.domain);
        let upstream =
            routing::upstream(scope, rule, &to.destination, &host, context.port, diagnostics);
        if action.hash_policy.is_empty()
            && let Some(service) = scope.service(&host)
        {
            action.hash_policy = hash_policy(scope, service, upstream.port, &to.destination.subset);
        }
        let headers = to.headers.clone().unwrap_or_default();
        weighted.push(ClusterWeight {
            name: upstream.name(),
            weight: parts::number(to.weight.max(1)),
            request_headers_to_add: effects::added(&headers.request),
            request_headers_to_remove: effects::removed(&headers.request),
            response_headers_to_add: effects::added(&headers.response),
            response_headers_to_remove: effects::removed(&headers.response),
            ..ClusterWeight::default()
        });
    }
    match weighted.as_slice() {
        [] => {
            diagnostics.push(routing::remark(
                scope,
                rule,
                String::from("an http route has no destination with a weight: its requests fail"),
            ));
            route_action::ClusterSpecifier::Cluster(names::BLACK_HOLE.to_owned())
        }
        [only] if to.iter().all(|to| to.headers.is_none()) => {
            route_action::ClusterSpecifier::Cluster(only.name.clone())
        }
        _ => route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: weighted,
            ..WeightedCluster::default()
        }),
    }
}

fn redirect(
    scope: &Scope<'_>,
    rule: &Configured<VirtualService>,
    of: &HttpRoute,
    diagnostics: &mut Vec<Diagnostic>,
) -> RedirectAction {
    let asked = of.redirect.clone().unwrap_or_default();
    let code = match asked.redirect_code {
        0 | 301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        other => {
            diagnostics.push(routing::remark(
                scope,
                rule,
                format!("redirectCode {other} is not 301, 302, 303, 307 or 308: 301 is sent"),
            ));
            RedirectResponseCode::MovedPermanently
        }
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    RedirectAction {
        host_redirect: asked.authority,
        path_rewrite_specifier: some(asked.uri).map(PathRewriteSpecifier::PathRedirect),
        scheme_rewrite_specifier: some(asked.scheme).map(SchemeRewriteSpecifier::SchemeRedirect),
        port_redirect: asked.port.map_or(0, u32::from),
        response_code: code.into(),
        ..RedirectAction::default()
    }
}

/// What of a request chooses its endpoint, when the service's rule asks for a hash.
pub(crate) fn hash_policy(
    scope: &Scope<'_>,
    service: &Service,
    port: u16,
    subset: &str,
) -> Vec<route_action::HashPolicy> {
    use route_action::hash_policy::{
        ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
    };
    let rule = policy::rule_of(scope, service);
    let policy = policy::policy_of(scope, rule.as_ref(), port, subset);
    let Some(hash) = policy.balancer.and_then(|balancer| balancer.consistent_hash.as_ref()) else {
        return Vec::new();
    };
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(Header { header_name: name.clone(), ..Header::default() })
    } else if let Some(cookie) = &hash.http_cookie {
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            path: cookie.path.clone(),
            ttl: cookie.ttl.map(|ttl| parts::duration(ttl.0)),
            ..Cookie::default()
        })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() })
    } else if hash.use_source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
    } else {
        return Vec::new();
    };
    vec![route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() }]
}
