//! `proxy-config endpoint` (from `/clusters?format=json`, with the state of each endpoint) and
//! `proxy-config eds` (from the configuration dump).

use serde_json::Value;

use crate::inspect::dump::{Dump, DumpError, array, number, text};
use crate::inspect::subset_key::SubsetKey;
use crate::inspect::table::{Table, WIDE};

/// Which endpoints are shown; an empty field lets all pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub address: String,
    pub port: u16,
    /// The upstream's whole name.
    pub cluster: String,
    /// `healthy`, `unhealthy`, ...
    pub status: String,
}

impl Filter {
    fn passes(&self, upstream: &str, addresses: &[String], port: u64, status: &str) -> bool {
        let same =
            |text: &str, wanted: &str| wanted.is_empty() || text.eq_ignore_ascii_case(wanted);
        (self.address.is_empty() || addresses.iter().any(|it| same(it, &self.address)))
            && (self.port == 0 || port == u64::from(self.port))
            && same(upstream, &self.cluster)
            && same(status, &self.status)
    }
}

/// The address of an endpoint, without its port.
fn host(address: &Value) -> String {
    match text(address, "/socketAddress/address") {
        "" => match text(address, "/pipe/path") {
            "" => internal(address),
            path => format!("unix://{path}"),
        },
        ip => ip.to_owned(),
    }
}

fn internal(address: &Value) -> String {
    match text(address, "/envoyInternalAddress/serverListenerName") {
        "" => "unknown".to_owned(),
        name => format!("envoy://{name}/{}", text(address, "/envoyInternalAddress/endpointId")),
    }
}

/// The health that discovery says; what it leaves out is unknown.
fn health<'a>(value: &'a Value, pointer: &str) -> &'a str {
    match text(value, pointer) {
        "" => "UNKNOWN",
        health => health,
    }
}

/// The upstreams of `/clusters?format=json` with endpoints that pass, each as a whole.
///
/// # Errors
/// When the document is something else.
pub fn list(document: &Value, filter: &Filter) -> Result<Vec<Value>, DumpError> {
    let all = document.get("clusterStatuses").and_then(Value::as_array);
    let all = all.ok_or(DumpError::NotClusters)?;
    Ok(all.iter().filter(|upstream| hosts(upstream, filter).next().is_some()).cloned().collect())
}

fn hosts<'a>(upstream: &'a Value, filter: &'a Filter) -> impl Iterator<Item = &'a Value> {
    let name = text(upstream, "/name");
    array(upstream, "hostStatuses").iter().filter(move |it| {
        let address = it.get("address").unwrap_or(&Value::Null);
        let port = number(address, "/socketAddress/portValue");
        filter.passes(name, &[host(address)], port, health(it, "/healthStatus/edsHealthStatus"))
    })
}

/// The table of the endpoints that pass, sorted by address.
pub fn table(upstreams: &[Value], filter: &Filter) -> String {
    let mut rows = Vec::new();
    for upstream in upstreams {
        for it in hosts(upstream, filter) {
            let address = it.get("address").unwrap_or(&Value::Null);
            let ejected =
                it.pointer("/healthStatus/failedOutlierCheck") == Some(&Value::Bool(true));
            rows.push((
                host(address),
                number(address, "/socketAddress/portValue"),
                text(upstream, "/name").to_owned(),
                health(it, "/healthStatus/edsHealthStatus"),
                if ejected { "FAILED" } else { "OK" },
            ));
        }
    }
    rows.sort();
    let mut table = Table::new(WIDE, &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for (address, port, upstream, status, outlier) in rows {
        let endpoint = if port == 0 { address } else { format!("{address}:{port}") };
        table.row(&[endpoint.as_str(), status, outlier, &upstream]);
    }
    table.finish()
}

/// Assignments of the configuration dump with only the endpoints that pass.
///
/// # Errors
/// When the dump was taken without endpoints.
pub fn assignments(dump: &Dump, filter: &Filter) -> Result<Vec<Value>, DumpError> {
    let lists = [
        ("dynamicEndpointConfigs", "/endpointConfig"),
        ("staticEndpointConfigs", "/endpointConfig"),
    ];
    let mut all = dump.messages("EndpointsConfigDump", &lists)?;
    all.retain_mut(|assignment| {
        let name = text(assignment, "/clusterName").to_owned();
        let mut left = 0;
        let groups = assignment.get_mut("endpoints").and_then(Value::as_array_mut);
        for group in groups.into_iter().flatten() {
            if let Some(endpoints) = group.get_mut("lbEndpoints").and_then(Value::as_array_mut) {
                endpoints.retain(|endpoint| {
                    let port = number(endpoint, "/endpoint/address/socketAddress/portValue");
                    let status = health(endpoint, "/healthStatus");
                    filter.passes(&name, &addresses(endpoint), port, status)
                });
                left += endpoints.len();
            }
        }
        left > 0
    });
    all.sort_by_cached_key(|assignment| SubsetKey::order(text(assignment, "/clusterName")));
    Ok(all)
}

/// All addresses of an endpoint, with ports.
fn addresses(endpoint: &Value) -> Vec<String> {
    let inner = endpoint.get("endpoint").unwrap_or(&Value::Null);
    let more = array(inner, "additionalAddresses").iter().filter_map(|entry| entry.get("address"));
    let show = |address: &Value| match text(address, "/socketAddress/address") {
        "" => match text(address, "/pipe/path") {
            "" => internal(address),
            path => path.to_owned(),
        },
        ip => format!("{ip}:{}", number(address, "/socketAddress/portValue")),
    };
    inner.get("address").into_iter().chain(more).map(show).collect()
}

/// The table of assignments.
pub fn assignments_table(assignments: &[Value], typed: bool) -> String {
    let prefix = if typed { "endpoint/" } else { "" };
    let mut table = Table::new(WIDE, &["NAME", "STATUS", "LOCALITY", "CLUSTER"]);
    for assignment in assignments {
        for group in array(assignment, "endpoints") {
            let at = ["/locality/region", "/locality/zone", "/locality/subZone"];
            let at: Vec<&str> = at.iter().map(|part| text(group, part)).collect();
            let place = at.join("/");
            for endpoint in array(group, "lbEndpoints") {
                table.row(&[
                    format!("{prefix}{}", addresses(endpoint).join(",")).as_str(),
                    health(endpoint, "/healthStatus"),
                    place.trim_end_matches('/'),
                    text(assignment, "/clusterName"),
                ]);
            }
        }
    }
    table.finish()
}
