//! The order of version names: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`, then all others by
//! name, as Kubernetes orders the versions of a custom group.

use std::cmp::{Ordering, Reverse};

/// Maturity, then numbers; `None` for names that are not of the form `v1`, `v1beta2`, `v1alpha3`.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let major = major.parse().ok().filter(|major| *major > 0)?;
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (rank, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((rank, major, minor.parse().ok().filter(|minor| *minor > 0)?))
}

/// Orders the most mature version first.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => Reverse(a).cmp(&Reverse(b)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn mature_versions_come_first_and_other_names_last() {
        let mut versions =
            ["foo10", "v1alpha1", "v10", "v1beta1", "v2", "v11alpha2", "foo1", "v10beta3", "v1"];
        versions.sort_by(|a, b| super::compare(a, b));
        let want =
            ["v10", "v2", "v1", "v10beta3", "v1beta1", "v11alpha2", "v1alpha1", "foo1", "foo10"];
        assert_eq!(versions, want);
    }
}
