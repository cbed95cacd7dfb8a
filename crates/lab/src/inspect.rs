//! A node as `docker inspect` describes a container, where scripts look at it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::control::{ClusterState, NodeState};
use crate::spec::{API_SERVER_PORT, LAB_GATEWAY, LAB_NETWORK, NodeRole};

/// The document of the node `name`, if a cluster has it.
pub fn node(clusters: &[ClusterState], name: &str) -> Option<Value> {
    clusters.iter().find_map(|cluster| {
        let node = cluster.nodes.iter().find(|node| node.name == name)?;
        Some(document(cluster, node))
    })
}

fn document(cluster: &ClusterState, node: &NodeState) -> Value {
    let process = format!("node/{}", node.name);
    let process = cluster.processes.iter().find(|known| known.name == process);
    let running = process.is_some_and(|process| process.pid.is_some());
    let mut ports = json!({});
    if node.role == NodeRole::ControlPlane {
        let host = cluster.server.trim_start_matches("https://").rsplit_once(':');
        let (address, port) = host.unwrap_or_default();
        ports = json!({format!("{API_SERVER_PORT}/tcp"): [{"HostIp": address, "HostPort": port}]});
    }
    json!({
        "Name": format!("/{}", node.name),
        "State": {
            "Status": if running { "running" } else { "restarting" },
            "Running": running,
            "Pid": process.and_then(|process| process.pid).unwrap_or_default(),
        },
        "RestartCount": process.map(|process| process.restarts).unwrap_or_default(),
        "Config": {
            "Hostname": node.name,
            "Labels": {
                "io.x-k8s.kind.cluster": cluster.name(),
                "io.x-k8s.kind.role": node.role.to_string(),
            },
        },
        "NetworkSettings": {
            "Ports": ports,
            "Networks": {
                "kind": {
                    "IPAddress": node.address,
                    "IPPrefixLen": LAB_NETWORK.prefix_len(),
                    "Gateway": LAB_GATEWAY,
                    "MacAddress": node.mac,
                },
            },
        },
    })
}

/// Why a template could not be filled in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// More than paths.
    #[error(
        "`{{{{{0}}}}}` is more than this understands: write a path of fields, such as {{{{.NetworkSettings.Networks.kind.IPAddress}}}}, or `json` before one"
    )]
    Unsupported(String),
    /// `{{` without `}}`.
    #[error("`{{{{` without `}}}}` in `{0}`")]
    Unclosed(String),
    /// No such field.
    #[error("the document has no field `{field}` in `{path}`; `-o json` shows all")]
    NoField { field: String, path: String },
}

/// Fills the paths in a template with what the document has there.
///
/// # Errors
/// When the template is more than text and paths, or a field does not exist.
pub fn render(template: &str, document: &Value) -> Result<String, TemplateError> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, action)) = rest.split_once("{{") {
        let (action, after) =
            action.split_once("}}").ok_or_else(|| TemplateError::Unclosed(template.to_owned()))?;
        text.push_str(before);
        let action = action.trim();
        let (as_json, path) = match action.strip_prefix("json ") {
            Some(path) => (true, path.trim()),
            None => (false, action),
        };
        let value = at(path, document)?;
        // Writing to a string cannot fail.
        let _ = match value {
            Value::String(value) if !as_json => write!(text, "{value}"),
            value => write!(text, "{value}"),
        };
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

fn at<'a>(path: &str, document: &'a Value) -> Result<&'a Value, TemplateError> {
    let unsupported = || TemplateError::Unsupported(path.to_owned());
    let fields = path.strip_prefix('.').ok_or_else(unsupported)?;
    let mut value = document;
    for field in fields.split('.').filter(|_| !fields.is_empty()) {
        if field.is_empty() || field.contains(|c: char| c.is_whitespace() || "()|\"".contains(c)) {
            return Err(unsupported());
        }
        value = value.get(field).ok_or_else(|| TemplateError::NoField {
            field: field.to_owned(),
            path: path.to_owned(),
        })?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({"Name": "/n", "State": {"Running": true}, "NetworkSettings": {"Networks": {"kind": {"IPAddress": "172.18.0.2"}}}})
    }

    #[test]
    fn paths_in_a_template_are_filled_in() {
        let filled = |template: &str| render(template, &document()).unwrap();
        assert_eq!(filled("{{.NetworkSettings.Networks.kind.IPAddress}}"), "172.18.0.2");
        assert_eq!(filled("{{ .Name }} {{.State.Running}}!"), "/n true!");
        assert_eq!(filled("{{json .State}}"), r#"{"Running":true}"#);
        assert_eq!(filled("plain"), "plain");
    }

    #[test]
    fn templates_that_cannot_be_filled_in_say_why() {
        let error = |template: &str| render(template, &document()).unwrap_err().to_string();
        assert_eq!(
            error("{{.NetworkSettings.IP}}"),
            "the document has no field `IP` in `.NetworkSettings.IP`; `-o json` shows all"
        );
        assert_eq!(error("{{.Name"), "`{{` without `}}` in `{{.Name`");
        assert!(error("{{range .Networks}}").starts_with("`{{range .Networks}}` is more than"));
    }
}
