//! What the agent is told by its environment, in Istio's names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tombolo_tls::key::KeyKind;
use tombolo_tls::spiffe::{SpiffeId, TrustDomain};

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Beside a workload.
    Sidecar,
    /// Alone, as a gateway.
    Router,
}

impl Role {
    /// The word in the node's id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// Everything the agent goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    /// The DNS domain that completes short names.
    pub domain: String,
    pub pod: String,
    pub namespace: String,
    pub ips: Vec<IpAddr>,
    pub identity: SpiffeId,
    pub ca_address: String,
    pub discovery_address: String,
    pub cluster: String,
    /// Becomes the node's metadata.
    pub metadata: BTreeMap<String, Value>,
    pub ports: Ports,
    pub files: Files,
    pub key_kind: KeyKind,
    pub certificate_lifetime: Duration,
    /// After which part of its lifetime a certificate is replaced.
    pub rotate_after: f64,
    pub drain: Duration,
    /// Wait for connections to end, rather than a fixed time.
    pub wait_for_connections: bool,
    /// Threads for traffic.
    pub concurrency: usize,
    /// Probes of the application's containers, by path.
    pub probes: BTreeMap<String, Value>,
    /// Where the application's own metrics are, as the pod's annotations said.
    pub app_metrics: Option<AppMetrics>,
}

/// The agent's own ports.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub admin: u16,
    pub status: u16,
    pub ready: u16,
    pub metrics: u16,
}

/// Files the pod brings along.
#[derive(Clone, Debug)]
pub struct Files {
    pub token: PathBuf,
    pub root: PathBuf,
    pub labels: PathBuf,
    pub annotations: PathBuf,
    pub revocations: PathBuf,
}

/// Where an application serves its metrics.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct AppMetrics {
    #[serde(default)]
    pub scrape: String,
    #[serde(default)]
    pub scheme: String,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub port: String,
}

/// The part of Istio's ProxyConfig that concerns the agent; the rest is read by the injector.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    discovery_address: Option<String>,
    concurrency: Option<usize>,
    termination_drain_duration: Option<String>,
    status_port: Option<u16>,
    proxy_admin_port: Option<u16>,
    proxy_metadata: BTreeMap<String, String>,
}

/// Everything that is wrong with the environment.
#[derive(Debug, thiserror::Error)]
#[error("invalid settings:\n  {}", .0.join("\n  "))]
pub struct Invalid(pub Vec<String>);

/// Reads variables and collects what is wrong with them.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is not set"));
            String::new()
        })
    }

    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("{name}={text}: {error}"));
                None
            }
        }
    }
}

impl Settings {
    /// Reads the environment. `variables` lists all of it; files are looked for under `root`.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn read(
        role: Role,
        domain: Option<String>,
        variables: &BTreeMap<String, String>,
        root: &std::path::Path,
    ) -> Result<Self, Invalid> {
        let get = |name: &str| variables.get(name).cloned();
        let mut reader = Reader { get: &get, problems: Vec::new() };
        let config: ProxyConfig = reader
            .parsed("PROXY_CONFIG", |text| {
                serde_saphyr::from_str(text).map_err(|error| error.to_string())
            })
            .unwrap_or_default();
        // Variables of the proxy's metadata count like variables of the process.
        let merged: BTreeMap<String, String> = config
            .proxy_metadata
            .iter()
            .chain(variables)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let get = |name: &str| merged.get(name).cloned();
        let mut reader = Reader { get: &get, problems: reader.problems };
        let (pod, namespace) = (reader.required("POD_NAME"), reader.required("POD_NAMESPACE"));
        let ips = reader.required("INSTANCE_IP");
        let ips = parse_ips(&ips, &mut reader.problems);
        let discovery =
            config.discovery_address.unwrap_or_else(|| "istiod.istio-system.svc:15012".to_owned());
        let identity = identity(&mut reader, &namespace);
        let metadata = metadata(&merged, &mut reader);
        let cluster = metadata.get("CLUSTER_ID").and_then(Value::as_str).unwrap_or("Kubernetes");
        let cluster = cluster.to_owned();
        let settings = Self {
            role,
            domain: domain.unwrap_or_else(|| format!("{namespace}.svc.cluster.local")),
            pod,
            ips,
            identity: match identity {
                Some(identity) => identity,
                None => return Err(Invalid(reader.problems)),
            },
            ca_address: reader.text("CA_ADDR").unwrap_or_else(|| discovery.clone()),
            discovery_address: discovery,
            cluster,
            metadata,
            ports: Ports {
                admin: config.proxy_admin_port.unwrap_or(15000),
                status: config.status_port.unwrap_or(15020),
                ready: reader.parsed("ENVOY_STATUS_PORT", number).unwrap_or(15021),
                metrics: reader.parsed("ENVOY_PROMETHEUS_PORT", number).unwrap_or(15090),
            },
            files: files(root, &reader),
            key_kind: key_kind(&mut reader),
            certificate_lifetime: reader
                .parsed("SECRET_TTL", go_duration)
                .unwrap_or(Duration::from_secs(24 * 3600)),
            rotate_after: 1.0
                - reader.parsed("SECRET_GRACE_PERIOD_RATIO", number).unwrap_or(0.5_f64),
            drain: config
                .termination_drain_duration
                .as_deref()
                .map(go_duration)
                .transpose()
                .unwrap_or_else(|error| {
                    reader.problems.push(format!("terminationDrainDuration: {error}"));
                    None
                })
                .unwrap_or(Duration::from_secs(5)),
            wait_for_connections: reader
                .parsed("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", number)
                .unwrap_or(false),
            concurrency: concurrency(config.concurrency, &mut reader),
            probes: reader.parsed("ISTIO_KUBE_APP_PROBERS", json).unwrap_or_default(),
            app_metrics: reader.parsed("ISTIO_PROMETHEUS_ANNOTATIONS", json),
            namespace,
        };
        match reader.problems.is_empty() {
            true => Ok(settings),
            false => Err(Invalid(reader.problems)),
        }
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|error: T::Err| error.to_string())
}

fn json<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn parse_ips(text: &str, problems: &mut Vec<String>) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse() {
            Ok(ip) => ips.push(ip),
            Err(error) => problems.push(format!("INSTANCE_IP={part}: {error}")),
        }
    }
    ips
}

fn identity(reader: &mut Reader<'_>, namespace: &str) -> Option<SpiffeId> {
    let domain = reader.text("TRUST_DOMAIN").unwrap_or_else(|| "cluster.local".to_owned());
    let account = reader.text("SERVICE_ACCOUNT").unwrap_or_else(|| "default".to_owned());
    let id =
        TrustDomain::new(&domain).and_then(|domain| SpiffeId::new(domain, namespace, &account));
    id.inspect_err(|error| {
        reader.problems.push(format!("TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT: {error}"));
    })
    .ok()
}

fn files(root: &std::path::Path, reader: &Reader<'_>) -> Files {
    let secrets = root.join("var/run/secrets");
    let pod = root.join("etc/istio/pod");
    let given = |name: &str, default: PathBuf| reader.text(name).map_or(default, PathBuf::from);
    Files {
        token: secrets.join("tokens/istio-token"),
        root: given("XDS_ROOT_CA", secrets.join("istio/root-cert.pem")),
        labels: pod.join("labels"),
        annotations: pod.join("annotations"),
        revocations: secrets.join("istio/crl/ca-crl.pem"),
    }
}

fn key_kind(reader: &mut Reader<'_>) -> KeyKind {
    let ecdsa = reader.text("ECC_SIGNATURE_ALGORITHM").is_some();
    match (
        ecdsa,
        reader.text("ECC_CURVE").as_deref(),
        reader.text("WORKLOAD_RSA_KEY_SIZE").as_deref(),
    ) {
        (true, Some("P384"), _) => KeyKind::P384,
        (false, _, Some("2048")) => KeyKind::Rsa2048,
        (false, _, Some("3072")) => KeyKind::Rsa3072,
        (false, _, Some("4096")) => KeyKind::Rsa4096,
        (false, _, Some(other)) => {
            let problem = format!("WORKLOAD_RSA_KEY_SIZE={other}: must be 2048, 3072 or 4096");
            reader.problems.push(problem);
            KeyKind::P256
        }
        _ => KeyKind::P256,
    }
}

/// The threads for traffic: as configured, or as many as the container may use; 0 means all cores.
fn concurrency(configured: Option<usize>, reader: &mut Reader<'_>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(2, usize::from);
    let limit = reader.parsed("ISTIO_CPU_LIMIT", number);
    match configured.or(limit) {
        Some(0) => cores(),
        Some(threads) => threads.min(cores()),
        None => cores().min(2),
    }
}

/// `ISTIO_META_X` becomes `X`; `ISTIO_METAJSON_X` is an object whose fields are taken over.
fn metadata(
    variables: &BTreeMap<String, String>,
    reader: &mut Reader<'_>,
) -> BTreeMap<String, Value> {
    let mut metadata = BTreeMap::new();
    for (name, value) in variables {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), Value::String(value.clone()));
        } else if name.starts_with("ISTIO_METAJSON_") {
            let fields: Option<BTreeMap<String, Value>> = reader.parsed(name, json);
            metadata.extend(fields.unwrap_or_default());
        }
    }
    metadata
}

/// A duration in Go's form, such as `5s`, `1m30s` or `500ms`.
pub fn go_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 5s or 1m30s");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    if rest == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let seconds = match &after[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = &after[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_injected_environment_is_read() {
        let environment = variables(&[
            ("POD_NAME", "helloworld-v1-abc"),
            ("POD_NAMESPACE", "sample"),
            ("INSTANCE_IP", "10.10.0.7"),
            ("SERVICE_ACCOUNT", "helloworld"),
            ("CA_ADDR", "istiod.istio-system.svc:15012"),
            (
                "PROXY_CONFIG",
                "{\"discoveryAddress\":\"istiod.other.svc:15012\",\"terminationDrainDuration\":\"7s\",\"meshId\":\"mesh1\"}\n",
            ),
            ("ISTIO_META_CLUSTER_ID", "cluster02"),
            ("ISTIO_META_NETWORK", "network2"),
            ("ISTIO_METAJSON_X", "{\"A\": {\"b\": 1}}"),
        ]);
        let settings =
            Settings::read(Role::Sidecar, None, &environment, std::path::Path::new("/")).unwrap();
        assert_eq!(settings.identity.to_string(), "spiffe://cluster.local/ns/sample/sa/helloworld");
        assert_eq!(settings.discovery_address, "istiod.other.svc:15012");
        assert_eq!(settings.cluster, "cluster02");
        assert_eq!(settings.drain, Duration::from_secs(7));
        assert_eq!(settings.domain, "sample.svc.cluster.local");
        let keys: Vec<_> = settings.metadata.keys().map(String::as_str).collect();
        assert_eq!(keys, ["A", "CLUSTER_ID", "NETWORK"]);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let environment = variables(&[
            ("POD_NAMESPACE", "sample"),
            ("INSTANCE_IP", "ten"),
            ("SECRET_TTL", "soon"),
        ]);
        let invalid = Settings::read(Role::Router, None, &environment, std::path::Path::new("/"));
        let want = "invalid settings:\n  POD_NAME is not set\n  \
                    INSTANCE_IP=ten: invalid IP address syntax\n  \
                    SECRET_TTL=soon: `soon` is not a duration such as 5s or 1m30s";
        assert_eq!(invalid.unwrap_err().to_string(), want);
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(go_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(go_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(go_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert!(go_duration("5").is_err());
    }
}
