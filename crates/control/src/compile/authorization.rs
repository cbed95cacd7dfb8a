//! AuthorizationPolicy objects as role-based access filters.
//!
//! **Invariant: fail closed.** A condition that cannot be expressed makes an ALLOW rule match
//! nothing and a DENY rule match more. A policy whose action is not implemented denies what it
//! would have guarded.

use std::collections::BTreeMap;

use tombolo_crds::security::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use tombolo_xds::proto::envoy::config::listener::v3::{Filter, filter};
use tombolo_xds::proto::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission, principal, rbac,
};
use tombolo_xds::proto::envoy::config::route::v3::{HeaderMatcher, header_matcher};
use tombolo_xds::proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use tombolo_xds::proto::envoy::extensions::filters::network::rbac::v3::Rbac as TcpRbac;
use tombolo_xds::proto::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher};

use crate::compile::parts;
use crate::compile::scope::{Scope, has_all};
use crate::diagnostic::Diagnostic;
use crate::index::config::Configured;

/// What guards one workload, in the order in which it is asked.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    http: Vec<Rbac>,
    tcp: Vec<Rbac>,
}

/// A condition that cannot be expressed here.
struct Inexpressible;

type Conditions<T> = Result<Vec<T>, Inexpressible>;

/// What a rule is compiled for.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// Whether there are requests to look at, or only connections.
    http: bool,
    trust_domains: &'a [String],
}

impl Guard {
    /// What guards a workload of the proxy's namespace with these labels.
    pub(crate) fn of(
        scope: &Scope<'_>,
        labels: &BTreeMap<String, String>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mesh = &scope.picture.mesh.config;
        let namespace = scope.proxy.namespace();
        let policies = scope.picture.config.authorization_policies.iter().filter(|policy| {
            (policy.namespace() == namespace || policy.namespace() == mesh.root_namespace)
                && policy.spec.selector.as_ref().is_none_or(|it| has_all(labels, &it.match_labels))
        });
        let (mut deny, mut allow) = (Vec::new(), Vec::new());
        for policy in policies {
            match policy.spec.action {
                Action::Allow => allow.push(policy),
                Action::Deny => deny.push(policy),
                Action::Audit => diagnostics.push(remark(
                    scope,
                    policy,
                    "action AUDIT is not \
                    implemented: no effect",
                )),
                Action::Custom => {
                    diagnostics.push(remark(
                        scope,
                        policy,
                        "action CUSTOM is not implemented: \
                        what it would ask about is denied",
                    ));
                    deny.push(policy);
                }
            }
        }
        let mut trust_domains = vec![mesh.trust_domain.clone()];
        trust_domains.extend(mesh.trust_domain_aliases.iter().cloned());
        let mut guard = Self::default();
        for (http, filters) in [(true, &mut guard.http), (false, &mut guard.tcp)] {
            let target = Target { http, trust_domains: &trust_domains };
            filters.extend(filter_of(&deny, rbac::Action::Deny, target));
            filters.extend(filter_of(&allow, rbac::Action::Allow, target));
        }
        guard
    }

    /// Filters for requests.
    pub(crate) fn on_requests(&self) -> Vec<HttpFilter> {
        let filter = |rules: &Rbac| {
            let config = HttpRbac { rules: Some(rules.clone()), ..HttpRbac::default() };
            HttpFilter {
                name: String::from("envoy.filters.http.rbac"),
                config_type: Some(http_filter::ConfigType::TypedConfig(parts::any(&config))),
                ..HttpFilter::default()
            }
        };
        self.http.iter().map(filter).collect()
    }

    /// Filters for connections.
    pub(crate) fn on_connections(&self) -> Vec<Filter> {
        let filter = |rules: &Rbac| {
            let config = TcpRbac {
                rules: Some(rules.clone()),
                stat_prefix: String::from("tcp."),
                ..TcpRbac::default()
            };
            Filter {
                name: String::from("envoy.filters.network.rbac"),
                config_type: Some(filter::ConfigType::TypedConfig(parts::any(&config))),
            }
        };
        self.tcp.iter().map(filter).collect()
    }
}

fn remark(
    scope: &Scope<'_>,
    policy: &Configured<AuthorizationPolicy>,
    message: &str,
) -> Diagnostic {
    Diagnostic {
        cluster: scope.picture.config_cluster.clone(),
        kind: String::from("AuthorizationPolicy"),
        object: policy.name.clone(),
        message: message.to_owned(),
    }
}

fn filter_of(
    policies: &[&Configured<AuthorizationPolicy>],
    action: rbac::Action,
    target: Target<'_>,
) -> Option<Rbac> {
    if policies.is_empty() {
        return None;
    }
    let mut rules = BTreeMap::new();
    for policy in policies {
        let of = &policy.name;
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            // Fields that were not understood may have narrowed the rule.
            let here = format!("rules[{at}]");
            let whole = policy.unknown.iter().all(|path| !path.starts_with(&here));
            let compiled = compile(rule, action, whole, target);
            let name = format!("ns[{}]-policy[{}]-rule[{at}]", of.namespace, of.name);
            rules.extend(compiled.map(|compiled| (name, compiled)));
        }
    }
    // Denying nothing needs no filter; allowing nothing does.
    if rules.is_empty() && action == rbac::Action::Deny {
        return None;
    }
    Some(Rbac { action: action.into(), policies: rules, ..Rbac::default() })
}

fn compile(rule: &Rule, action: rbac::Action, whole: bool, target: Target<'_>) -> Option<Policy> {
    let allow = action == rbac::Action::Allow;
    if allow && !whole {
        return None;
    }
    let (mut callers, mut callers_dropped) = (Vec::new(), false);
    for from in &rule.from {
        match source(&from.source, target) {
            Ok(all) => callers.push(all_ids(all)),
            Err(Inexpressible) => callers_dropped = true,
        }
    }
    let (mut calls, mut calls_dropped) = (Vec::new(), false);
    for to in &rule.to {
        match operation(&to.operation, target) {
            Ok(all) => calls.push(all_rules(all)),
            Err(Inexpressible) => calls_dropped = true,
        }
    }
    let (mut when_from, mut when_to, mut when_dropped) = (Vec::new(), Vec::new(), false);
    for condition in &rule.when {
        match when(condition, target) {
            Ok((from, to)) => {
                when_from.extend(from);
                when_to.extend(to);
            }
            Err(Inexpressible) => when_dropped = true,
        }
    }
    if allow && when_dropped {
        return None;
    }
    // One of several alternatives that cannot be expressed: of ALLOW it is left out, of DENY the
    // whole list is, since that alternative may be anything.
    let alternatives_lost = |dropped: bool, empty: bool| dropped && (allow && empty);
    if alternatives_lost(callers_dropped, callers.is_empty())
        || alternatives_lost(calls_dropped, calls.is_empty())
    {
        return None;
    }
    if !callers.is_empty() && (allow || !callers_dropped) {
        when_from.insert(0, any_id(callers));
    }
    if !calls.is_empty() && (allow || !calls_dropped) {
        when_to.insert(0, any_rule(calls));
    }
    Some(Policy {
        permissions: vec![all_rules(when_to)],
        principals: vec![all_ids(when_from)],
        ..Policy::default()
    })
}

fn source(of: &Source, target: Target<'_>) -> Conditions<Principal> {
    let mut all = Vec::new();
    either(&mut all, &of.principals, &of.not_principals, |text| principals(text, target))?;
    either(&mut all, &of.namespaces, &of.not_namespaces, |text| Ok(vec![namespace(text)]))?;
    either(&mut all, &of.ip_blocks, &of.not_ip_blocks, address)?;
    Ok(all)
}

/// Adds "one of `values`" and "none of `not`".
fn either(
    all: &mut Vec<Principal>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Conditions<Principal>,
) -> Result<(), Inexpressible> {
    for (list, inverted) in [(values, false), (not, true)] {
        if list.is_empty() {
            continue;
        }
        let mut ids = Vec::new();
        for text in list {
            ids.extend(of(text)?);
        }
        let any = any_id(ids);
        all.push(match inverted {
            false => any,
            true => Principal { identifier: Some(principal::Identifier::NotId(Box::new(any))) },
        });
    }
    Ok(())
}

fn either_call(
    all: &mut Vec<Permission>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Result<Permission, Inexpressible>,
) -> Result<(), Inexpressible> {
    for (list, inverted) in [(values, false), (not, true)] {
        if list.is_empty() {
            continue;
        }
        let any = any_rule(list.iter().map(|text| of(text)).collect::<Result<_, _>>()?);
        all.push(match inverted {
            false => any,
            true => Permission { rule: Some(permission::Rule::NotRule(Box::new(any))) },
        });
    }
    Ok(())
}

fn authenticated(name: StringMatcher) -> Principal {
    let name = principal::Authenticated { principal_name: Some(name) };
    Principal { identifier: Some(principal::Identifier::Authenticated(name)) }
}

/// A principal under every name of its trust domain.
fn principals(text: &str, target: Target<'_>) -> Conditions<Principal> {
    if text == "*" {
        return Ok(vec![authenticated(parts::prefix("spiffe://"))]);
    }
    if let Some(end) = text.strip_prefix('*') {
        return Ok(vec![authenticated(parts::suffix(end))]);
    }
    let (domain, rest) = text.split_once('/').unwrap_or((text, ""));
    let ours = domain == "cluster.local" || target.trust_domains.iter().any(|it| it == domain);
    let mut domains = match ours && !rest.is_empty() {
        true => target.trust_domains.to_vec(),
        false => vec![domain.to_owned()],
    };
    domains.sort();
    domains.dedup();
    let full = |domain: &String| match rest {
        "" => format!("spiffe://{domain}"),
        rest => format!("spiffe://{domain}/{rest}"),
    };
    let matcher = |domain: &String| match full(domain).strip_suffix('*') {
        Some(start) => parts::prefix(start),
        None => parts::exact(&full(domain)),
    };
    Ok(domains.iter().map(|domain| authenticated(matcher(domain))).collect())
}

fn namespace(text: &str) -> Principal {
    let name = regex::escape(text).replace("\\*", ".*");
    authenticated(parts::matching(&format!(".*/ns/{name}/.*")))
}

fn address(text: &str) -> Conditions<Principal> {
    let range = text
        .parse::<ipnet::IpNet>()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
        .map_err(|_| Inexpressible)?;
    let range = parts::range(&range);
    Ok(vec![Principal { identifier: Some(principal::Identifier::DirectRemoteIp(range)) }])
}

/// `*` for anything, `*end`, `start*`, or all of it.
fn pattern(text: &str) -> StringMatcher {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => parts::matching(".+"),
        (Some(end), _) => parts::suffix(end),
        (None, Some(start)) => parts::prefix(start),
        (None, None) => parts::exact(text),
    }
}

fn operation(of: &Operation, target: Target<'_>) -> Conditions<Permission> {
    let mut all = Vec::new();
    let header = |name: &'static str, ignore_case: bool| {
        move |text: &str| match target.http {
            true => Ok(header_permission(name, StringMatcher { ignore_case, ..pattern(text) })),
            false => Err(Inexpressible),
        }
    };
    either_call(&mut all, &of.hosts, &of.not_hosts, header(":authority", true))?;
    either_call(&mut all, &of.methods, &of.not_methods, header(":method", false))?;
    either_call(&mut all, &of.paths, &of.not_paths, |text| path(text, target))?;
    either_call(&mut all, &of.ports, &of.not_ports, port)?;
    Ok(all)
}

fn header_permission(name: &str, text: StringMatcher) -> Permission {
    Permission {
        rule: Some(permission::Rule::Header(HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(text)),
            ..HeaderMatcher::default()
        })),
    }
}

fn path(text: &str, target: Target<'_>) -> Result<Permission, Inexpressible> {
    if !target.http {
        return Err(Inexpressible);
    }
    let matcher = match text.contains('{') {
        true => {
            let escaped = regex::escape(text);
            let rest = escaped.replace("\\{\\*\\*\\}", ".*").replace("\\{\\*\\}", "[^/]+");
            parts::matching(&rest)
        }
        false => pattern(text),
    };
    let path = PathMatcher { rule: Some(path_matcher::Rule::Path(matcher)) };
    Ok(Permission { rule: Some(permission::Rule::UrlPath(path)) })
}

fn port(text: &str) -> Result<Permission, Inexpressible> {
    let number = text.parse::<u16>().map_err(|_| Inexpressible)?;
    Ok(Permission { rule: Some(permission::Rule::DestinationPort(u32::from(number))) })
}

type When = (Vec<Principal>, Vec<Permission>);

fn when(of: &Condition, target: Target<'_>) -> Result<When, Inexpressible> {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let (values, not) = (&of.values, &of.not_values);
    let of_header = of.key.strip_prefix("request.headers[").and_then(|it| it.strip_suffix(']'));
    match of.key.as_str() {
        "source.ip" => either(&mut from, values, not, address)?,
        "source.namespace" => either(&mut from, values, not, |text| Ok(vec![namespace(text)]))?,
        "source.principal" => either(&mut from, values, not, |text| principals(text, target))?,
        "destination.port" => either_call(&mut to, values, not, port)?,
        "connection.sni" => either_call(&mut to, values, not, |text| {
            let rule = permission::Rule::RequestedServerName(pattern(text));
            Ok(Permission { rule: Some(rule) })
        })?,
        _ => match of_header.filter(|_| target.http) {
            Some(name) => either_call(&mut to, values, not, |text| {
                Ok(header_permission(name, pattern(text)))
            })?,
            None => return Err(Inexpressible),
        },
    }
    Ok((from, to))
}

fn any_id(ids: Vec<Principal>) -> Principal {
    Principal { identifier: Some(principal::Identifier::OrIds(principal::Set { ids })) }
}

fn all_ids(ids: Vec<Principal>) -> Principal {
    let identifier = match ids.is_empty() {
        true => principal::Identifier::Any(true),
        false => principal::Identifier::AndIds(principal::Set { ids }),
    };
    Principal { identifier: Some(identifier) }
}

fn any_rule(rules: Vec<Permission>) -> Permission {
    Permission { rule: Some(permission::Rule::OrRules(permission::Set { rules })) }
}

fn all_rules(rules: Vec<Permission>) -> Permission {
    let rule = match rules.is_empty() {
        true => permission::Rule::Any(true),
        false => permission::Rule::AndRules(permission::Set { rules }),
    };
    Permission { rule: Some(rule) }
}
