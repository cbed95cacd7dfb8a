//! `proxy-status POD`: what a control plane would send against what the proxy has.

use serde_json::Value;
use similar::TextDiff;

use crate::inspect::dump::{Dump, DumpError, array, text};

/// Lines around a difference.
const CONTEXT: usize = 7;

/// The verdict on upstreams, listeners and routes, each with a unified diff where they differ.
///
/// # Errors
/// When a dump lacks a section.
pub fn report(istiod: &Dump, proxy: &Dump) -> Result<String, DumpError> {
    let mut out = String::new();
    for (what, kind, note) in [
        ("Clusters", "ClustersConfigDump", String::new()),
        ("Listeners", "ListenersConfigDump", String::new()),
        ("Routes", "RoutesConfigDump", last_loaded(proxy)),
    ] {
        let (ours, theirs) = (lines(istiod, kind)?, lines(proxy, kind)?);
        if ours == theirs {
            out.push_str(&format!("{what} Match{note}\n"));
            continue;
        }
        let diff = TextDiff::from_lines(&ours, &theirs);
        let mut diff = diff.unified_diff();
        diff.context_radius(CONTEXT).header(&format!("Istiod {what}"), &format!("Envoy {what}"));
        out.push_str(&format!("{what} Don't Match{note}\n{diff}\n"));
    }
    Ok(out)
}

/// The dynamic resources of a section without versions and times, sorted, one field a line.
fn lines(dump: &Dump, kind: &'static str) -> Result<String, DumpError> {
    let mut all = match kind {
        "ClustersConfigDump" => dump.messages(kind, &[("dynamicActiveClusters", "/cluster")])?,
        "ListenersConfigDump" => {
            dump.messages(kind, &[("dynamicListeners", "/activeState/listener")])?
        }
        _ => dump.messages(kind, &[("dynamicRouteConfigs", "/routeConfig")])?,
    };
    all.sort_by(|a, b| text(a, "/name").cmp(text(b, "/name")));
    for message in &mut all {
        // The order of virtual hosts means nothing.
        if let Some(hosts) = message.get_mut("virtualHosts").and_then(Value::as_array_mut) {
            hosts.sort_by(|a, b| text(a, "/name").cmp(text(b, "/name")));
        }
        message.sort_all_objects();
    }
    let mut lines = serde_json::to_string_pretty(&all)?;
    lines.push('\n');
    Ok(lines)
}

/// When the proxy got the newest of its route tables, for people.
fn last_loaded(proxy: &Dump) -> String {
    let Ok(section) = proxy.section("RoutesConfigDump") else { return String::new() };
    let tables = array(section, "dynamicRouteConfigs").iter();
    let times = tables.filter_map(|table| text(table, "/lastUpdated").parse().ok());
    match times.max() {
        Some(at) => {
            let at: jiff::Timestamp = at;
            let at = at.to_zoned(jiff::tz::TimeZone::system());
            format!(" (RDS last loaded at {})", at.strftime("%a, %d %b %Y %H:%M:%S %Z"))
        }
        None => String::new(),
    }
}
