//! Fields of a pod that containers may read: `fieldRef` and `resourceFieldRef`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What the node knows that the pod object does not say yet.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub pod_ip: String,
    pub host_ip: String,
    /// What the node has, for limits that are not set.
    pub cpus: u64,
    pub memory: u64,
}

/// The value of a `fieldRef`; none when it names no field that containers may read.
pub(crate) fn field(pod: &Pod, facts: &Facts, path: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let meta = &pod.metadata;
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.node_name.clone(),
        "spec.serviceAccountName" => Some(spec.service_account_name.clone().unwrap_or_default()),
        "status.podIP" | "status.podIPs" => Some(facts.pod_ip.clone()),
        "status.hostIP" | "status.hostIPs" => Some(facts.host_ip.clone()),
        _ => {
            let (field, key) = path.strip_suffix("']")?.split_once("['")?;
            match field {
                "metadata.labels" => entry(&meta.labels, key),
                "metadata.annotations" => entry(&meta.annotations, key),
                _ => None,
            }
        }
    }
}

/// A map as the downward API writes it: sorted lines of `key="value"`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines =
        map.into_iter().flatten().map(|(key, value)| format!("{key}=\"{}\"", escaped(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// `value` as Go quotes it.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            letter if letter.is_control() => {
                text.push_str(&format!("\\x{:02x}", u32::from(letter)));
            }
            letter => text.push(letter),
        }
    }
    text
}

/// The value of a `resourceFieldRef` of a container.
///
/// # Errors
/// A text that says what is wrong with it.
pub(crate) fn resource(
    container: &Container,
    facts: &Facts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let (kind, name) = selector.resource.split_once('.').unwrap_or((&selector.resource, ""));
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let get = |map: Option<&BTreeMap<String, Quantity>>| map.and_then(|map| map.get(name)).cloned();
    let node = match name {
        "cpu" => Some(facts.cpus.to_string()),
        "memory" => Some(facts.memory.to_string()),
        _ => None,
    };
    let value = match kind {
        "limits" => get(limits).or_else(|| node.map(Quantity)),
        "requests" => get(requests).or_else(|| get(limits)).or_else(|| Some(Quantity("0".into()))),
        _ => {
            return Err(format!(
                "resource `{}` is neither limits.NAME nor requests.NAME",
                selector.resource
            ));
        }
    };
    let value = value.unwrap_or_else(|| Quantity("0".into()));
    let amount =
        quantity(&value.0).ok_or_else(|| format!("quantity `{}` does not parse", value.0))?;
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor = quantity(divisor).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok(amount.div_ceil(divisor).to_string())
}

/// A quantity in thousandths.
pub(crate) fn quantity(text: &str) -> Option<u128> {
    let split =
        text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    // Scaled by a thousand beforehand; "m" takes that back.
    let scale: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part_value: u128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let tenths = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    whole.checked_mul(scale)?.checked_add(part_value.checked_mul(scale)?.div_ceil(tenths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_thousandths() {
        let read: Vec<_> =
            ["2", "500m", "1.5", "1Ki", "128Mi", "1k", "x"].into_iter().map(quantity).collect();
        assert_eq!(
            read,
            [
                Some(2000),
                Some(500),
                Some(1500),
                Some(1_024_000),
                Some(134_217_728_000),
                Some(1_000_000),
                None
            ]
        );
    }

    #[test]
    fn labels_are_sorted_quoted_lines() {
        let labels = BTreeMap::from([
            ("b".to_owned(), "say \"x\"".to_owned()),
            ("a".to_owned(), "1".to_owned()),
        ]);
        assert_eq!(lines(Some(&labels)), "a=\"1\"\nb=\"say \\\"x\\\"\"");
    }
}
