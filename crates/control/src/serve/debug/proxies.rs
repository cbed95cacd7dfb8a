//! What the control plane knows of one connected proxy, as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tombolo_runtime::errors::chain;
use tombolo_xds::json::any_to_value;
use tombolo_xds::types;

use crate::serve::ads::Connected;

/// How far the proxy is, type by type: nonces that were sent and accepted.
pub(super) fn sync_state(connected: &Connected) -> Value {
    let types = connected.types.lock();
    let proxy = &connected.proxy;
    let mut state = json!({
        "cluster_id": proxy.cluster.as_str(),
        "proxy": format!("{}.{}", proxy.pod.name, proxy.pod.namespace),
        "proxy_type": format!("{:?}", proxy.kind).to_lowercase(),
        "istio_version": proxy.version,
    });
    for (name, url) in [
        ("cluster", types::CLUSTER),
        ("listener", types::LISTENER),
        ("route", types::ROUTE),
        ("endpoint", types::ENDPOINT),
    ] {
        let Some(of) = types.get(url) else { continue };
        state[format!("{name}_sent")] = of.sent.as_str().into();
        state[format!("{name}_acked")] = of.accepted.as_str().into();
        if let Some((_, message)) = &of.rejected {
            state[format!("{name}_rejected")] = message.as_str().into();
        }
    }
    let resources: BTreeMap<&String, Value> = types
        .iter()
        .map(|(url, of)| {
            let mut status = json!({});
            let error = of.rejected.as_ref().map(|(_, message)| message.clone());
            for (name, value) in [
                ("sent", Some(of.sent.clone())),
                ("acked", Some(of.accepted.clone())),
                ("sentTime", of.sent_at.map(|at| at.to_string())),
                ("lastError", error),
            ] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    status[name] = value.into();
                }
            }
            (url, status)
        })
        .collect();
    state["resources"] = json!(resources);
    state
}

/// What the proxy watches.
pub(super) fn ads_state(connected: &Connected) -> Value {
    let types = connected.types.lock();
    let watches: BTreeMap<&String, Vec<&str>> = types
        .iter()
        .map(|(url, state)| {
            let names = state.wanted.names.iter().map(AsRef::as_ref);
            let all = state.wanted.all.then_some("*");
            (url, names.chain(all).collect())
        })
        .collect();
    let proxy = &connected.proxy;
    json!({
        "connectionId": connected.id,
        "connectedAt": connected.since.to_string(),
        "address": proxy.ips.first().map(ToString::to_string),
        "labels": proxy.labels,
        "metadata": {"CLUSTER_ID": proxy.cluster.as_str(), "NETWORK": proxy.network.as_str()},
        "watches": watches,
    })
}

/// The resources of one type as the proxy gets them. What cannot be shown says why.
pub(super) fn resources(connected: &Connected, type_url: &str) -> Value {
    named(connected, type_url).into_iter().map(|(_, body)| body).collect()
}

fn named(connected: &Connected, type_url: &str) -> Vec<(String, Value)> {
    let snapshot = connected.snapshot.borrow().clone();
    let all = snapshot.resources(type_url).cloned().unwrap_or_default();
    // What everybody may ask for by name is not sent to a proxy that did not ask.
    let wanted = connected.types.lock().get(type_url).map(|state| state.wanted.clone());
    let sent = |name: &str| {
        types::is_wildcard(type_url)
            || wanted.as_ref().is_some_and(|wanted| wanted.all || wanted.names.contains(name))
    };
    let show = |body| {
        any_to_value(body).unwrap_or_else(|error| json!({"error": chain(&error).to_string()}))
    };
    all.iter()
        .filter(|(name, _)| sent(name))
        .map(|(name, resource)| (name.to_string(), show(&resource.body)))
        .collect()
}

/// What the proxy is sent, in the form of `envoy.admin.v3.ConfigDump`. Secrets and bootstrap are
/// the proxy's own.
pub(super) fn config_dump(connected: &Connected, with_endpoints: bool) -> Value {
    let version = connected.snapshot.borrow().version.clone();
    let list = |url: &str, item: &str| -> Vec<Value> {
        let wrap = |(_, body): (String, Value)| json!({"versionInfo": version, item: body});
        named(connected, url).into_iter().map(wrap).collect()
    };
    let listeners: Vec<Value> = named(connected, types::LISTENER)
        .into_iter()
        .map(|(name, body)| {
            json!({"name": name, "activeState": {"versionInfo": version, "listener": body}})
        })
        .collect();
    let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
    let mut configs = vec![
        json!({"@type": kind("BootstrapConfigDump")}),
        json!({"@type": kind("ClustersConfigDump"), "versionInfo": version,
            "dynamicActiveClusters": list(types::CLUSTER, "cluster")}),
    ];
    if with_endpoints {
        configs.push(json!({"@type": kind("EndpointsConfigDump"),
            "dynamicEndpointConfigs": list(types::ENDPOINT, "endpointConfig")}));
    }
    configs.extend([
        json!({"@type": kind("ListenersConfigDump"), "versionInfo": version,
            "dynamicListeners": listeners}),
        json!({"@type": kind("ScopedRoutesConfigDump")}),
        json!({"@type": kind("RoutesConfigDump"),
            "dynamicRouteConfigs": list(types::ROUTE, "routeConfig")}),
        json!({"@type": kind("SecretsConfigDump")}),
        json!({"@type": kind("EcdsConfigDump")}),
    ]);
    json!({ "configs": configs })
}
