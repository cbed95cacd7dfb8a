//! Whether a pod gets a proxy.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde_json::Value;

use crate::inject::config::{InjectorConfig, Policy};

const INJECT: &str = "sidecar.istio.io/inject";
/// Namespaces of the cluster itself.
const NEVER: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Whether the pod shall have a proxy, by its own word, the selectors and the policy.
pub(crate) fn required(config: &InjectorConfig, pod: &Value, namespace: &str) -> bool {
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true)
        || NEVER.contains(&namespace)
    {
        return false;
    }
    let labels = texts(pod, "labels");
    let annotations = texts(pod, "annotations");
    let word = labels.get(INJECT).or_else(|| annotations.get(INJECT)).map(String::as_str);
    let asked = match word {
        Some("true") => Some(true),
        Some("false") => Some(false),
        _ => None,
    };
    let by_default = || {
        if config.never.iter().any(|selector| selects(selector, &labels)) {
            false
        } else if config.always.iter().any(|selector| selects(selector, &labels)) {
            true
        } else {
            config.policy == Policy::Enabled
        }
    };
    asked.unwrap_or_else(by_default)
}

/// The labels or annotations of a pod.
pub(crate) fn texts(pod: &Value, field: &str) -> BTreeMap<String, String> {
    let found = pod.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    found.map(|found| found.iter().filter_map(text).collect()).unwrap_or_default()
}

/// An empty selector selects nothing here: it would otherwise switch the policy off by accident.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    let is_empty =
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && expressions.is_empty();
    !is_empty
        && equal.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.iter().all(|expression| holds(expression, labels))
}

fn holds(expression: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = expression.values.as_deref().unwrap_or_default();
    let value = labels.get(&expression.key);
    match expression.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(key: &str, value: &str) -> LabelSelector {
        let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        LabelSelector { match_labels: Some(labels), match_expressions: None }
    }

    #[test]
    fn the_pods_word_counts_before_selectors_and_selectors_before_the_policy() {
        let config = |policy| InjectorConfig {
            policy,
            never: vec![selector("job", "yes"), LabelSelector::default()],
            always: vec![selector("mesh", "yes")],
            ..InjectorConfig::default()
        };
        let pod = |labels: Value, annotations: Value| json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": {}});
        let cases = [
            (pod(json!({}), json!({})), true, false),
            (pod(json!({INJECT: "true"}), json!({})), true, true),
            (pod(json!({INJECT: "false"}), json!({INJECT: "true"})), false, false),
            (pod(json!({}), json!({INJECT: "false"})), false, false),
            (pod(json!({INJECT: "maybe"}), json!({})), true, false),
            (pod(json!({"job": "yes"}), json!({})), false, false),
            (pod(json!({"job": "yes", INJECT: "true"}), json!({})), true, true),
            (pod(json!({"mesh": "yes"}), json!({})), true, true),
        ];
        for (pod, enabled, disabled) in cases {
            let got =
                [Policy::Enabled, Policy::Disabled].map(|it| required(&config(it), &pod, "a"));
            assert_eq!(got, [enabled, disabled], "{pod}");
        }
    }

    #[test]
    fn pods_of_the_host_and_of_the_cluster_are_left_alone() {
        let config = InjectorConfig::default();
        let asks = json!({"metadata": {"labels": {INJECT: "true"}}, "spec": {"hostNetwork": true}});
        assert!(!required(&config, &asks, "sample"));
        assert!(!required(&config, &json!({"spec": {}}), "kube-system"));
        assert!(required(&config, &json!({"spec": {}}), "sample"));
    }
}
