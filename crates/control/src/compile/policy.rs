//! Which DestinationRule holds for a service, and what it says for one of its ports or subsets.

use std::collections::BTreeSet;

use tombolo_crds::networking::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, Subset,
    TrafficPolicy,
};
use tombolo_model::id::ObjectName;
use tombolo_model::service::{Service, Visibility};

use crate::compile::scope::{Scope, has_all};
use crate::index::config::Configured;

/// The rules that hold for one service, merged.
#[derive(Debug)]
pub(crate) struct Rule<'a> {
    /// The oldest of them.
    pub(crate) name: &'a ObjectName,
    /// The parts of the service that they name.
    pub(crate) subsets: Vec<&'a Subset>,
    policy: Option<&'a TrafficPolicy>,
}

/// What holds for one port of a service or of a subset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy<'a> {
    pub(crate) balancer: Option<&'a LoadBalancer>,
    pub(crate) pool: Option<&'a ConnectionPool>,
    pub(crate) outliers: Option<&'a OutlierDetection>,
    pub(crate) tls: Option<&'a ClientTls>,
}

/// The rule for a service: of the client's namespace, else of the service's, else of the root.
pub(crate) fn rule_of<'a>(scope: &Scope<'a>, service: &Service) -> Option<Rule<'a>> {
    let root = scope.picture.mesh.config.root_namespace.as_str();
    let client = scope.proxy.namespace();
    let mut stages = Vec::new();
    if client != root {
        stages.push(client);
    }
    stages.push(&service.object.namespace);
    stages.push(root);
    stages.into_iter().find_map(|namespace| in_namespace(scope, service, namespace))
}

fn in_namespace<'a>(scope: &Scope<'a>, service: &Service, namespace: &str) -> Option<Rule<'a>> {
    let domain = &scope.picture.domain;
    let rules = scope.picture.config.destination_rules.iter().filter(|rule| {
        rule.namespace() == namespace
            && holds_for(scope, rule)
            && service.host.is_within(&rule.host(&rule.spec.host, domain))
    });
    let rules: Vec<_> = rules.collect();
    let specific = |rule: &&Configured<DestinationRule>| {
        let host = rule.host(&rule.spec.host, domain);
        (!host.is_wildcard(), host.as_str().len())
    };
    let best = rules.iter().copied().map(|rule| specific(&rule)).max()?;
    let mut rules: Vec<_> = rules.into_iter().filter(|rule| specific(rule) == best).collect();
    if rules.iter().any(|rule| rule.spec.workload_selector.is_some()) {
        rules.retain(|rule| rule.spec.workload_selector.is_some());
    }
    let mut names = BTreeSet::new();
    let subsets = rules.iter().flat_map(|rule| &rule.spec.subsets);
    Some(Rule {
        name: &rules.first()?.name,
        subsets: subsets.filter(|subset| names.insert(&subset.name)).collect(),
        policy: rules.iter().find_map(|rule| rule.spec.traffic_policy.as_ref()),
    })
}

fn holds_for(scope: &Scope<'_>, rule: &Configured<DestinationRule>) -> bool {
    let proxy = scope.proxy;
    let own = rule.namespace() == proxy.namespace();
    if let Some(selector) = &rule.spec.workload_selector {
        return own && has_all(&proxy.labels, &selector.labels);
    }
    let values = match rule.spec.export_to.as_slice() {
        [] => &scope.picture.mesh.config.default_destination_rule_export_to,
        values => values,
    };
    let values = values.iter().map(String::as_str);
    own || Visibility::parse(values, rule.namespace()).includes(proxy.namespace())
}

impl<'a> Rule<'a> {
    /// The part of the service called `name`.
    pub(crate) fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.subsets.iter().find(|subset| subset.name == name).copied()
    }

    /// What holds for a port, of the subset if one is given.
    pub(crate) fn policy(&self, port: u16, subset: &str) -> Policy<'a> {
        let mut policy = self.policy.map(|policy| on_port(policy, port)).unwrap_or_default();
        let over = self.subset(subset).and_then(|subset| subset.traffic_policy.as_ref());
        if let Some(over) = over.map(|policy| on_port(policy, port)) {
            policy.balancer = over.balancer.or(policy.balancer);
            policy.pool = over.pool.or(policy.pool);
            policy.outliers = over.outliers.or(policy.outliers);
            policy.tls = over.tls.or(policy.tls);
        }
        policy
    }
}

/// A policy on one port. Settings of the port replace those of the whole entirely.
fn on_port(policy: &TrafficPolicy, port: u16) -> Policy<'_> {
    let of_port = policy
        .port_level_settings
        .iter()
        .find(|setting| setting.port.as_ref().is_some_and(|selector| selector.number == port));
    match of_port {
        Some(setting) => Policy {
            balancer: setting.load_balancer.as_ref(),
            pool: setting.connection_pool.as_ref(),
            outliers: setting.outlier_detection.as_ref(),
            tls: setting.tls.as_ref(),
        },
        None => Policy {
            balancer: policy.load_balancer.as_ref(),
            pool: policy.connection_pool.as_ref(),
            outliers: policy.outlier_detection.as_ref(),
            tls: policy.tls.as_ref(),
        },
    }
}

/// The policy for a port of a service, with the mesh's defaults for what no rule sets.
pub(crate) fn policy_of<'a>(
    scope: &Scope<'a>,
    rule: Option<&Rule<'a>>,
    port: u16,
    subset: &str,
) -> Policy<'a> {
    let mut policy = rule.map(|rule| rule.policy(port, subset)).unwrap_or_default();
    if let Some(default) = &scope.picture.mesh.config.default_traffic_policy {
        policy.pool = policy.pool.or(default.connection_pool.as_ref());
        policy.outliers = policy.outliers.or(default.outlier_detection.as_ref());
    }
    policy
}
