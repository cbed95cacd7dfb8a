//! `proxy-config bootstrap`: what a proxy was started with.

use std::fmt::Write as _;

use serde_json::Value;

use crate::inspect::dump::{Dump, DumpError, number, text, without_type};
use crate::inspect::table::{NARROW, align};

const SECTION: &str = "BootstrapConfigDump";

/// The whole section.
///
/// # Errors
/// When the dump has none.
pub fn section(dump: &Dump) -> Result<Value, DumpError> {
    Ok(without_type(dump.section(SECTION)?))
}

/// Versions of Istio and of the proxy.
///
/// # Errors
/// When the dump has no bootstrap section.
pub fn table(dump: &Dump) -> Result<String, DumpError> {
    let section = dump.section(SECTION)?;
    let node = section.pointer("/bootstrap/node").unwrap_or(&Value::Null);
    let sha = text(node, "/metadata/ISTIO_PROXY_SHA");
    let sha = sha.split(':').nth(1).unwrap_or(sha);
    let mut lines = String::new();
    for (heading, value) in [
        ("Istio Version:", text(node, "/metadata/ISTIO_VERSION")),
        ("Istio Proxy Version:", sha),
        ("Envoy Version:", &build(node)),
    ] {
        if !value.is_empty() {
            writeln!(lines, "{heading}\t{value}").unwrap_or_default();
        }
    }
    Ok(align(&lines, NARROW))
}

/// `1.40.0-label/Clean/RELEASE/BoringSSL`, as far as the proxy says so.
fn build(node: &Value) -> String {
    let build = node.get("userAgentBuildVersion").unwrap_or(&Value::Null);
    let part = |name: &str| number(build, &format!("/version/{name}"));
    let (major, minor, patch) = (part("majorNumber"), part("minorNumber"), part("patch"));
    let mut out = format!("{major}.{minor}.{patch}");
    let metadata = build.get("metadata").unwrap_or(&Value::Null);
    for (key, before) in
        [("build.label", '-'), ("revision.status", '/'), ("build.type", '/'), ("ssl.version", '/')]
    {
        if let Some(value) = metadata.get(key).and_then(Value::as_str) {
            out.push(before);
            out.push_str(value);
        }
    }
    out
}
