//! Which settings of a spec something reads, and of which shape they are.
//!
//! What is not in the table is reported by its full path, so that nothing a user writes is
//! dropped silently.

use serde_json::Value;

use super::OperatorError;

/// The shape of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text; numbers and booleans count as the text they are written as.
    Text,
    Flag,
    Number,
    List,
    /// A mapping that is passed on as it is.
    Map,
    /// A mapping from names to texts.
    Texts,
}

use Shape::{Flag, List, Map, Number, Text, Texts};

/// What the renderer, the control plane or the injector read. `*` stands for one key or one entry
/// of a list, `a|b` for either key.
const SETTINGS: &[(&str, Shape)] = &[
    ("profile", Text),
    ("hub", Text),
    ("tag", Text),
    ("revision", Text),
    ("namespace", Text),
    ("meshConfig", Map),
    ("components.base.enabled", Flag),
    ("components.base.k8s.overlays", List),
    ("components.pilot.enabled", Flag),
    ("components.*.*.name", Text),
    ("components.*.*.namespace", Text),
    ("components.*.*.enabled", Flag),
    ("components.*.*.label", Texts),
    ("values.revision", Text),
    ("values.meshConfig", Map),
    ("values.global.hub", Text),
    ("values.global.tag", Text),
    ("values.global.istioNamespace", Text),
    ("values.global.meshID", Text),
    ("values.global.multiCluster.clusterName", Text),
    ("values.global.network", Text),
    ("values.global.meshNetworks", Map),
    ("values.global.logAsJson", Flag),
    ("values.global.logging.level", Text),
    ("values.global.configCluster", Flag),
    ("values.global.configValidation", Flag),
    ("values.global.remotePilotAddress", Text),
    ("values.global.externalIstiod", Flag),
    ("values.global.caAddress", Text),
    ("values.global.pilotCertProvider", Text),
    ("values.global.sds.token.aud", Text),
    ("values.global.trustBundleName", Text),
    ("values.global.imagePullPolicy", Text),
    ("values.global.imagePullSecrets", List),
    ("values.global.defaultPodDisruptionBudget.enabled", Flag),
    ("values.global.proxy.autoInject", Text),
    ("values.global.proxy.clusterDomain", Text),
    ("values.global.proxy.logLevel", Text),
    ("values.global.proxy.componentLogLevel", Text),
    ("values.global.proxy.includeIPRanges", Text),
    ("values.global.proxy.excludeIPRanges", Text),
    ("values.global.proxy.includeInboundPorts", Text),
    ("values.global.proxy.excludeInboundPorts", Text),
    ("values.global.proxy.includeOutboundPorts", Text),
    ("values.global.proxy.excludeOutboundPorts", Text),
    ("values.global.proxy.holdApplicationUntilProxyStarts", Flag),
    ("values.global.proxy.lifecycle", Map),
    ("values.global.proxy.privileged", Flag),
    ("values.global.proxy.readinessFailureThreshold", Number),
    ("values.global.proxy.readinessInitialDelaySeconds", Number),
    ("values.global.proxy.readinessPeriodSeconds", Number),
    ("values.global.proxy.resources", Map),
    ("values.global.proxy.startupProbe.enabled", Flag),
    ("values.global.proxy.startupProbe.failureThreshold", Number),
    ("values.global.proxy.statusPort", Number),
    ("values.istiodRemote.enabled", Flag),
    ("values.istiodRemote.injectionPath", Text),
    ("values.istiodRemote.injectionURL", Text),
    ("values.istiodRemote.injectionCABundle", Text),
    ("values.base.validationURL", Text),
    ("values.pilot.env", Texts),
    ("values.pilot.replicaCount", Number),
    ("values.pilot.autoscaleEnabled", Flag),
    ("values.pilot.autoscaleMin", Number),
    ("values.pilot.autoscaleMax", Number),
    ("values.pilot.resources", Map),
    ("values.pilot.nodeSelector", Texts),
    ("values.pilot.tolerations", List),
    ("values.pilot.affinity", Map),
    ("values.pilot.podAnnotations", Texts),
    ("values.pilot.podLabels", Texts),
    ("values.pilot.serviceAnnotations", Texts),
    ("values.sidecarInjectorWebhook.rewriteAppHTTPProbe", Flag),
    ("values.sidecarInjectorWebhook.enableNamespacesByDefault", Flag),
    ("values.sidecarInjectorWebhook.reinvocationPolicy", Text),
    ("values.sidecarInjectorWebhook.alwaysInjectSelector", List),
    ("values.sidecarInjectorWebhook.neverInjectSelector", List),
    ("values.sidecarInjectorWebhook.injectedAnnotations", Texts),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.type", Text),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.loadBalancerIP", Text),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.loadBalancerSourceRanges", List),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.externalTrafficPolicy", Text),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.autoscaleEnabled", Flag),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.autoscaleMin", Number),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.autoscaleMax", Number),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.replicaCount", Number),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.serviceAnnotations", Texts),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.podAnnotations", Texts),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.resources", Map),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.nodeSelector", Texts),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.tolerations", List),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.env", Texts),
];

/// The `k8s` settings of the control plane and of gateways (`KubernetesResources` of Istio's
/// operator API).
const K8S: &[(&str, Shape)] = &[
    ("affinity", Map),
    ("env", List),
    ("hpaSpec", Map),
    ("imagePullPolicy", Text),
    ("nodeSelector", Texts),
    ("podDisruptionBudget", Map),
    ("podAnnotations", Texts),
    ("priorityClassName", Text),
    ("readinessProbe", Map),
    ("replicaCount", Number),
    ("resources", Map),
    ("service", Map),
    ("strategy", Map),
    ("tolerations", List),
    ("serviceAnnotations", Texts),
    ("securityContext", Map),
    ("volumes", List),
    ("volumeMounts", List),
    ("overlays", List),
];

/// Settings that nothing reads, with the value that asks for what happens anyway. No value: any.
const HARMLESS: &[(&str, Option<&str>)] = &[
    ("components.cni.enabled", Some("false")),
    ("components.ztunnel.enabled", Some("false")),
    ("components.istiodRemote.enabled", None),
    ("values.cni.enabled", Some("false")),
    ("values.pilot.cni.enabled", Some("false")),
    ("values.pilot.enabled", Some("true")),
    ("values.pilot.configMap", Some("true")),
    ("values.pilot.traceSampling", None),
    ("values.pilot.keepaliveMaxServerConnectionAge", Some("30m")),
    ("values.telemetry.enabled", Some("true")),
    ("values.telemetry.v2.enabled", Some("true")),
    ("values.telemetry.v2.prometheus.enabled", Some("true")),
    ("values.telemetry.v2.stackdriver.enabled", Some("false")),
    ("values.global.jwtPolicy", Some("third-party-jwt")),
    ("values.global.multiCluster.enabled", Some("true")),
    // Whether it happens anyway depends on the installation, which `Operator` looks at.
    ("values.global.omitSidecarInjectorConfigMap", None),
    ("values.global.variant", None),
    ("values.global.oneNamespace", Some("false")),
    ("values.global.operatorManageWebhooks", Some("false")),
    ("values.global.enableReaderRBAC", Some("true")),
    ("values.global.proxy.tracer", Some("none")),
    ("values.global.proxy.enableCoreDump", Some("false")),
    ("values.base.enableCRDTemplates", None),
    ("values.base.enableIstioConfigCRDs", Some("true")),
    ("values.gateways.istio-ingressgateway|istio-egressgateway.injectionTemplate", Some("gateway")),
    ("values.defaultRevision", None),
    ("values.ownerName", None),
];

/// What is to be said about a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    pub unsupported: Vec<String>,
    pub harmless: Vec<String>,
}

impl Remarks {
    /// Looks at everything below `path`.
    ///
    /// # Errors
    /// When a setting is of another shape than it must be.
    pub(super) fn collect(
        &mut self,
        path: &mut Vec<String>,
        value: &Value,
    ) -> Result<(), OperatorError> {
        if value.is_null() {
            return Ok(());
        }
        if let Some(shape) = shape_of(path) {
            return check(path, value, shape);
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    path.push(key.clone());
                    self.collect(path, value)?;
                    path.pop();
                }
            }
            Value::Array(list) if is_known_list(path) => {
                for (i, value) in list.iter().enumerate() {
                    path.push(format!("[{i}]"));
                    self.collect(path, value)?;
                    path.pop();
                }
            }
            _ if leads_on(path) => {
                return Err(wrong(
                    path,
                    value,
                    if is_known_list(path) { "a list" } else { "a mapping" },
                ));
            }
            _ => {
                let harmless = HARMLESS.iter().any(|(pattern, only)| {
                    matches(pattern, path) && only.is_none_or(|only| plain_text(value) == only)
                });
                let list = if harmless { &mut self.harmless } else { &mut self.unsupported };
                list.push(written(path));
            }
        }
        Ok(())
    }
}

/// Turns what must be texts into texts, where YAML or `--set` read a number or a boolean.
pub(super) fn normalise(path: &mut Vec<String>, value: &mut Value) {
    match shape_of(path) {
        Some(Text) => to_text(value),
        Some(Texts) => {
            value.as_object_mut().into_iter().flatten().for_each(|(_, value)| to_text(value));
        }
        // Values of environment variables are texts, whatever they look like.
        Some(List) if k8s(path).is_some_and(|it| it.first().is_some_and(|it| it == "env")) => {
            let entries = value.as_array_mut().into_iter().flatten();
            entries.filter_map(|entry| entry.get_mut("value")).for_each(to_text);
        }
        Some(_) => (),
        None => match value {
            Value::Object(map) => {
                for (key, value) in map {
                    path.push(key.clone());
                    normalise(path, value);
                    path.pop();
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter_mut().enumerate() {
                    path.push(format!("[{i}]"));
                    normalise(path, value);
                    path.pop();
                }
            }
            _ => (),
        },
    }
}

fn to_text(value: &mut Value) {
    if value.is_number() || value.is_boolean() {
        *value = Value::String(value.to_string());
    }
}

/// A scalar as it is written, without quotes.
pub(super) fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The shape of the setting that `path` is, or is inside of.
pub(super) fn shape_of(path: &[String]) -> Option<Shape> {
    if let Some(inside) = k8s(path) {
        return K8S
            .iter()
            .find(|(name, _)| inside.first().is_some_and(|it| it == name))
            .map(|it| it.1);
    }
    let covers = |pattern: &str| {
        let parts = pattern.split('.').count();
        path.len() >= parts && matches(pattern, &path[..parts])
    };
    SETTINGS.iter().find(|(pattern, _)| covers(pattern)).map(|(_, shape)| *shape)
}

/// The rest of a path that leads into a component's `k8s`.
fn k8s(path: &[String]) -> Option<&[String]> {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    match keys.as_slice() {
        ["components", "pilot", "k8s", ..] => path.get(3..),
        ["components", "ingressGateways" | "egressGateways", _, "k8s", ..] => path.get(4..),
        _ => None,
    }
}

fn is_known_list(path: &[String]) -> bool {
    path.len() == 2
        && path.first().is_some_and(|it| it == "components")
        && path.get(1).is_some_and(|it| it == "ingressGateways" || it == "egressGateways")
}

/// Whether settings lie below this path.
fn leads_on(path: &[String]) -> bool {
    path.is_empty()
        || k8s(path).is_some_and(<[String]>::is_empty)
        || SETTINGS.iter().any(|(pattern, _)| {
            let parts: Vec<&str> = pattern.split('.').collect();
            parts.len() > path.len()
                && parts.iter().zip(path).all(|(part, key)| fits(part, key))
                // `components.*.*` is about gateways only.
                && (path.first().is_none_or(|it| it != "components") || path.len() < 2 || is_known_list(&path[..2]))
        })
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let gateways =
        !pattern.starts_with("components.*.*") || is_known_list(path.get(..2).unwrap_or(&[]));
    gateways
        && pattern.split('.').count() == path.len()
        && pattern.split('.').zip(path).all(|(part, key)| fits(part, key))
}

fn fits(part: &str, key: &str) -> bool {
    part == "*" || part.split('|').any(|name| name == key)
}

fn check(path: &[String], value: &Value, shape: Shape) -> Result<(), OperatorError> {
    let scalar = value.is_string() || value.is_number() || value.is_boolean();
    let (fits, want) = match shape {
        Text => (scalar, "a text"),
        Flag => (
            value.is_boolean() || matches!(value.as_str(), Some("true" | "false")),
            "true or false",
        ),
        Number => (
            value.is_u64() || value.as_str().is_some_and(|it| it.parse::<u64>().is_ok()),
            "a number",
        ),
        List => (value.is_array(), "a list"),
        Map => (value.is_object(), "a mapping"),
        Texts => {
            let texts = |map: &serde_json::Map<String, Value>| {
                map.values().all(|it| !it.is_object() && !it.is_array())
            };
            (value.as_object().is_some_and(texts), "a mapping from names to texts")
        }
    };
    // `--set` may point inside of a mapping or a list; what lies there has its own shape.
    let inside = matches!(shape, List | Map | Texts) && scalar && !is_whole(path);
    if fits || inside { Ok(()) } else { Err(wrong(path, value, want)) }
}

/// Whether a path names a setting and not something inside of one.
fn is_whole(path: &[String]) -> bool {
    match k8s(path) {
        Some(inside) => inside.len() == 1,
        None => SETTINGS.iter().any(|(pattern, _)| matches(pattern, path)),
    }
}

fn wrong(path: &[String], value: &Value, want: &'static str) -> OperatorError {
    OperatorError::WrongShape { path: written(path), found: value.to_string(), want }
}

/// A path as it is written: `spec.components.ingressGateways[0].k8s`.
fn written(path: &[String]) -> String {
    let mut text = String::from("spec");
    for key in path {
        if !key.starts_with('[') {
            text.push('.');
        }
        text.push_str(&if key.contains('.') { key.replace('.', "\\.") } else { key.clone() });
    }
    text
}
