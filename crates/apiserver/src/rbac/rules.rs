//! One RBAC rule: what it matches, and which rules together cover another.
//!
//! Pure functions over plain values; the wildcards are those of Kubernetes: `*` for every verb,
//! group, resource or path, `*/sub` for a subresource of every resource, `/prefix/*` for paths.

use serde::{Deserialize, Serialize};

use crate::quote::go_quote_list;
use crate::request::RequestInfo;

/// A `PolicyRule` of a Role or ClusterRole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "null_is_empty")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(
        rename = "nonResourceURLs",
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub non_resource_urls: Vec<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    /// Whether this rule allows what `info` asks for.
    pub fn allows(&self, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return has_or_all(&self.verbs, &info.verb) && self.matches_path(&info.path);
        }
        has_or_all(&self.verbs, &info.verb)
            && has_or_all(&self.api_groups, &info.group)
            && self.matches_resource(info)
            && self.matches_name(&info.name)
    }

    fn matches_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|pattern| path_matches(pattern, path))
    }

    fn matches_resource(&self, info: &RequestInfo) -> bool {
        let combined = combined_resource(info);
        self.resources.iter().any(|own| {
            own == "*"
                || *own == combined
                || (!info.subresource.is_empty()
                    && own.strip_prefix("*/").is_some_and(|sub| sub == info.subresource))
        })
    }

    fn matches_name(&self, name: &str) -> bool {
        self.resource_names.is_empty() || self.resource_names.iter().any(|own| own == name)
    }

    /// The rule as Kubernetes' messages print it.
    pub fn compact(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", go_quote_list(values)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// Splits a rule into rules with one value per field, so that covering can be judged each.
    fn pieces(&self) -> Vec<Self> {
        let mut pieces = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let piece = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                        continue;
                    }
                    pieces.extend(
                        self.resource_names.iter().map(|name| Self {
                            resource_names: vec![name.clone()],
                            ..piece.clone()
                        }),
                    );
                }
            }
        }
        for url in &self.non_resource_urls {
            pieces.extend(self.verbs.iter().map(|verb| Self {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Self::default()
            }));
        }
        pieces
    }

    /// Whether this rule alone allows everything that the one-valued rule `piece` allows.
    fn covers(&self, piece: &Self) -> bool {
        let all =
            |own: &[String], wanted: &[String]| wanted.iter().all(|value| has_or_all(own, value));
        all(&self.verbs, &piece.verbs)
            && all(&self.api_groups, &piece.api_groups)
            && piece.resources.iter().all(|wanted| self.covers_resource(wanted))
            && (self.resource_names.is_empty()
                || (!piece.resource_names.is_empty()
                    && piece.resource_names.iter().all(|name| self.resource_names.contains(name))))
            && piece
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|own| path_matches(own, url)))
    }

    fn covers_resource(&self, wanted: &str) -> bool {
        has_or_all(&self.resources, wanted)
            || wanted.split_once('/').is_some_and(|(_, sub)| {
                self.resources.iter().any(|own| own.strip_prefix("*/") == Some(sub))
            })
    }
}

/// `resource` or `resource/subresource`, as rules name it.
pub fn combined_resource(info: &RequestInfo) -> String {
    if info.subresource.is_empty() {
        info.resource.clone()
    } else {
        format!("{}/{}", info.resource, info.subresource)
    }
}

fn has_or_all(own: &[String], wanted: &str) -> bool {
    own.iter().any(|value| value == "*" || value == wanted)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// The parts of `wanted` that `owned` does not allow, one value per field.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::pieces)
        .filter(|piece| !owned.iter().any(|own| own.covers(piece)))
        .collect()
}

/// Joins rules that differ only in their verbs, in the order in which they first appear.
pub fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = rule.resources.len() == 1
            && rule.api_groups.len() == 1
            && rule.non_resource_urls.is_empty();
        let same = |own: &&mut Rule| {
            own.resources == rule.resources
                && own.api_groups == rule.api_groups
                && own.resource_names == rule.resource_names
                && own.non_resource_urls.is_empty()
        };
        match out.iter_mut().find(same).filter(|_| simple) {
            Some(own) => own.verbs.extend(rule.verbs.iter().cloned()),
            None => out.push(rule.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(text: &str) -> Vec<String> {
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| part.replace("core", ""))
            .collect()
    }

    /// `verbs groups resources [names]`, or `verbs /path`.
    fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split(' ').collect();
        if words[1].starts_with('/') {
            return Rule {
                verbs: strings(words[0]),
                non_resource_urls: strings(words[1]),
                ..Rule::default()
            };
        }
        Rule {
            verbs: strings(words[0]),
            api_groups: words[1].split(',').map(|group| group.replace("core", "")).collect(),
            resources: strings(words[2]),
            resource_names: words.get(3).map(|names| strings(names)).unwrap_or_default(),
            ..Rule::default()
        }
    }

    fn attributes(verb: &str, group: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn wildcards_match_what_they_say() {
        let check = |text: &str, verb, group, resource, name, want: bool| {
            assert_eq!(rule(text).allows(&attributes(verb, group, resource, name)), want, "{text}");
        };
        check("get,list core pods", "get", "", "pods", "a", true);
        check("get,list core pods", "get", "", "pods/log", "a", false);
        check("get,list core pods", "get", "apps", "pods", "a", false);
        check("* * *", "delete", "apps", "deployments/scale", "", true);
        check("get core */log", "get", "", "pods/log", "a", true);
        check("get core */log", "get", "", "pods", "a", false);
        check("get core pods a,b", "get", "", "pods", "b", true);
        check("get core pods a,b", "get", "", "pods", "", false);
    }

    #[test]
    fn paths_match_whole_or_by_prefix() {
        let path = |path: &str| RequestInfo {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..RequestInfo::default()
        };
        assert!(rule("get /healthz").allows(&path("/healthz")));
        assert!(!rule("get /healthz").allows(&path("/healthz/etcd")));
        assert!(rule("get /healthz/*").allows(&path("/healthz/etcd")));
    }

    #[test]
    fn what_is_not_covered_is_named_piece_by_piece() {
        let owned = [rule("get,list core pods"), rule("* apps deployments a")];
        let wanted = [rule("get,delete,update core pods"), rule("get apps deployments a,b")];
        let missing = compact(&missing(&owned, &wanted));
        let printed: Vec<String> = missing.iter().map(Rule::compact).collect();
        assert_eq!(
            printed,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "update"]}"#,
                r#"{APIGroups:["apps"], Resources:["deployments"], ResourceNames:["b"], Verbs:["get"]}"#,
            ]
        );
    }
}
