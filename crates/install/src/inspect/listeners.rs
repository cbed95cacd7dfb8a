//! `proxy-config listener`: the listeners of a proxy and where their filter chains lead.

use serde_json::Value;

use crate::inspect::dump::{Dump, DumpError, array, number, text, texts};
use crate::inspect::table::{NARROW, Table};

const HTTP: &str = "envoy.filters.network.http_connection_manager";
const TCP: &str = "envoy.filters.network.tcp_proxy";
const BLACK_HOLE: &str = "BlackHoleCluster";

/// Sets of application protocols that have a name of their own.
const PROTOCOLS: [(&str, &[&str]); 4] = [
    (
        "App: HTTP TLS",
        &["http/1.0", "http/1.1", "h2c", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
    ),
    ("App: Istio HTTP Plain", &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"]),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
];

/// Which listeners are shown; an empty field lets all pass.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub address: String,
    pub port: u16,
    /// `HTTP`, `TCP`, `HTTP+TCP` or `UNKNOWN`.
    pub kind: String,
}

impl Filter {
    fn passes(&self, listener: &Value) -> bool {
        let same = |address: &&str| address.eq_ignore_ascii_case(&self.address);
        (self.address.is_empty() || addresses(listener).iter().any(same))
            && (self.port == 0 || port(listener) == u64::from(self.port))
            && (self.kind.is_empty() || kind(listener).eq_ignore_ascii_case(&self.kind))
    }
}

/// The listeners that pass, in the dump's order.
///
/// # Errors
/// When the dump has no listeners at all.
pub fn list(dump: &Dump, filter: &Filter) -> Result<Vec<Value>, DumpError> {
    let lists = [("dynamicListeners", "/activeState/listener"), ("staticListeners", "/listener")];
    let mut all = dump.messages("ListenersConfigDump", &lists)?;
    if all.is_empty() {
        return Err(DumpError::Empty("listeners"));
    }
    all.retain(|listener| filter.passes(listener));
    Ok(all)
}

/// The table: a line for each filter chain, or without `verbose` for each listener.
pub fn table(listeners: &[Value], verbose: bool, typed: bool) -> String {
    let skipped = usize::from(!typed);
    let headings: &[&str] = if verbose {
        &["NAME", "ADDRESSES", "PORT", "MATCH", "DESTINATION"]
    } else {
        &["NAME", "ADDRESSES", "PORT", "TYPE"]
    };
    let mut table = Table::new(NARROW, &headings[skipped..]);
    let mut sorted: Vec<&Value> = listeners.iter().collect();
    sorted.sort_by_key(|it| (port(it), addresses(it).first().copied().unwrap_or(""), kind(it)));
    for listener in sorted {
        let name = format!("listener/{}", text(listener, "/name"));
        let (addresses, port) = (addresses(listener).join(","), port(listener).to_string());
        if !verbose {
            table.row(&[name, addresses, port, kind(listener).to_owned()][skipped..]);
            continue;
        }
        let mut chains: Vec<(String, String)> = chains(listener)
            .map(|chain| (destination(chain), matches(chain.get("filterChainMatch"))))
            .collect();
        chains.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (destination, matches) in chains {
            let cells = [name.clone(), addresses.clone(), port.clone(), matches, destination];
            table.row(&cells[skipped..]);
        }
    }
    table.finish()
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    array(listener, "filterChains").iter().chain(listener.get("defaultFilterChain"))
}

fn addresses(listener: &Value) -> Vec<&str> {
    let main = match text(listener, "/address/socketAddress/address") {
        "" => text(listener, "/address/pipe/path"),
        address => address,
    };
    let more = array(listener, "additionalAddresses").iter();
    let more = more.map(|entry| text(entry, "/address/socketAddress/address"));
    std::iter::once(main).chain(more).collect()
}

fn port(listener: &Value) -> u64 {
    number(listener, "/address/socketAddress/portValue")
}

fn is_black_hole(filter: &Value) -> bool {
    filter.get("typedConfig").is_some_and(|config| config.to_string().contains(BLACK_HOLE))
}

/// What a listener takes, by the filters of its chains.
fn kind(listener: &Value) -> &'static str {
    let (mut http, mut tcp) = (false, false);
    for filter in chains(listener).flat_map(|chain| array(chain, "filters")) {
        match text(filter, "/name") {
            HTTP => http = true,
            TCP => tcp |= !is_black_hole(filter),
            _ => (),
        }
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

/// What a connection must be like to take a filter chain.
fn matches(rule: Option<&Value>) -> String {
    let rule = rule.unwrap_or(&Value::Null);
    let mut parts = Vec::new();
    let names = texts(rule, "serverNames");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(rule, "/transportProtocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = texts(rule, "applicationProtocols");
    if !protocols.is_empty() {
        let named = PROTOCOLS.iter().find(|(_, set)| *set == protocols);
        parts.push(match named {
            Some((name, _)) => (*name).to_owned(),
            None => format!("App: {}", protocols.join(",")),
        });
    }
    let port = rule.get("destinationPort").map(|port| format!(":{port}"));
    let ranges = array(rule, "prefixRanges").iter();
    let ranges: Vec<String> = ranges
        .map(|range| format!("{}/{}", text(range, "/addressPrefix"), number(range, "/prefixLen")))
        .collect();
    match (ranges.is_empty(), port) {
        (false, port) => {
            parts.push(format!("Addr: {}{}", ranges.join(","), port.unwrap_or_default()));
        }
        (true, Some(port)) => parts.push(format!("Addr: *{port}")),
        (true, None) => (),
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

/// Where a filter chain leads.
fn destination(chain: &Value) -> String {
    for filter in array(chain, "filters") {
        let config = filter.get("typedConfig").unwrap_or(&Value::Null);
        match text(filter, "/name") {
            HTTP => {
                if let Some(routes) = config.get("routeConfig") {
                    return inline_routes(routes);
                }
                return match text(config, "/rds/routeConfigName") {
                    "" => "HTTP".to_owned(),
                    name => format!("Route: {name}"),
                };
            }
            TCP if !is_black_hole(filter) => return upstream(text(config, "/cluster")),
            _ => (),
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

/// The special upstreams, such as `PassthroughCluster`, say by their names what they are.
fn upstream(name: &str) -> String {
    if name.contains("Cluster") { name.to_owned() } else { format!("Cluster: {name}") }
}

fn inline_routes(routes: &Value) -> String {
    let hosts = array(routes, "virtualHosts");
    if let [host] = hosts
        && texts(host, "domains") == ["*"]
        && let [route] = array(host, "routes")
        && text(route, "/match/prefix") == "/"
        && let Some(name) = route.pointer("/route/cluster").and_then(Value::as_str)
    {
        return upstream(name);
    }
    let describe = |host: &Value| {
        let routes = array(host, "routes").iter();
        let routes: Vec<String> = routes
            .map(|route| describe_match(route.get("match").unwrap_or(&Value::Null)))
            .collect();
        match texts(host, "domains").as_slice() {
            [] | ["*"] => routes.join(", "),
            domains => format!("{} {}", domains.join("/"), routes.join(", ")),
        }
    };
    let hosts: Vec<String> = hosts.iter().map(describe).collect();
    format!("Inline Route: {}", hosts.join("; "))
}

/// Which paths a route takes. Headers are not told.
pub fn describe_match(rule: &Value) -> String {
    let parts = [
        ("/prefix", "", "*"),
        ("/pathSeparatedPrefix", "PathPrefix:", ""),
        ("/path", "", ""),
        ("/safeRegex/regex", "regex ", ""),
    ];
    let parts = parts.iter().filter_map(|(pointer, before, after)| match text(rule, pointer) {
        "" => None,
        value => Some(format!("{before}{value}{after}")),
    });
    parts.collect::<Vec<_>>().join(" ")
}
