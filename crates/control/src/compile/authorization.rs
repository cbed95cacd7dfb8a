//! AuthorizationPolicy objects as role-based access filters.
//!
//! **Invariant: fail closed.** A condition that cannot be expressed makes an ALLOW rule match
//! nothing and a DENY rule match more (Istio: Authorization for TCP traffic). A policy whose action
//! is not implemented denies what it would have guarded.

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

/// A condition that cannot be expressed here, in words.
#[derive(Debug)]
struct Inexpressible(String);

type Conditions<T> = Result<Vec<T>, Inexpressible>;

/// What a rule is compiled for.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// Whether there are requests to look at, or only connections.
    http: bool,
    /// Whether a condition that cannot be expressed spoils the rule. Otherwise it is left out.
    strict: bool,
    trust_domains: &'a [String],
}

impl Guard {
    /// What guards a workload of the proxy's namespace with these labels.
    pub(crate) fn of(scope: &Scope<'_>, labels: &BTreeMap<String, String>) -> Self {
        let chosen = policies(scope).filter(|policy| {
            without_effect(policy).is_none()
                && policy.spec.selector.as_ref().is_none_or(|it| has_all(labels, &it.match_labels))
        });
        let (mut deny, mut allow) = (Vec::new(), Vec::new());
        for policy in chosen {
            match policy.spec.action {
                Action::Allow => allow.push(policy),
                Action::Deny | Action::Custom => deny.push(policy),
                Action::Audit => (),
            }
        }
        let trust_domains = trust_domains(scope);
        let mut guard = Self::default();
        for (http, filters) in [(true, &mut guard.http), (false, &mut guard.tcp)] {
            filters.extend(filter_of(&deny, rbac::Action::Deny, http, &trust_domains));
            filters.extend(filter_of(&allow, rbac::Action::Allow, http, &trust_domains));
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

    /// A filter that only connections reach which policies allow.
    pub(crate) fn before(&self, to: Filter) -> Vec<Filter> {
        let mut filters = self.on_connections();
        filters.push(to);
        filters
    }

    fn on_connections(&self) -> Vec<Filter> {
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

/// The policies that may hold for a workload of the proxy's namespace.
fn policies<'a>(
    scope: &Scope<'a>,
) -> impl Iterator<Item = &'a Configured<AuthorizationPolicy>> + use<'a> {
    let root = scope.picture.mesh.config.root_namespace.clone();
    let namespace = scope.proxy.namespace().to_owned();
    let all = scope.picture.config.authorization_policies.iter();
    all.filter(move |it| it.namespace() == namespace || it.namespace() == root)
}

fn trust_domains(scope: &Scope<'_>) -> Vec<String> {
    let mesh = &scope.picture.mesh.config;
    let mut all = vec![mesh.trust_domain.clone()];
    all.extend(mesh.trust_domain_aliases.iter().cloned());
    all
}

/// Why a policy guards nothing here, if so.
fn without_effect(policy: &Configured<AuthorizationPolicy>) -> Option<&'static str> {
    if policy.annotations.get("istio.io/dry-run").is_some_and(|it| it == "true") {
        return Some("it is a dry run, and dry runs are not implemented: no effect");
    }
    let elsewhere = |path: &String| path.starts_with("targetRef");
    policy.unknown.iter().any(elsewhere).then_some(
        "it is about what `targetRefs` names, and objects of the Gateway API are not implemented: \
         no effect",
    )
}

/// What users should know about the policies that may hold for workloads of the proxy's
/// namespace.
pub(crate) fn remarks(scope: &Scope<'_>) -> Vec<Diagnostic> {
    let trust_domains = trust_domains(scope);
    let mut found = Vec::new();
    for policy in policies(scope) {
        let mut say = |message: String| {
            found.push(Diagnostic {
                cluster: scope.picture.config_cluster.clone(),
                kind: String::from("AuthorizationPolicy"),
                object: policy.name.clone(),
                message,
            });
        };
        if let Some(why) = without_effect(policy) {
            say(why.to_owned());
            continue;
        }
        let effect = match policy.spec.action {
            Action::Audit => {
                say(String::from("action AUDIT is not implemented: no effect"));
                continue;
            }
            Action::Custom => {
                let message = "action CUSTOM is not implemented: what it would ask about is denied";
                say(message.to_owned());
                "more is denied"
            }
            Action::Allow => "this rule allows nothing",
            Action::Deny => "this rule denies more",
        };
        let target = Target { http: true, strict: true, trust_domains: &trust_domains };
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            for Inexpressible(what) in inexpressible(rule, target) {
                say(format!("rules[{at}]: {what}: {effect}"));
            }
        }
    }
    found
}

/// The parts of a rule that cannot be expressed.
fn inexpressible(rule: &Rule, target: Target<'_>) -> Vec<Inexpressible> {
    let from = rule.from.iter().filter_map(|it| source(&it.source, target).err());
    let to = rule.to.iter().filter_map(|it| operation(&it.operation, target).err());
    from.chain(to).chain(rule.when.iter().filter_map(|it| when(it, target).err())).collect()
}

fn filter_of(
    policies: &[&Configured<AuthorizationPolicy>],
    action: rbac::Action,
    http: bool,
    trust_domains: &[String],
) -> Option<Rbac> {
    if policies.is_empty() {
        return None;
    }
    let target = Target { http, strict: action == rbac::Action::Allow, trust_domains };
    let mut rules = BTreeMap::new();
    for policy in policies {
        let of = &policy.name;
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            // Fields that were not understood may have narrowed the rule.
            let here = format!("rules[{at}]");
            let whole = policy.unknown.iter().all(|path| !path.starts_with(&here));
            if target.strict && !whole {
                continue;
            }
            let name = format!("ns[{}]-policy[{}]-rule[{at}]", of.namespace, of.name);
            rules.extend(compile(rule, target).map(|compiled| (name, compiled)));
        }
    }
    // Denying nothing needs no filter; allowing nothing does.
    if rules.is_empty() && action == rbac::Action::Deny {
        return None;
    }
    Some(Rbac { action: action.into(), policies: rules, ..Rbac::default() })
}

/// A rule; nothing if it cannot match.
fn compile(rule: &Rule, target: Target<'_>) -> Option<Policy> {
    let callers = rule.from.iter().filter_map(|it| source(&it.source, target).map(all_ids).ok());
    let callers: Vec<_> = callers.collect();
    let calls =
        rule.to.iter().filter_map(|it| operation(&it.operation, target).map(all_rules).ok());
    let calls: Vec<_> = calls.collect();
    // Of several alternatives those that cannot be expressed are left out, but not all of them.
    if callers.is_empty() != rule.from.is_empty() || calls.is_empty() != rule.to.is_empty() {
        return None;
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    if !callers.is_empty() {
        from.push(any_id(callers));
    }
    if !calls.is_empty() {
        to.push(any_rule(calls));
    }
    for condition in &rule.when {
        match when(condition, target) {
            Ok((callers, calls)) => {
                from.extend(callers);
                to.extend(calls);
            }
            Err(Inexpressible(_)) if target.strict => return None,
            Err(Inexpressible(_)) => (),
        }
    }
    Some(Policy {
        permissions: vec![all_rules(to)],
        principals: vec![all_ids(from)],
        ..Policy::default()
    })
}

fn source(of: &Source, target: Target<'_>) -> Conditions<Principal> {
    let mut all = Vec::new();
    let named = |text: &str| principals(text, target);
    either(&mut all, target, &of.principals, &of.not_principals, named)?;
    let inside = |text: &str| Ok(vec![namespace(text)]);
    either(&mut all, target, &of.namespaces, &of.not_namespaces, inside)?;
    either(&mut all, target, &of.ip_blocks, &of.not_ip_blocks, address)?;
    Ok(all)
}

/// Adds "one of `values`" and "none of `not`".
fn either(
    all: &mut Vec<Principal>,
    target: Target<'_>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Conditions<Principal>,
) -> Result<(), Inexpressible> {
    for (list, inverted) in [(values, false), (not, true)] {
        let ids: Conditions<Vec<Principal>> = list.iter().map(|text| of(text)).collect();
        let Some(ids) = known(ids, target)? else { continue };
        let any = any_id(ids.into_iter().flatten().collect());
        all.push(match inverted {
            false => any,
            true => Principal { identifier: Some(principal::Identifier::NotId(Box::new(any))) },
        });
    }
    Ok(())
}

fn either_call(
    all: &mut Vec<Permission>,
    target: Target<'_>,
    values: &[String],
    not: &[String],
    of: impl Fn(&str) -> Result<Permission, Inexpressible>,
) -> Result<(), Inexpressible> {
    for (list, inverted) in [(values, false), (not, true)] {
        let rules: Conditions<Permission> = list.iter().map(|text| of(text)).collect();
        let Some(rules) = known(rules, target)? else { continue };
        let any = any_rule(rules);
        all.push(match inverted {
            false => any,
            true => Permission { rule: Some(permission::Rule::NotRule(Box::new(any))) },
        });
    }
    Ok(())
}

/// A list that says something; nothing where it is empty, or is left out for what it holds.
fn known<T>(list: Conditions<T>, target: Target<'_>) -> Result<Option<Vec<T>>, Inexpressible> {
    match list {
        Ok(list) => Ok(Some(list).filter(|list| !list.is_empty())),
        Err(what) if target.strict => Err(what),
        Err(Inexpressible(_)) => Ok(None),
    }
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
        .map_err(|_| Inexpressible(format!("`{text}` is no address or range")))?;
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
            false => Err(Inexpressible(format!("bytes have no {name}"))),
        }
    };
    either_call(&mut all, target, &of.hosts, &of.not_hosts, header(":authority", true))?;
    either_call(&mut all, target, &of.methods, &of.not_methods, header(":method", false))?;
    either_call(&mut all, target, &of.paths, &of.not_paths, |text| path(text, target))?;
    either_call(&mut all, target, &of.ports, &of.not_ports, port)?;
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
        return Err(Inexpressible(String::from("bytes have no path")));
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
    let number = text.parse::<u16>();
    let number = number.map_err(|_| Inexpressible(format!("`{text}` is no port")))?;
    Ok(Permission { rule: Some(permission::Rule::DestinationPort(u32::from(number))) })
}

type When = (Vec<Principal>, Vec<Permission>);

fn when(of: &Condition, target: Target<'_>) -> Result<When, Inexpressible> {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let (values, not) = (&of.values, &of.not_values);
    let of_header = of.key.strip_prefix("request.headers[").and_then(|it| it.strip_suffix(']'));
    match of.key.as_str() {
        "source.ip" => either(&mut from, target, values, not, address)?,
        "source.namespace" => {
            either(&mut from, target, values, not, |text| Ok(vec![namespace(text)]))?;
        }
        "source.principal" => {
            either(&mut from, target, values, not, |text| principals(text, target))?;
        }
        "destination.port" => either_call(&mut to, target, values, not, port)?,
        "connection.sni" => either_call(&mut to, target, values, not, |text| {
            let rule = permission::Rule::RequestedServerName(pattern(text));
            Ok(Permission { rule: Some(rule) })
        })?,
        key => match of_header.filter(|_| target.http) {
            Some(name) => either_call(&mut to, target, values, not, |text| {
                Ok(header_permission(name, pattern(text)))
            })?,
            None => return Err(Inexpressible(format!("the condition `{key}` is not implemented"))),
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
