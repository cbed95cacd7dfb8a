//! The built-in profiles, each a patch over `default`.

use serde_json::{Value, json};

use super::overlay;

/// The spec of a profile, or nothing when there is none of that name.
pub(super) fn spec(name: &str) -> Option<Value> {
    let mut spec = default();
    let patch = match name {
        "default" => json!({}),
        "minimal" => {
            json!({"components": {"ingressGateways": [{"name": "istio-ingressgateway", "enabled": false}]}})
        }
        "empty" => json!({"components": {
            "base": {"enabled": false},
            "pilot": {"enabled": false},
            "ingressGateways": [{"name": "istio-ingressgateway", "enabled": false}],
        }}),
        "remote" => json!({
            "components": {"ingressGateways": [{"name": "istio-ingressgateway", "enabled": false}]},
            "values": {"istiodRemote": {"enabled": true}, "global": {"omitSidecarInjectorConfigMap": true}},
        }),
        "demo" => demo(),
        _ => return None,
    };
    overlay(&mut spec, &patch);
    Some(spec)
}

/// Everything on, small: for trying things out. Istio's also lists tracing providers, which are
/// left out because nothing here sends traces.
fn demo() -> Value {
    let small = json!({"requests": {"cpu": "10m", "memory": "40Mi"}});
    json!({
        "components": {
            "pilot": {"k8s": {"resources": {"requests": {"cpu": "10m", "memory": "100Mi"}}}},
            "ingressGateways": [{
                "name": "istio-ingressgateway",
                "enabled": true,
                "k8s": {"resources": small, "service": {"ports": [
                    {"name": "status-port", "port": 15021, "targetPort": 15021},
                    {"name": "http2", "port": 80, "targetPort": 8080},
                    {"name": "https", "port": 443, "targetPort": 8443},
                    {"name": "tcp", "port": 31400, "targetPort": 31400},
                    {"name": "tls", "port": 15443, "targetPort": 15443},
                ]}},
            }],
            "egressGateways": [{
                "name": "istio-egressgateway",
                "enabled": true,
                "k8s": {"resources": small},
            }],
        },
        "meshConfig": {"accessLogFile": "/dev/stdout"},
        "values": {
            "global": {"proxy": {"resources": small}},
            "pilot": {"autoscaleEnabled": false, "traceSampling": 100},
            "gateways": {
                "istio-ingressgateway": {"autoscaleEnabled": false},
                "istio-egressgateway": {"autoscaleEnabled": false},
            },
        },
    })
}

fn default() -> Value {
    json!({
        "components": {
            "base": {"enabled": true},
            "pilot": {"enabled": true},
            "ingressGateways": [{
                "name": "istio-ingressgateway",
                "enabled": true,
                "label": {"app": "istio-ingressgateway", "istio": "ingressgateway"},
                "k8s": {"service": {"ports": [
                    {"name": "status-port", "port": 15021, "targetPort": 15021},
                    {"name": "http2", "port": 80, "targetPort": 8080},
                    {"name": "https", "port": 443, "targetPort": 8443},
                ]}},
            }],
            "egressGateways": [{
                "name": "istio-egressgateway",
                "enabled": false,
                "label": {"app": "istio-egressgateway", "istio": "egressgateway"},
                "k8s": {"service": {"type": "ClusterIP", "ports": [
                    {"name": "http2", "port": 80, "targetPort": 8080},
                    {"name": "https", "port": 443, "targetPort": 8443},
                ]}},
            }],
        },
        "values": {
            "global": {
                "istioNamespace": "istio-system",
                "configValidation": true,
                "proxy": {
                    "clusterDomain": "cluster.local",
                    "logLevel": "warning",
                    "componentLogLevel": "misc:error",
                    "autoInject": "enabled",
                    "includeIPRanges": "*",
                    "excludeIPRanges": "",
                    "includeInboundPorts": "*",
                    "excludeInboundPorts": "",
                    "includeOutboundPorts": "",
                    "excludeOutboundPorts": "",
                    "statusPort": 15020,
                    "readinessInitialDelaySeconds": 0,
                    "readinessPeriodSeconds": 15,
                    "readinessFailureThreshold": 4,
                    "startupProbe": {"enabled": true, "failureThreshold": 600},
                    "resources": {
                        "requests": {"cpu": "100m", "memory": "128Mi"},
                        "limits": {"cpu": "2000m", "memory": "1024Mi"},
                    },
                },
                "defaultPodDisruptionBudget": {"enabled": true},
                "sds": {"token": {"aud": "istio-ca"}},
                "pilotCertProvider": "istiod",
            },
            "pilot": {
                "autoscaleEnabled": true,
                "autoscaleMin": 1,
                "autoscaleMax": 5,
                "traceSampling": 1,
                "resources": {"requests": {"cpu": "500m", "memory": "2048Mi"}},
                "env": {},
            },
            "istiodRemote": {"enabled": false, "injectionPath": "/inject"},
            "sidecarInjectorWebhook": {
                "rewriteAppHTTPProbe": true,
                "enableNamespacesByDefault": false,
                "reinvocationPolicy": "Never",
            },
        },
    })
}
