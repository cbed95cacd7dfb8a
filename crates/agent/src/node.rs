//! What the control plane is told about this proxy.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::proto::google::protobuf as wkt;
use tombolo_xds::proto::google::protobuf::value::Kind;

use crate::settings::Settings;

/// The proxy that runs the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPlane {
    /// Our own.
    Tombolo,
    /// Envoy, as its vendor ships it.
    Envoy,
}

/// The node of this proxy.
pub fn node(settings: &Settings, data_plane: DataPlane) -> Node {
    let ip = settings.ips.first().map_or_else(String::new, ToString::to_string);
    let (pod, namespace) = (&settings.pod, &settings.namespace);
    let id = format!("{}~{ip}~{pod}.{namespace}~{}", settings.role.as_str(), settings.domain);
    let labels = labels(&settings.files.labels);
    let mut metadata = settings.metadata.clone();
    let mut set = |name: &str, value: Value| {
        metadata.insert(name.to_owned(), value);
    };
    let ips: Vec<String> = settings.ips.iter().map(ToString::to_string).collect();
    set("INSTANCE_IPS", ips.join(",").into());
    set("NAMESPACE", namespace.as_str().into());
    set("NAME", pod.as_str().into());
    set("SERVICE_ACCOUNT", settings.identity.service_account().into());
    set("ISTIO_VERSION", env!("CARGO_PKG_VERSION").into());
    set("CLUSTER_ID", settings.cluster.as_str().into());
    if data_plane == DataPlane::Tombolo {
        set("TOMBOLO_PROXY", "true".into());
    }
    let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
    let application = canonical.iter().find_map(|label| labels.get(*label));
    let application = application.cloned().unwrap_or_else(|| pod.clone());
    set("LABELS", Value::Object(labels.into_iter().map(|(k, v)| (k, v.into())).collect()));
    let cluster = format!("{application}.{namespace}");
    Node { id, cluster, metadata: Some(structure(&metadata)), ..Node::default() }
}

/// The pod's labels, from the downward API's file: lines of `key="escaped value"`.
pub fn labels(path: &Path) -> BTreeMap<String, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::info!(path = %path.display(), %error, "the pod's labels cannot be read");
            return BTreeMap::new();
        }
    };
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // Values are quoted as Go quotes them, which JSON reads for everything a label may hold.
        Some((key.to_owned(), serde_json::from_str(value).ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn structure(fields: &BTreeMap<String, Value>) -> wkt::Struct {
    wkt::Struct {
        fields: fields.iter().map(|(key, value)| (key.clone(), to_value(value))).collect(),
    }
}

fn to_value(value: &Value) -> wkt::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => {
            Kind::ListValue(wkt::ListValue { values: list.iter().map(to_value).collect() })
        }
        Value::Object(fields) => Kind::StructValue(wkt::Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), to_value(value))).collect(),
        }),
    };
    wkt::Value { kind: Some(kind) }
}
