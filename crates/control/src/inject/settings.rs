//! What a pod's annotations say, over the mesh's settings, over the installation's values.

use serde_json::{Value, json};
use tombolo_crds::mesh_config::MeshConfig;

use crate::inject::Refused;
use crate::inject::config::InjectorConfig;
use crate::inject::decide::texts;

/// The settings of one pod's proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodSettings {
    pub templates: Vec<String>,
    /// Whether the pod says which kind of sidecar it wants.
    pub native: Option<bool>,
    pub image: Option<String>,
    pub interception: Interception,
    /// The proxy's settings: the mesh's defaults and what the pod lays over them.
    pub proxy: Value,
    pub status_port: u16,
    pub capture: Capture,
    pub readiness: Readiness,
    pub resources: Value,
    pub log_level: Option<String>,
    pub component_log_level: Option<String>,
    pub agent_log_level: Option<String>,
    pub bind_low_ports: bool,
    pub rewrite_probes: Option<bool>,
    pub volumes: Vec<Value>,
    pub mounts: Vec<Value>,
}

/// How traffic gets into the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interception {
    Redirect,
    Tproxy,
    None,
}

/// Which traffic is captured; as the arguments of the init container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    pub include_ips: String,
    pub exclude_ips: String,
    pub include_inbound: String,
    pub exclude_inbound: String,
    pub include_outbound: String,
    pub exclude_outbound: String,
    pub exclude_interfaces: String,
    pub virtual_interfaces: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub initial_delay: i64,
    pub period: i64,
    pub failures: i64,
}

impl Interception {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }
}

/// Annotations with the checks that they need.
struct Annotations(std::collections::BTreeMap<String, String>);

impl Annotations {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn wrong<T>(name: &str, value: &str, problem: impl Into<String>) -> Result<T, Refused> {
        let (name, value) = (name.to_owned(), value.to_owned());
        Err(Refused::Annotation { name, value, problem: problem.into() })
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Refused> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Self::wrong(name, other, "is neither true nor false"),
        }
    }

    fn number(&self, name: &str, default: i64) -> Result<i64, Refused> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => match text.parse::<u32>() {
                Ok(number) => Ok(number.into()),
                Err(_) => Self::wrong(name, text, "is not a number"),
            },
        }
    }

    fn ports(&self, name: &str, default: &str, star: bool) -> Result<String, Refused> {
        let Some(text) = self.get(name) else { return Ok(default.to_owned()) };
        let is_port = |item: &str| item.trim().parse::<u16>().is_ok();
        if text.is_empty() || star && text == "*" || text.split(',').all(is_port) {
            return Ok(text.to_owned());
        }
        Self::wrong(name, text, "is not a list of ports")
    }

    fn networks(&self, name: &str, default: &str, star: bool) -> Result<String, Refused> {
        let Some(text) = self.get(name) else { return Ok(default.to_owned()) };
        let is_net = |item: &str| {
            let item = item.trim();
            item.parse::<ipnet::IpNet>().is_ok() || item.parse::<std::net::IpAddr>().is_ok()
        };
        if text.is_empty() || star && text == "*" || text.split(',').all(is_net) {
            return Ok(text.to_owned());
        }
        Self::wrong(name, text, "is not a list of networks such as 10.0.0.0/8")
    }

    fn interfaces(&self, name: &str) -> Result<String, Refused> {
        let Some(text) = self.get(name) else { return Ok(String::new()) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | '@');
        if text.chars().all(plain) {
            return Ok(text.to_owned());
        }
        Self::wrong(name, text, "is not a list of interfaces")
    }

    fn words(&self, name: &str) -> Result<Option<String>, Refused> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | ':');
        if text.chars().all(plain) {
            return Ok(Some(text.to_owned()));
        }
        Self::wrong(name, text, "has characters that do not belong there")
    }

    /// A list of named objects in JSON: a list, or an object from name to object.
    fn objects(&self, name: &str) -> Result<Vec<Value>, Refused> {
        let Some(text) = self.get(name) else { return Ok(Vec::new()) };
        match serde_json::from_str(text) {
            Ok(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items),
            Ok(Value::Object(items)) => Ok(items
                .into_iter()
                .filter_map(|(key, value)| {
                    let Value::Object(mut fields) = value else { return None };
                    fields.insert("name".into(), key.into());
                    Some(Value::Object(fields))
                })
                .collect()),
            _ => Self::wrong(name, text, "is not a list of objects in JSON"),
        }
    }
}

impl PodSettings {
    pub(crate) fn read(
        config: &InjectorConfig,
        mesh: &MeshConfig,
        pod: &Value,
    ) -> Result<Self, Refused> {
        let own = Annotations(texts(pod, "annotations"));
        let value = |pointer: &str| config.values.pointer(pointer).filter(|it| !it.is_null());
        let text = |pointer: &str| value(pointer).and_then(Value::as_str).unwrap_or_default();
        let number = |pointer: &str, default: i64| {
            let number = value(pointer);
            number
                .and_then(|it| it.as_i64().or_else(|| it.as_str()?.parse().ok()))
                .unwrap_or(default)
        };
        let proxy = proxy_settings(mesh, &own)?;
        let interception = interception(&own, &proxy)?;
        let status = number("/global/proxy/statusPort", 15020);
        let status = own.number("status.sidecar.istio.io/port", status)?;
        let Ok(status_port) = u16::try_from(status) else {
            return Annotations::wrong(
                "status.sidecar.istio.io/port",
                &status.to_string(),
                "is not a port",
            );
        };
        let traffic = |name: &str| format!("traffic.sidecar.istio.io/{name}");
        let or = |set: &str, default: &str| {
            if set.is_empty() { default.to_owned() } else { set.to_owned() }
        };
        let outbound = or(text("/global/proxy/includeIPRanges"), "*");
        let inbound = or(text("/global/proxy/includeInboundPorts"), "*");
        let capture = Capture {
            include_ips: own.networks(&traffic("includeOutboundIPRanges"), &outbound, true)?,
            exclude_ips: own.networks(
                &traffic("excludeOutboundIPRanges"),
                text("/global/proxy/excludeIPRanges"),
                false,
            )?,
            include_inbound: own.ports(&traffic("includeInboundPorts"), &inbound, true)?,
            exclude_inbound: own.ports(
                &traffic("excludeInboundPorts"),
                text("/global/proxy/excludeInboundPorts"),
                false,
            )?,
            include_outbound: own.ports(
                &traffic("includeOutboundPorts"),
                text("/global/proxy/includeOutboundPorts"),
                true,
            )?,
            exclude_outbound: own.ports(
                &traffic("excludeOutboundPorts"),
                text("/global/proxy/excludeOutboundPorts"),
                false,
            )?,
            exclude_interfaces: own.interfaces(&traffic("excludeInterfaces"))?,
            virtual_interfaces: own.interfaces("istio.io/reroute-virtual-interfaces")?,
        };
        let ready = |name: &str| format!("readiness.status.sidecar.istio.io/{name}");
        let readiness = Readiness {
            initial_delay: own.number(
                &ready("initialDelaySeconds"),
                number("/global/proxy/readinessInitialDelaySeconds", 0),
            )?,
            period: own.number(
                &ready("periodSeconds"),
                number("/global/proxy/readinessPeriodSeconds", 15),
            )?,
            failures: own.number(
                &ready("failureThreshold"),
                number("/global/proxy/readinessFailureThreshold", 4),
            )?,
        };
        let log_level = own.words("sidecar.istio.io/logLevel")?;
        Ok(Self {
            templates: templates(config, &own),
            native: own.flag("sidecar.istio.io/nativeSidecar")?,
            image: own.get("sidecar.istio.io/proxyImage").map(str::to_owned),
            interception,
            proxy,
            status_port,
            capture,
            readiness,
            resources: resources(value("/global/proxy/resources"), &own),
            log_level: log_level.or_else(|| some(text("/global/proxy/logLevel"))),
            component_log_level: own
                .words("sidecar.istio.io/componentLogLevel")?
                .or_else(|| some(text("/global/proxy/componentLogLevel"))),
            agent_log_level: own
                .words("sidecar.istio.io/agentLogLevel")?
                .or_else(|| some(text("/global/logging/level"))),
            bind_low_ports: own.flag("sidecar.istio.io/capNetBindService")?.unwrap_or(false),
            rewrite_probes: own.flag("sidecar.istio.io/rewriteAppHTTPProbers")?,
            volumes: own.objects("sidecar.istio.io/userVolume")?,
            mounts: own.objects("sidecar.istio.io/userVolumeMount")?,
        })
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn templates(config: &InjectorConfig, own: &Annotations) -> Vec<String> {
    let asked: Vec<String> = match own.get("inject.istio.io/templates") {
        Some(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        None if config.default_templates.is_empty() => vec!["sidecar".into()],
        None => config.default_templates.clone(),
    };
    let alias = |name: String| config.aliases.get(&name).cloned().unwrap_or_else(|| vec![name]);
    asked.into_iter().filter(|name| !name.is_empty()).flat_map(alias).collect()
}

/// The mesh's proxy settings with those of the pod over them, field by field.
fn proxy_settings(mesh: &MeshConfig, own: &Annotations) -> Result<Value, Refused> {
    let mut settings = match &mesh.default_config {
        Value::Object(fields) => Value::Object(fields.clone()),
        _ => json!({}),
    };
    let name = "proxy.istio.io/config";
    if let Some(text) = own.get(name) {
        let overlay: Value = match serde_saphyr::from_str(text) {
            Ok(overlay) => overlay,
            Err(error) => return Annotations::wrong(name, text, format!("is not YAML: {error}")),
        };
        if !overlay.is_object() && !overlay.is_null() {
            return Annotations::wrong(name, text, "is not an object");
        }
        json_patch::merge(&mut settings, &overlay);
        if settings.is_null() {
            settings = json!({});
        }
    }
    Ok(settings)
}

fn interception(own: &Annotations, proxy: &Value) -> Result<Interception, Refused> {
    let name = "sidecar.istio.io/interceptionMode";
    let mode = own.get(name).or_else(|| proxy.get("interceptionMode").and_then(Value::as_str));
    match mode {
        None | Some("REDIRECT") => Ok(Interception::Redirect),
        Some("TPROXY") => Ok(Interception::Tproxy),
        Some("NONE") => Ok(Interception::None),
        Some(other) => Annotations::wrong(name, other, "is not REDIRECT, TPROXY or NONE"),
    }
}

/// Requests and limits: those of the installation, unless the pod names any of its own.
fn resources(installed: Option<&Value>, own: &Annotations) -> Value {
    let names = [
        ("requests", "cpu", "sidecar.istio.io/proxyCPU"),
        ("requests", "memory", "sidecar.istio.io/proxyMemory"),
        ("limits", "cpu", "sidecar.istio.io/proxyCPULimit"),
        ("limits", "memory", "sidecar.istio.io/proxyMemoryLimit"),
    ];
    if names.iter().all(|(_, _, name)| own.get(name).is_none()) {
        return installed.cloned().unwrap_or_else(|| json!({}));
    }
    let mut resources = json!({});
    for (group, what, name) in names {
        if let Some(quantity) = own.get(name) {
            resources[group][what] = quantity.into();
        }
    }
    resources
}
