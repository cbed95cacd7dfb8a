//! How many replicas each ReplicaSet of a Deployment should have next. Pure.
//!
//! A rolling update keeps `wanted - maxUnavailable` pods available and never asks for more than
//! `wanted + maxSurge`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::controllers::deployment::revision;

/// New sizes by ReplicaSet name.
pub(super) type Plan = BTreeMap<String, i32>;

/// What the arithmetic needs to know of a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) wanted: i32,
    pub(super) available: i32,
    /// The largest total that its Deployment had when this set was last sized.
    pub(super) most: i32,
}

impl Set {
    pub(super) fn of(set: &ReplicaSet) -> Self {
        let available = set.status.as_ref().and_then(|status| status.available_replicas);
        Self {
            name: set.name_any(),
            wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            available: available.unwrap_or(0),
            most: revision::most_replicas(set).unwrap_or(0),
        }
    }
}

/// How one template follows another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Recreate,
    Rolling { surge: IntOrString, unavailable: IntOrString },
}

impl Strategy {
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let strategy = spec.strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Self::Recreate;
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let quarter = || IntOrString::String("25%".into());
        Self::Rolling {
            surge: rolling.max_surge.unwrap_or_else(quarter),
            unavailable: rolling.max_unavailable.unwrap_or_else(quarter),
        }
    }

    /// Pods above `wanted` that an update may have. Percentages are rounded up.
    pub(super) fn surge(&self, wanted: i32) -> i32 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { surge, .. } => scaled(surge, wanted, true),
        }
    }

    /// Pods below `wanted` that an update may have. Percentages are rounded down; if nothing may
    /// be added and nothing removed, one may be removed, or the update would never move.
    pub(super) fn unavailable(&self, wanted: i32) -> i32 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { unavailable, .. } => {
                let most = scaled(unavailable, wanted, false).min(wanted);
                if most == 0 && self.surge(wanted) == 0 && wanted > 0 { 1 } else { most }
            }
        }
    }
}

/// A number, or a share of `total`. What does not parse counts as nothing, as the API server has
/// validated it.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let hundredths = percent * i64::from(total);
            let rounded =
                if round_up { (hundredths + 99).div_euclid(100) } else { hundredths / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

fn sum(sets: &[Set]) -> i32 {
    sets.iter().map(|set| set.wanted).sum()
}

/// How large the new set, now `new`, may be beside the old ones.
pub(super) fn grow(strategy: &Strategy, wanted: i32, old: &[Set], new: i32) -> i32 {
    match strategy {
        Strategy::Recreate => wanted,
        Strategy::Rolling { .. } => {
            let room = wanted + strategy.surge(wanted) - sum(old) - new;
            if room <= 0 { new } else { new + room.min(wanted - new) }
        }
    }
}

/// The next size of the new set in a rolling update.
pub(super) fn scale_new(strategy: &Strategy, wanted: i32, old: &[Set], new: &Set) -> Plan {
    let next = match new.wanted.cmp(&wanted) {
        std::cmp::Ordering::Equal => return Plan::new(),
        std::cmp::Ordering::Greater => wanted,
        std::cmp::Ordering::Less => grow(strategy, wanted, old, new.wanted),
    };
    Plan::from([(new.name.clone(), next)])
}

/// The next sizes of the old sets, oldest first, in a rolling update: first what does not serve
/// anyway, then as many serving pods as the rest can spare.
pub(super) fn scale_old(strategy: &Strategy, wanted: i32, old: &[Set], new: &Set) -> Plan {
    let must_serve = wanted - strategy.unavailable(wanted);
    let new_not_serving = new.wanted - new.available;
    let mut spare = sum(old) + new.wanted - must_serve - new_not_serving;
    let mut plan = Plan::new();
    if sum(old) == 0 || spare <= 0 {
        return plan;
    }
    let mut left = old.to_vec();
    for set in &mut left {
        let idle = (set.wanted - set.available).min(spare).max(0);
        set.wanted -= idle;
        spare -= idle;
        if idle > 0 {
            plan.insert(set.name.clone(), set.wanted);
        }
    }
    let serving: i32 = left.iter().map(|set| set.available).sum::<i32>() + new.available;
    let mut spare = serving - must_serve;
    for set in &mut left {
        let fewer = set.wanted.min(spare).max(0);
        spare -= fewer;
        if fewer > 0 {
            plan.insert(set.name.clone(), set.wanted - fewer);
        }
    }
    plan
}

/// Every set down to nothing.
pub(super) fn to_zero(sets: &[Set]) -> Plan {
    sets.iter().filter(|set| set.wanted > 0).map(|set| (set.name.clone(), 0)).collect()
}

/// What a changed number of replicas means when the template has not changed, or while paused:
/// one active set gets it all; a rollout in flight is scaled in proportion.
pub(super) fn rescale(strategy: &Strategy, wanted: i32, old: &[Set], new: Option<Set>) -> Plan {
    let active: Vec<_> = old.iter().filter(|set| set.wanted > 0).collect();
    let new_active = new.as_ref().is_some_and(|set| set.wanted > 0);
    let only = match (active.as_slice(), new_active) {
        ([], _) => new.as_ref().or(old.last()),
        ([one], false) => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return Plan::from([(only.name.clone(), wanted)]);
    }
    let saturated = new.as_ref().is_some_and(|set| set.wanted == wanted && set.available == wanted);
    if saturated {
        return to_zero(old);
    }
    match strategy {
        Strategy::Recreate => Plan::new(),
        Strategy::Rolling { .. } => proportional(strategy, wanted, old, new),
    }
}

fn proportional(strategy: &Strategy, wanted: i32, old: &[Set], new: Option<Set>) -> Plan {
    let mut sets: Vec<Set> = old.iter().cloned().chain(new).filter(|set| set.wanted > 0).collect();
    let total = sum(&sets);
    let most = if wanted > 0 { wanted + strategy.surge(wanted) } else { 0 };
    let mut left = most - total;
    if left == 0 {
        return Plan::new();
    }
    // Growing starts with the largest and newest, shrinking with the largest and oldest.
    let growing = left > 0;
    if growing {
        sets.reverse();
    }
    sets.sort_by_key(|set| std::cmp::Reverse(set.wanted));
    let mut plan = Plan::new();
    for set in &sets {
        let before = if set.most > 0 { set.most } else { total };
        let share = rounded(f64::from(set.wanted) * f64::from(most) / f64::from(before));
        let change = share - set.wanted;
        let change = if growing { change.clamp(0, left) } else { change.clamp(left, 0) };
        left -= change;
        plan.insert(set.name.clone(), set.wanted + change);
    }
    if let Some(first) = sets.first().and_then(|set| plan.get_mut(&set.name)) {
        *first = (*first + left).max(0);
    }
    plan
}

#[expect(clippy::cast_possible_truncation, reason = "replica counts are far below the limit")]
fn rounded(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rolling(surge: &str, unavailable: &str) -> Strategy {
        let value = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.into()),
        };
        Strategy::Rolling { surge: value(surge), unavailable: value(unavailable) }
    }

    fn set(name: &str, wanted: i32, available: i32) -> Set {
        Set { name: name.into(), wanted, available, most: 0 }
    }

    fn plan(sizes: &[(&str, i32)]) -> Plan {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    #[test]
    fn percentages_of_surge_round_up_and_of_unavailability_round_down() {
        let quarter = rolling("25%", "25%");
        assert_eq!((quarter.surge(10), quarter.unavailable(10)), (3, 2));
        assert_eq!((quarter.surge(1), quarter.unavailable(1)), (1, 0));
        let stuck = rolling("0", "0%");
        assert_eq!((stuck.surge(4), stuck.unavailable(4)), (0, 1));
    }

    #[test]
    fn a_rolling_update_of_ten_walks_within_its_limits_to_the_end() {
        let strategy = rolling("25%", "25%");
        let (mut old, mut new) = (set("old", 10, 10), set("new", 0, 0));
        let mut steps = 0;
        while old.wanted > 0 || new.wanted < 10 {
            let up = scale_new(&strategy, 10, std::slice::from_ref(&old), &new);
            new.wanted = up.get("new").copied().unwrap_or(new.wanted);
            let down = scale_old(&strategy, 10, std::slice::from_ref(&old), &new);
            old.wanted = down.get("old").copied().unwrap_or(old.wanted);
            old.available = old.wanted;
            assert!(old.wanted + new.wanted <= 13, "{old:?} {new:?}");
            assert!(old.available + new.available >= 8, "{old:?} {new:?}");
            new.available = new.wanted;
            steps += 1;
            assert!(steps < 20, "no end: {old:?} {new:?}");
        }
        assert_eq!((old.wanted, new.wanted), (0, 10));
    }

    #[test]
    fn pods_that_do_not_serve_are_replaced_first() {
        let strategy = rolling("1", "1");
        let old = [set("v1", 3, 3), set("broken", 2, 0)];
        let down = scale_old(&strategy, 4, &old, &set("v3", 1, 1));
        assert_eq!(down, plan(&[("broken", 0), ("v1", 2)]));
    }

    #[test]
    fn nothing_is_removed_while_the_new_pods_do_not_serve() {
        let strategy = rolling("1", "0");
        assert_eq!(scale_old(&strategy, 3, &[set("v1", 3, 3)], &set("v2", 1, 0)), Plan::new());
    }

    #[test]
    fn a_changed_size_goes_to_the_only_active_set_or_is_shared_in_proportion() {
        let strategy = rolling("25%", "25%");
        let one = rescale(&strategy, 5, &[set("v1", 0, 0)], Some(set("v2", 3, 3)));
        assert_eq!(one, plan(&[("v2", 5)]));
        let both = rescale(&strategy, 20, &[set("v1", 8, 8)], Some(set("v2", 5, 0)));
        assert_eq!(both.values().sum::<i32>(), 25);
        assert_eq!(both, plan(&[("v1", 15), ("v2", 10)]));
        let down = rescale(&strategy, 0, &[set("v1", 8, 8)], Some(set("v2", 5, 0)));
        assert_eq!(down, plan(&[("v1", 0), ("v2", 0)]));
    }
}
