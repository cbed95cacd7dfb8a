//! `proxy-status`: how far each proxy is with what its control plane sent.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::inspect::table::{Table, WIDE};

/// The types every table of all types has, in its order.
const CORE: [&str; 4] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
];
const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// One proxy in `/debug/syncz`.
#[derive(Clone, Debug, Deserialize)]
pub struct Proxy {
    /// `POD.NAMESPACE`.
    #[serde(rename = "proxy", default)]
    pub id: String,
    #[serde(default)]
    pub proxy_type: String,
    #[serde(rename = "cluster_id", default)]
    pub cluster: String,
    #[serde(rename = "istio_version", default)]
    pub version: String,
    /// By type URL.
    #[serde(default)]
    resources: BTreeMap<String, Resource>,
    /// `cluster_sent`, `cluster_acked` and so on: all that older control planes say.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// One type of one proxy. `sent` and `acked` are nonces.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    sent: String,
    acked: String,
    sent_time: Option<jiff::Timestamp>,
    last_error: String,
}

impl Resource {
    fn status(&self) -> &'static str {
        if !self.last_error.is_empty() {
            "ERROR"
        } else if self.sent.is_empty() {
            "NOT_SENT"
        } else if self.sent == self.acked {
            "SYNCED"
        } else {
            "STALE"
        }
    }
}

/// What one control plane says.
#[derive(Clone, Debug)]
pub struct Synced {
    pub istiod: String,
    pub version: String,
    pub proxies: Vec<Proxy>,
}

impl Proxy {
    /// The namespace of the proxy's pod.
    pub fn namespace(&self) -> &str {
        self.id.rsplit_once('.').map_or("", |(_, namespace)| namespace)
    }

    fn types(&self) -> BTreeMap<&str, Resource> {
        if !self.resources.is_empty() {
            return self.resources.iter().map(|(url, it)| (url.as_str(), it.clone())).collect();
        }
        let names = ["cluster", "listener", "endpoint", "route", "extensionconfig"];
        let text = |key: String| {
            self.others.get(&key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let read = |(url, name): (&'static str, &str)| {
            let sent = text(format!("{name}_sent"));
            let acked = text(format!("{name}_acked"));
            (!sent.is_empty()).then(|| (url, Resource { sent, acked, ..Resource::default() }))
        };
        CORE.into_iter().chain([EXTENSION]).zip(names).filter_map(read).collect()
    }
}

/// The usual short name of a type.
fn short(url: &str) -> &str {
    match url {
        "type.googleapis.com/envoy.config.cluster.v3.Cluster" => "CDS",
        "type.googleapis.com/envoy.config.listener.v3.Listener" => "LDS",
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration" => "RDS",
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" => "EDS",
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret" => "SDS",
        "type.googleapis.com/istio.networking.nds.v1.NameTable" => "NDS",
        "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig" => "PCDS",
        EXTENSION => "ECDS",
        "type.googleapis.com/istio.workload.Address" => "WADS",
        "type.googleapis.com/istio.workload.Workload" => "WDS",
        "type.googleapis.com/istio.security.Authorization" => "WAUTH",
        other => other,
    }
}

/// The types that any proxy follows: the core ones first, others by name.
fn known<'a>(all: &[(&Synced, &'a Proxy)]) -> Vec<&'a str> {
    let seen: BTreeSet<&str> =
        all.iter().flat_map(|(_, proxy)| proxy.types().into_keys()).collect();
    let core = CORE.into_iter().filter(|url| seen.contains(url));
    let others = seen.iter().copied().filter(|url| !CORE.contains(url));
    core.chain(others).collect()
}

fn sorted<'a>(all: &'a [Synced], namespace: &str) -> Vec<(&'a Synced, &'a Proxy)> {
    let each = |synced: &'a Synced| synced.proxies.iter().map(move |proxy| (synced, proxy));
    let mut proxies: Vec<_> = all.iter().flat_map(each).collect();
    proxies.retain(|(_, proxy)| namespace.is_empty() || proxy.namespace() == namespace);
    proxies.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
    proxies
}

/// The table of all proxies of `namespace` (empty for all) and the types they follow.
pub fn table(all: &[Synced], namespace: &str) -> String {
    let proxies = sorted(all, namespace);
    let known = known(&proxies);
    let mut table = Table::new(WIDE, &["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"]);
    for (synced, proxy) in &proxies {
        let types = proxy.types();
        let names: Vec<&str> =
            known.iter().filter(|url| types.contains_key(**url)).map(|url| short(url)).collect();
        let subscribed = match names.len() {
            0 => "0".to_owned(),
            count => format!("{count} ({})", names.join(",")),
        };
        table.row(&[&proxy.id, &proxy.cluster, &synced.istiod, &proxy.version, &subscribed]);
    }
    table.finish()
}

/// The table with the state of each type at the time `now`.
pub fn verbose_table(all: &[Synced], namespace: &str, now: jiff::Timestamp) -> String {
    let proxies = sorted(all, namespace);
    let mut urls: BTreeSet<&str> = known(&proxies).into_iter().collect();
    urls.extend(CORE);
    urls.insert(EXTENSION);
    let mut headings = vec!["NAME", "CLUSTER"];
    headings.extend(urls.iter().map(|url| short(url)));
    headings.extend(["ISTIOD", "VERSION"]);
    let mut table = Table::new(WIDE, &headings);
    for (synced, proxy) in &proxies {
        let types = proxy.types();
        let mut cells = vec![proxy.id.clone(), proxy.cluster.clone()];
        cells.extend(urls.iter().map(|url| match types.get(url) {
            None => "IGNORED".to_owned(),
            Some(it) if it.status() == "NOT_SENT" => "NOT SENT".to_owned(),
            Some(it) => match it.sent_time {
                Some(at) => format!("{} ({})", it.status(), age(now.duration_since(at).as_secs())),
                None => it.status().to_owned(),
            },
        }));
        cells.extend([synced.istiod.clone(), proxy.version.clone()]);
        table.row(&cells);
    }
    table.finish()
}

/// A time as kubectl writes ages: the two largest units, the second only while it matters.
fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: char, rest: i64, small: char| match rest {
        0 => format!("{large}{unit}"),
        rest => format!("{large}{unit}{rest}{small}"),
    };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// The answers in the form in which discovery itself gives them: one `DiscoveryResponse` for each
/// control plane.
pub fn documents(all: &[Synced], namespace: &str) -> Vec<Value> {
    let response = |synced: &Synced| {
        let mine = std::slice::from_ref(synced);
        let proxies = sorted(mine, namespace);
        let resources: Vec<Value> = proxies.iter().map(|(_, proxy)| client_config(proxy)).collect();
        let identifier = json!({
            "Component": "istiod", "ID": synced.istiod, "Info": {"version": synced.version},
        });
        json!({
            "resources": resources,
            "typeUrl": "istio.io/debug/syncz",
            "controlPlane": {"identifier": identifier.to_string()},
        })
    };
    all.iter().map(response).collect()
}

fn client_config(proxy: &Proxy) -> Value {
    let types = proxy.types();
    let configs: Vec<Value> = types
        .iter()
        .map(|(url, it)| {
            let mut config = json!({"typeUrl": url, "configStatus": it.status()});
            if let Some(at) = it.sent_time {
                config["lastUpdated"] = at.to_string().into();
            }
            if !it.last_error.is_empty() {
                config["errorState"] = json!({"details": it.last_error});
            }
            config
        })
        .collect();
    json!({
        "@type": "type.googleapis.com/envoy.service.status.v3.ClientConfig",
        "node": {"id": proxy.id, "metadata": {
            "CLUSTER_ID": proxy.cluster,
            "NAMESPACE": proxy.namespace(),
            "ISTIO_VERSION": proxy.version,
        }},
        "genericXdsConfigs": configs,
    })
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let ages = [5, 119, 150, 600, 10_860, 30_000, 200_000, 800_000, 70_000_000];
        let texts = ages.map(age);
        assert_eq!(texts, ["5s", "119s", "2m30s", "10m", "3h1m", "8h", "2d7h", "9d", "2y80d"]);
    }
}
