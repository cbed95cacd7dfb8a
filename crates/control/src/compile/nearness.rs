//! Which endpoints come first: failover by locality or by labels.
//!
//! Priorities are only given where unhealthy endpoints are noticed (outlier detection), since
//! otherwise a far endpoint would never be used.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_crds::networking::destination_rule::LocalityLbSetting;
use tombolo_model::endpoint::Locality;
use tombolo_xds::proto::envoy::config::endpoint::v3::LocalityLbEndpoints;

use crate::compile::parts;
use crate::compile::policy::Policy;
use crate::compile::scope::Scope;

/// How a proxy ranks the endpoints of an upstream.
pub(crate) struct Nearness<'a> {
    own: Locality,
    labels: &'a BTreeMap<String, String>,
    setting: Option<&'a LocalityLbSetting>,
    failover: bool,
}

/// The setting that holds: the rule's, else the mesh's; nothing when it is switched off.
pub(crate) fn setting<'a>(
    scope: &Scope<'a>,
    policy: &Policy<'a>,
) -> (Option<&'a LocalityLbSetting>, bool) {
    let own = policy.balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
    let setting = own.or(scope.picture.mesh.config.locality_lb_setting.as_ref());
    let enabled = setting.is_none_or(|setting| setting.enabled != Some(false));
    (setting.filter(|_| enabled), enabled)
}

/// The proxy's labels that a setting compares with those of endpoints.
pub(crate) fn labels(setting: &LocalityLbSetting) -> impl Iterator<Item = &str> {
    // Where a value is given, it takes the place of the proxy's.
    setting.failover_priority.iter().map(String::as_str).filter(|name| !name.contains('='))
}

impl<'a> Nearness<'a> {
    pub(crate) fn new(scope: &Scope<'a>, policy: &Policy<'a>) -> Self {
        let (setting, enabled) = setting(scope, policy);
        let pods = scope.picture.workloads.get(&scope.proxy.cluster);
        let known = pods.and_then(|pods| pods.get(&scope.proxy.pod));
        let own = match known {
            Some(workload) if !workload.locality.is_empty() => workload.locality.clone(),
            _ => scope.proxy.locality.clone(),
        };
        Self {
            own,
            labels: known.map_or(&scope.proxy.labels, |workload| &workload.labels),
            failover: enabled && policy.outliers.is_some(),
            setting,
        }
    }

    fn distributes(&self) -> bool {
        self.setting.is_some_and(|setting| !setting.distribute.is_empty())
    }

    /// How far an endpoint is; made dense by [`Nearness::finish`].
    pub(crate) fn priority(&self, at: &Locality, labels: &BTreeMap<&str, &str>) -> u32 {
        if !self.failover || self.distributes() {
            return 0;
        }
        let by_labels = self.setting.map_or(&[][..], |setting| &setting.failover_priority);
        if !by_labels.is_empty() {
            return self.by_labels(by_labels, labels);
        }
        if self.own.is_empty() {
            return 0;
        }
        self.by_locality(at)
    }

    fn by_locality(&self, at: &Locality) -> u32 {
        if at.region != self.own.region {
            let failover = self.setting.map_or(&[][..], |setting| &setting.failover);
            let to = failover.iter().find(|rule| rule.from == self.own.region);
            return match to {
                Some(rule) if rule.to != at.region => 4,
                _ => 3,
            };
        }
        match (at.zone == self.own.zone, at.subzone == self.own.subzone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        }
    }

    /// The first label that differs decides. A differing network counts apart: everything in the
    /// same network comes before everything in others.
    fn by_labels(&self, wanted: &[String], labels: &BTreeMap<&str, &str>) -> u32 {
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let mut far = 0;
        for (at, name) in wanted.iter().enumerate() {
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name.as_str(), self.labels.get(name).map(String::as_str)),
            };
            if labels.get(name).copied() == value {
                continue;
            }
            if at == 0 && name == "topology.istio.io/network" {
                far = count;
                continue;
            }
            return far + count - u32::try_from(at).unwrap_or(u32::MAX);
        }
        far
    }

    /// Makes priorities dense, and applies shares by locality.
    pub(crate) fn finish(&self, groups: &mut Vec<LocalityLbEndpoints>) {
        if self.distributes() {
            self.distribute(groups);
        }
        let used: BTreeSet<u32> = groups.iter().map(|group| group.priority).collect();
        let dense: BTreeMap<u32, u32> = used.into_iter().zip(0..).collect();
        for group in groups {
            group.priority = dense.get(&group.priority).copied().unwrap_or_default();
        }
    }

    fn distribute(&self, groups: &mut [LocalityLbEndpoints]) {
        let own = self.own.to_string();
        let rules = self.setting.map_or(&[][..], |setting| &setting.distribute);
        let Some(rule) = rules.iter().find(|rule| matches(&rule.from, &own)) else { return };
        let mut taken = BTreeSet::new();
        // The more specific pattern takes a group first.
        let mut shares: Vec<_> = rule.to.iter().collect();
        shares.sort_by_key(|(pattern, _)| (pattern.contains('*'), pattern.as_str()));
        let place = |group: &LocalityLbEndpoints| {
            group.locality.as_ref().map_or_else(String::new, |at| {
                let (region, zone, subzone) =
                    (at.region.clone(), at.zone.clone(), at.sub_zone.clone());
                Locality { region, zone, subzone }.to_string()
            })
        };
        for (pattern, percent) in shares {
            let chosen: Vec<usize> = (0..groups.len())
                .filter(|at| groups.get(*at).is_some_and(|it| matches(pattern, &place(it))))
                .filter(|at| taken.insert(*at))
                .collect();
            let weight = |group: Option<&LocalityLbEndpoints>| {
                group.and_then(|it| it.load_balancing_weight).map_or(0, |it| u64::from(it.value))
            };
            let total: u64 = chosen.iter().map(|at| weight(groups.get(*at))).sum();
            for at in chosen {
                let share = (weight(groups.get(at)) * u64::from(*percent)).div_ceil(total.max(1));
                if let Some(group) = groups.get_mut(at) {
                    group.load_balancing_weight =
                        parts::number(u32::try_from(share).unwrap_or(u32::MAX));
                }
            }
        }
        for (at, group) in groups.iter_mut().enumerate() {
            if !taken.contains(&at) {
                group.lb_endpoints.clear();
                group.load_balancing_weight = None;
            }
        }
    }
}

/// Whether a locality is one of a pattern's, such as `region/zone/*`.
fn matches(pattern: &str, locality: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(start) => {
            let whole = start.trim_end_matches('/');
            locality == whole || locality.starts_with(start)
        }
        None => {
            locality == pattern
                || locality.starts_with(&format!("{}/", pattern.trim_end_matches('/')))
        }
    }
}
