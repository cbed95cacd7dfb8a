//! `/healthz`, `/livez`, `/readyz` and `/version`.

use serde_json::json;

use crate::api::Api;
use crate::request::Call;
use crate::respond::{self, Response};

/// The Kubernetes version whose behaviour this server follows.
pub const VERSION: &str = "v1.36.3";

/// Answers the paths named above.
pub fn serve(api: &Api, call: &Call) -> Option<Response> {
    let path = call.info.path.trim_end_matches('/');
    let (endpoint, check) = match path.split('/').collect::<Vec<_>>()[..] {
        ["", "version"] => return Some(version()),
        ["", endpoint @ ("healthz" | "livez" | "readyz")] => (endpoint, None),
        ["", endpoint @ ("healthz" | "livez" | "readyz"), check] => (endpoint, Some(check)),
        _ => return None,
    };
    let mut checks = vec![("ping", true), ("store", api.store.is_writable())];
    if endpoint == "readyz" {
        checks.push(("shutdown", !api.shutdown.is_draining()));
    }
    if let Some(wanted) = check {
        checks.retain(|(name, _)| *name == wanted);
        if checks.is_empty() {
            return None;
        }
    }
    let healthy = checks.iter().all(|(_, ok)| *ok);
    if healthy && call.query.get("verbose").is_none() {
        return Some(respond::text(200, "ok"));
    }
    let mut text = String::new();
    for (name, ok) in checks {
        text += &if ok { format!("[+]{name} ok\n") } else { format!("[-]{name} failed\n") };
    }
    let verdict = if healthy { "passed" } else { "failed" };
    text += &format!("{endpoint} check {verdict}\n");
    Some(respond::text(if healthy { 200 } else { 500 }, text))
}

fn version() -> Response {
    respond::json(
        200,
        &json!({
            "major": "1",
            "minor": "36",
            "emulationMajor": "1",
            "emulationMinor": "36",
            "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "35",
            "gitVersion": format!("{VERSION}+tombolo"),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "",
            "compiler": "rustc",
            "platform": concat!("linux/", "amd64"),
        }),
    )
}
