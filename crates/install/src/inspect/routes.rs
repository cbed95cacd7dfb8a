//! `proxy-config route`: the route tables of a proxy.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::inspect::dump::{Dump, DumpError, array, origin, text, texts};
use crate::inspect::listeners::describe_match;
use crate::inspect::table::{Table, WIDE};

/// How many domains a line names.
const MOST_DOMAINS: usize = 2;

/// The route tables, those named by port numbers first and in their order. With `name` only one.
///
/// # Errors
/// When the dump has no route tables at all.
pub fn list(dump: &Dump, name: &str) -> Result<Vec<Value>, DumpError> {
    let lists = [("dynamicRouteConfigs", "/routeConfig"), ("staticRouteConfigs", "/routeConfig")];
    let mut all = dump.messages("RoutesConfigDump", &lists)?;
    if all.is_empty() {
        return Err(DumpError::Empty("routes"));
    }
    all.sort_by_key(|table| text(table, "/name").parse::<u64>().unwrap_or(u64::MAX));
    all.retain(|table| name.is_empty() || text(table, "/name") == name);
    Ok(all)
}

/// The table: a line for each route, or without `verbose` for each route table.
pub fn table(routes: &[Value], verbose: bool, typed: bool) -> String {
    let prefix = if typed { "route/" } else { "" };
    let mut table = if verbose {
        Table::new(WIDE, &["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"])
    } else {
        Table::new(WIDE, &["NAME", "VIRTUAL HOSTS"])
    };
    for config in routes {
        let name = format!("{prefix}{}", text(config, "/name"));
        let hosts = array(config, "virtualHosts");
        if !verbose {
            table.row(&[name, hosts.len().to_string()]);
            continue;
        }
        for host in hosts {
            let domains = domains(&texts(host, "domains"));
            let mut line = |matching: String, origin: String| {
                let host = text(host, "/name").to_owned();
                table.row(&[name.clone(), host, domains.clone(), matching, origin]);
            };
            let routes = array(host, "routes");
            for route in routes.iter().filter(|route| !passes_through(route)) {
                let matching = describe_match(route.get("match").unwrap_or(&Value::Null));
                line(matching, origin(route));
            }
            if routes.is_empty() {
                line("/*".to_owned(), "404".to_owned());
            }
        }
    }
    table.finish()
}

fn passes_through(route: &Value) -> bool {
    text(route, "/route/cluster") == "PassthroughCluster"
}

/// The shortest domains without port; longer spellings of the same name are not repeated.
fn domains(all: &[&str]) -> String {
    if let [one] = all {
        return (*one).to_owned();
    }
    let without_port = |domain: &&&str| match domain.matches(':').count() {
        0 => true,
        // An IPv6 address in brackets, without a port after them.
        3.. => domain.ends_with(']'),
        _ => false,
    };
    let named: Vec<&str> = all.iter().filter(without_port).copied().collect();
    let known: BTreeSet<&str> = named.iter().copied().collect();
    let longer = |domain: &&&str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .any(|end| domain.strip_suffix(end).is_some_and(|short| known.contains(short)))
    };
    let short: Vec<&str> = named.iter().filter(|domain| !longer(domain)).copied().collect();
    match short.len().checked_sub(MOST_DOMAINS) {
        Some(more @ 1..) => {
            format!("{} + {more} more...", short[..MOST_DOMAINS].join(", "))
        }
        _ => short.join(", "),
    }
}
