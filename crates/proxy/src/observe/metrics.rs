//! Istio's standard metrics, with Istio's names and labels.
//!
//! The other side of a request is known by its certificate and, for upstream endpoints, by the
//! workload name that discovery sends along.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Who sends and receives traffic, as labels say it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub principal: Arc<str>,
    pub app: Arc<str>,
    pub version: Arc<str>,
    pub cluster: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
}

impl Workload {
    /// A workload of which nothing is known.
    pub fn unknown() -> Self {
        let unknown: Arc<str> = "unknown".into();
        Self {
            name: unknown.clone(),
            namespace: unknown.clone(),
            principal: unknown.clone(),
            app: unknown.clone(),
            version: unknown.clone(),
            cluster: unknown.clone(),
            canonical_name: unknown,
            canonical_revision: "latest".into(),
        }
    }

    /// The workload of an endpoint: `name;namespace;canonical name;canonical revision;cluster`.
    pub fn of_endpoint(text: Option<&str>, principal: Option<&Arc<str>>) -> Self {
        let mut workload = Self::of_peer(principal);
        let parts: Vec<&str> = text.unwrap_or_default().split(';').collect();
        if let [name, namespace, canonical, revision, cluster] = parts.as_slice() {
            let set = |field: &mut Arc<str>, value: &str| {
                if !value.is_empty() {
                    *field = value.into();
                }
            };
            set(&mut workload.name, name);
            set(&mut workload.namespace, namespace);
            set(&mut workload.canonical_name, canonical);
            set(&mut workload.app, canonical);
            set(&mut workload.canonical_revision, revision);
            set(&mut workload.cluster, cluster);
        }
        workload
    }

    /// The workload behind a SPIFFE identity: its namespace is part of the name.
    pub fn of_peer(principal: Option<&Arc<str>>) -> Self {
        let mut workload = Self::unknown();
        if let Some(principal) = principal {
            let namespace = principal.split("/ns/").nth(1).and_then(|rest| rest.split('/').next());
            if let Some(namespace) = namespace {
                workload.namespace = namespace.into();
            }
            workload.principal = principal.clone();
        }
        workload
    }
}

/// Which side reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    Source,
    Destination,
}

/// A service as metrics name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// What stands for a name that is not known.
const UNKNOWN: &str = "unknown";
/// How many hosts of unknown services have series of their own, for each reporter.
const MOST_HOSTS: usize = 100;
/// `UNAUTHENTICATED`, the last status code of gRPC.
const MOST_GRPC_STATUS: u8 = 16;

/// The labels of one series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    pub reporter: Reporter,
    pub source: Workload,
    pub destination: Workload,
    pub service: Arc<str>,
    pub service_name: Arc<str>,
    pub service_namespace: Arc<str>,
    pub protocol: &'static str,
    /// 0 for TCP.
    pub status: u16,
    pub grpc_status: Arc<str>,
    pub flags: Arc<str>,
    pub mutual_tls: Option<bool>,
}

impl Labels {
    /// The names of a service; where it is not known, `host` stands for it.
    pub fn service(service: Option<&Service>, host: impl FnOnce() -> Arc<str>) -> [Arc<str>; 3] {
        match service {
            Some(service) => {
                [&service.host, &service.name, &service.namespace].map(|t| t.as_str().into())
            }
            None => {
                let host = host();
                [host.clone(), host, UNKNOWN.into()]
            }
        }
    }

    /// A `grpc-status` as a label. What is no status code of gRPC counts as its `UNKNOWN`, 2.
    pub fn grpc_status(text: Option<&str>) -> Arc<str> {
        let Some(text) = text else { return "".into() };
        let code = text.parse::<u8>().ok().filter(|code| *code <= MOST_GRPC_STATUS);
        code.unwrap_or(2).to_string().into()
    }
}

/// All series of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    http: Mutex<HashMap<Labels, Arc<HttpSeries>>>,
    tcp: Mutex<HashMap<Labels, Arc<TcpSeries>>>,
    /// Hosts of requests to unknown services, by who reports them.
    hosts: Mutex<HashMap<Reporter, HashSet<Arc<str>>>>,
}

#[derive(Debug, Default)]
struct HttpSeries {
    requests: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// The counters of one kind of TCP connection.
#[derive(Debug, Default)]
pub struct TcpSeries {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// Envoy's default buckets.
const BUCKETS: [f64; 20] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
    f64::INFINITY,
];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    sum: AtomicU64,
}

impl Histogram {
    fn observe(&self, value: u64) {
        let index = BUCKETS.iter().position(|bound| value as f64 <= *bound).unwrap_or(0);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let mut count = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "{name}_sum{{{labels}}} {}", self.sum.load(Ordering::Relaxed))?;
        writeln!(out, "{name}_count{{{labels}}} {count}")
    }
}

impl Metrics {
    /// Counts a request that has ended.
    pub fn request(&self, labels: &Labels, millis: u64, request_bytes: u64, response_bytes: u64) {
        let series = series(&self.http, labels);
        series.requests.fetch_add(1, Ordering::Relaxed);
        series.duration.observe(millis);
        series.request_bytes.observe(request_bytes);
        series.response_bytes.observe(response_bytes);
    }

    /// The label for a host that a client named. Clients can name any number of hosts, and each
    /// takes memory for ever: beyond the first [`MOST_HOSTS`] all are one.
    pub fn host(&self, reporter: Reporter, authority: Option<&str>) -> Arc<str> {
        let Some(authority) = authority else { return UNKNOWN.into() };
        let mut hosts = self.hosts.lock();
        let known = hosts.entry(reporter).or_default();
        if let Some(known) = known.get(authority) {
            return known.clone();
        }
        if known.len() >= MOST_HOSTS {
            return UNKNOWN.into();
        }
        let host: Arc<str> = authority.into();
        known.insert(host.clone());
        host
    }

    /// The counters for a TCP connection.
    pub fn tcp(&self, labels: &Labels) -> Arc<TcpSeries> {
        series(&self.tcp, labels)
    }

    /// Everything, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let http = sorted(&self.http);
        let tcp = sorted(&self.tcp);
        // Writing to a string does not fail.
        let written = write_http(&mut out, &http).and_then(|()| write_tcp(&mut out, &tcp));
        debug_assert!(written.is_ok());
        out
    }
}

fn series<S: Default>(all: &Mutex<HashMap<Labels, Arc<S>>>, labels: &Labels) -> Arc<S> {
    let mut all = all.lock();
    if let Some(series) = all.get(labels) {
        return series.clone();
    }
    all.entry(labels.clone()).or_default().clone()
}

fn sorted<S>(all: &Mutex<HashMap<Labels, Arc<S>>>) -> Vec<(String, Arc<S>)> {
    let mut list: Vec<_> =
        all.lock().iter().map(|(labels, series)| (labels.to_string(), series.clone())).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

fn write_http(out: &mut String, series: &[(String, Arc<HttpSeries>)]) -> std::fmt::Result {
    if series.is_empty() {
        return Ok(());
    }
    writeln!(out, "# TYPE istio_requests_total counter")?;
    for (labels, series) in series {
        let requests = series.requests.load(Ordering::Relaxed);
        writeln!(out, "istio_requests_total{{{labels}}} {requests}")?;
    }
    type Part = fn(&HttpSeries) -> &Histogram;
    let histograms: [(&str, Part); 3] = [
        ("istio_request_duration_milliseconds", |series| &series.duration),
        ("istio_request_bytes", |series| &series.request_bytes),
        ("istio_response_bytes", |series| &series.response_bytes),
    ];
    for (name, histogram) in histograms {
        writeln!(out, "# TYPE {name} histogram")?;
        for (labels, series) in series {
            histogram(series).write(out, name, labels)?;
        }
    }
    Ok(())
}

fn write_tcp(out: &mut String, series: &[(String, Arc<TcpSeries>)]) -> std::fmt::Result {
    if series.is_empty() {
        return Ok(());
    }
    type Part = fn(&TcpSeries) -> &AtomicU64;
    let counters: [(&str, Part); 4] = [
        ("istio_tcp_connections_opened_total", |series| &series.opened),
        ("istio_tcp_connections_closed_total", |series| &series.closed),
        ("istio_tcp_sent_bytes_total", |series| &series.sent),
        ("istio_tcp_received_bytes_total", |series| &series.received),
    ];
    for (name, counter) in counters {
        writeln!(out, "# TYPE {name} counter")?;
        for (labels, series) in series {
            writeln!(out, "{name}{{{labels}}} {}", counter(series).load(Ordering::Relaxed))?;
        }
    }
    Ok(())
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reporter = match self.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        write!(f, "reporter=\"{reporter}\"")?;
        for (side, workload) in [("source", &self.source), ("destination", &self.destination)] {
            let labels = [
                ("workload", &workload.name),
                ("workload_namespace", &workload.namespace),
                ("principal", &workload.principal),
                ("app", &workload.app),
                ("version", &workload.version),
                ("cluster", &workload.cluster),
                ("canonical_service", &workload.canonical_name),
                ("canonical_revision", &workload.canonical_revision),
            ];
            for (name, value) in labels {
                write!(f, ",{side}_{name}=\"{}\"", Escaped(value))?;
            }
        }
        write!(f, ",destination_service=\"{}\"", Escaped(&self.service))?;
        write!(f, ",destination_service_name=\"{}\"", Escaped(&self.service_name))?;
        write!(f, ",destination_service_namespace=\"{}\"", Escaped(&self.service_namespace))?;
        write!(f, ",request_protocol=\"{}\"", self.protocol)?;
        if self.protocol != "tcp" {
            write!(f, ",response_code=\"{}\"", self.status)?;
            write!(f, ",grpc_response_status=\"{}\"", Escaped(&self.grpc_status))?;
        }
        let security = match self.mutual_tls {
            Some(true) => "mutual_tls",
            Some(false) => "none",
            None => "unknown",
        };
        write!(f, ",response_flags=\"{}\",connection_security_policy=\"{security}\"", self.flags)
    }
}

/// A label value with the characters escaped that would end it.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_any_number_of_series() {
        let metrics = Metrics::default();
        let hosts = (0..100_000).map(|number| format!("host{number}"));
        let labels: HashSet<Arc<str>> =
            hosts.map(|host| metrics.host(Reporter::Destination, Some(&host))).collect();
        assert_eq!(labels.len(), MOST_HOSTS + 1);
        assert_eq!(&*metrics.host(Reporter::Destination, Some("host7")), "host7");
        assert_eq!(&*metrics.host(Reporter::Source, Some("new")), "new");
        let status = |text| Labels::grpc_status(Some(text)).to_string();
        assert_eq!(["0", "16", "17", "x\"", ""].map(status), ["0", "16", "2", "2", "2"]);
    }
}
