//! One metrics port for application and proxy: the proxy's, which asks the application too.

use serde_json::{Value, json};

use crate::inject::container::put;
use crate::inject::decide::texts;
use crate::inject::probes::proxy_mut;
use crate::inject::{Context, Refused, list, object};

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";
const VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
/// Ports of the proxy, which cannot be the application's.
const RESERVED: [&str; 8] =
    ["15000", "15001", "15004", "15006", "15008", "15020", "15021", "15090"];
const MERGED_PATH: &str = "/stats/prometheus";

/// Points scrapers at the proxy and tells the proxy where the application's own metrics are.
/// `before` is what an earlier injection found there.
pub(crate) fn merge(
    context: &Context<'_>,
    pod: &mut Value,
    before: Option<String>,
) -> Result<(), Refused> {
    let own = texts(pod, "annotations");
    let is = |key: &str, word: &str| own.get(key).is_some_and(|text| text == word);
    if !context.mesh.enable_prometheus_merge
        || context.settings.status_port == 0
        || is("prometheus.istio.io/merge-metrics", "false")
        || is(SCRAPE, "false")
    {
        return Ok(());
    }
    let ours = context.settings.status_port.to_string();
    let merged = is(PORT, &ours) && is(PATH, MERGED_PATH);
    let target = if merged {
        before
    } else if own.contains_key(SCRAPE) {
        let port = own.get(PORT).cloned().unwrap_or_default();
        if RESERVED.contains(&port.as_str()) {
            return Err(Refused::Annotation {
                name: PORT.into(),
                value: port,
                problem: "is a port of the proxy, which the application cannot have".into(),
            });
        }
        let text = |key: &str| own.get(key).cloned().unwrap_or_default();
        let mut target = json!({"scrape": text(SCRAPE), "path": text(PATH), "port": port});
        if own.contains_key(SCHEME) {
            target["scheme"] = text(SCHEME).into();
        }
        Some(target.to_string())
    } else {
        None
    };
    if let (Some(target), Some(proxy)) = (target, proxy_mut(pod)) {
        put(list(proxy, "env"), VARIABLE, &target);
    }
    let annotations = object(&mut pod["metadata"], "annotations");
    annotations.insert(SCRAPE.into(), "true".into());
    annotations.insert(PORT.into(), ours.into());
    annotations.insert(PATH.into(), MERGED_PATH.into());
    annotations.remove(SCHEME);
    Ok(())
}
