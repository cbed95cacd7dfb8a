//! What the control plane believes, as JSON, in the forms that Istio's tools read.
//!
//! From the machine itself everything may be asked. Everybody else authenticates as for xDS;
//! callers outside the system namespace see only what their own namespace's proxies got.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tombolo_model::endpoint::{Address, Endpoint};
use tombolo_runtime::errors::chain;
use tombolo_xds::types;

use crate::push::publisher::Publisher;
use crate::serve::ads::{Connected, Connections};
use crate::serve::authenticate::Authenticator;
use crate::serve::settings::Settings;
use crate::watch::clusters::Clusters;

mod proxies;

use proxies::{ads_state, config_dump, resources, sync_state};

/// What the endpoints read.
#[derive(Clone)]
pub struct Debug {
    pub settings: Arc<Settings>,
    pub authenticator: Arc<Authenticator>,
    pub clusters: Clusters,
    pub publisher: Publisher,
    pub connections: Connections,
}

impl fmt::Debug for Debug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debug").finish_non_exhaustive()
    }
}

/// Endpoints about one proxy, which its own namespace may ask.
const OWN: [&str; 2] = ["config_dump", "edsz"];
const ALL: [&str; 12] = [
    "adsz",
    "clusterz",
    "config_dump",
    "configz",
    "connections",
    "diagnosticsz",
    "edsz",
    "endpointShardz",
    "mesh",
    "networkz",
    "registryz",
    "syncz",
];

/// The routes below `/debug`.
pub fn router(debug: Debug) -> Router {
    Router::new()
        .route("/debug", get(async || Json(ALL)))
        .route("/debug/list", get(async || Json(ALL)))
        .route("/debug/{what}", get(answer))
        .with_state(debug)
}

/// What a caller may see.
enum Scope {
    Everything,
    Namespace(String),
}

async fn answer(
    State(debug): State<Debug>,
    Path(what): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    peer: Option<Extension<SocketAddr>>,
) -> Response {
    let scope = match debug.scope(&headers, peer.map(|Extension(peer)| peer)).await {
        Ok(scope) => scope,
        Err(text) => return (StatusCode::UNAUTHORIZED, text).into_response(),
    };
    if let Scope::Namespace(namespace) = &scope
        && !OWN.contains(&what.as_str())
    {
        let text = format!("callers of namespace {namespace} may ask only {OWN:?}\n");
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let proxy = query.get("proxyID").map(String::as_str);
    match what.as_str() {
        "adsz" => Json(debug.adsz()).into_response(),
        "clusterz" => Json(clusterz(&debug.clusters)).into_response(),
        "configz" => Json(debug.configz()).into_response(),
        "connections" => Json(debug.connected(&scope, None, |it| json!(it.id))).into_response(),
        "diagnosticsz" => Json(debug.diagnosticsz()).into_response(),
        "endpointShardz" | "endpointz" => Json(debug.endpoints()).into_response(),
        "mesh" => Json(json!(debug.publisher.latest().picture.mesh.config)).into_response(),
        "networkz" => Json(debug.networkz()).into_response(),
        "registryz" => Json(debug.registryz()).into_response(),
        "syncz" => {
            let namespace = query.get("namespace").map(String::as_str);
            Json(debug.connected(&scope, namespace, sync_state)).into_response()
        }
        "config_dump" => {
            let with_endpoints = query.contains_key("include_eds");
            debug.of_proxy(&scope, proxy, |it| config_dump(it, with_endpoints))
        }
        "edsz" => debug.of_proxy(&scope, proxy, |it| resources(it, types::ENDPOINT)),
        _ => (StatusCode::NOT_FOUND, format!("there is {ALL:?}\n")).into_response(),
    }
}

impl Debug {
    async fn scope(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<Scope, String> {
        if peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
            return Ok(Scope::Everything);
        }
        let caller = self
            .authenticator
            .authenticate(headers, None)
            .await
            .map_err(|error| format!("{}\n", chain(&error)))?;
        let namespace = caller.id.namespace();
        let allowed = &self.settings.debug_namespaces;
        let everything = namespace == self.settings.namespace
            || allowed.iter().any(|allowed| allowed == namespace);
        Ok(if everything { Scope::Everything } else { Scope::Namespace(namespace.to_owned()) })
    }

    /// The connected proxies that a caller may see, of one namespace or all, each as JSON.
    fn connected(
        &self,
        scope: &Scope,
        namespace: Option<&str>,
        show: impl Fn(&Connected) -> Value,
    ) -> Vec<Value> {
        let all = self.connections.all();
        let asked = |it: &&Arc<Connected>| {
            let namespace = namespace.filter(|namespace| !namespace.is_empty());
            namespace.is_none_or(|namespace| *it.proxy.pod.namespace == *namespace)
        };
        all.iter().filter(|it| scope.includes(it)).filter(asked).map(|it| show(it)).collect()
    }

    fn of_proxy(
        &self,
        scope: &Scope,
        id: Option<&str>,
        show: impl Fn(&Connected) -> Value,
    ) -> Response {
        let Some(id) = id else {
            return (StatusCode::BAD_REQUEST, "say which proxy: ?proxyID=POD.NAMESPACE\n")
                .into_response();
        };
        let all = self.connections.all();
        let is = |it: &&Arc<Connected>| {
            let pod = format!("{}.{}", it.proxy.pod.name, it.proxy.pod.namespace);
            it.id == id || pod == id || it.proxy.id == id
        };
        match all.iter().rev().filter(|it| scope.includes(it)).find(is) {
            Some(found) => Json(show(found)).into_response(),
            None => {
                let text = format!("proxy {id} is not connected to this control plane\n");
                (StatusCode::NOT_FOUND, text).into_response()
            }
        }
    }

    fn adsz(&self) -> Value {
        let clients: Vec<Value> = self.connections.all().iter().map(|it| ads_state(it)).collect();
        json!({"totalClients": clients.len(), "clients": clients})
    }

    fn networkz(&self) -> Value {
        let picture = self.publisher.latest().picture.clone();
        let show = |it: &crate::index::picture::NetworkGateway| {
            json!({
                "network": it.network.as_str(),
                "cluster": it.cluster.as_ref().map(|it| it.as_str()),
                "addr": it.address.to_string(),
                "port": it.port,
            })
        };
        picture.gateways.iter().map(show).collect()
    }

    fn diagnosticsz(&self) -> Value {
        let diagnostics = self.publisher.latest().diagnostics();
        let show = |it: &crate::diagnostic::Diagnostic| {
            json!({
                "cluster": it.cluster.as_str(), "kind": it.kind,
                "namespace": it.object.namespace.to_string(), "name": it.object.name.to_string(),
                "message": it.message,
            })
        };
        diagnostics.iter().map(show).collect()
    }

    fn registryz(&self) -> Value {
        let picture = self.publisher.latest().picture.clone();
        let show = |it: &Arc<tombolo_model::service::Service>| {
            let ports: Vec<Value> = it
                .ports
                .iter()
                .map(|port| json!({"name": port.name, "port": port.number, "protocol": format!("{:?}", port.protocol)}))
                .collect();
            let vips: BTreeMap<&str, Vec<String>> = it
                .vips
                .iter()
                .map(|(cluster, vips)| {
                    (cluster.as_str(), vips.iter().map(ToString::to_string).collect())
                })
                .collect();
            json!({
                "hostname": it.host.as_str(),
                "Attributes": {"Name": it.object.name.to_string(), "Namespace": it.object.namespace.to_string(), "ServiceRegistry": format!("{:?}", it.origin)},
                "ports": ports,
                "clusterVIPs": {"Addresses": vips},
                "meshExternal": it.external,
            })
        };
        picture.services.values().map(show).collect()
    }

    fn endpoints(&self) -> Value {
        let picture = self.publisher.latest().picture.clone();
        let mut all: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        let mut by_namespace: BTreeMap<(&str, &str), Vec<&Endpoint>> = BTreeMap::new();
        for (service, endpoints) in &picture.endpoints {
            let of = by_namespace.entry((service.host.as_str(), &service.object.namespace));
            of.or_default().extend(endpoints.iter());
        }
        for ((host, namespace), endpoints) in by_namespace {
            let mut shards: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            let mut accounts: Vec<String> = Vec::new();
            for endpoint in endpoints {
                let shard = format!("Kubernetes/{}", endpoint.workload.cluster);
                shards.entry(shard).or_default().push(endpoint_state(endpoint));
                accounts.extend(endpoint.workload.identity.as_ref().map(ToString::to_string));
            }
            accounts.sort();
            accounts.dedup();
            let value = json!({"Shards": shards, "ServiceAccounts": accounts});
            all.entry(host.to_owned()).or_default().insert(namespace.to_owned(), value);
        }
        json!(all)
    }

    fn configz(&self) -> Value {
        let picture = self.publisher.latest().picture.clone();
        let config = &picture.config;
        let mut all: Vec<Value> = Vec::new();
        macro_rules! add {
            ($version:literal, $kind:literal, $list:expr) => {
                for object in &$list {
                    all.push(json!({
                        "apiVersion": $version, "kind": $kind,
                        "metadata": {
                            "name": object.name.name.to_string(),
                            "namespace": object.name.namespace.to_string(),
                            "labels": object.labels,
                        },
                        "spec": object.spec,
                    }));
                }
            };
        }
        add!("networking.istio.io/v1", "DestinationRule", config.destination_rules);
        add!("networking.istio.io/v1", "Gateway", config.gateways);
        add!("networking.istio.io/v1", "Sidecar", config.sidecars);
        add!("networking.istio.io/v1", "VirtualService", config.virtual_services);
        add!("security.istio.io/v1", "AuthorizationPolicy", config.authorization_policies);
        add!("security.istio.io/v1", "PeerAuthentication", config.peer_authentications);
        all.into()
    }
}

/// The clusters that are followed, and the remote secrets that link none. A cluster has two entries
/// when it goes on to be followed by what its secret said before.
fn clusterz(clusters: &Clusters) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for it in clusters.all() {
        all.push(json!({"id": it.id.as_str(), "secretName": it.secret, "syncStatus": it.sync.to_string()}));
    }
    for (id, it) in clusters.refused() {
        all.push(json!({"id": id.as_str(), "secretName": it.secret, "syncStatus": "refused", "reason": it.why}));
    }
    all.into()
}

impl Scope {
    fn includes(&self, connected: &Connected) -> bool {
        match self {
            Self::Everything => true,
            Self::Namespace(namespace) => *namespace == *connected.proxy.pod.namespace,
        }
    }
}

fn endpoint_state(endpoint: &Endpoint) -> Value {
    let address = match &endpoint.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Name(name) => name.to_string(),
        Address::BehindGateway => String::new(),
    };
    let workload = &endpoint.workload;
    json!({
        "Addresses": [address],
        "EndpointPort": endpoint.port,
        "ServicePortName": endpoint.port_name,
        "Network": workload.network.as_str(),
        "Locality": {"Label": workload.locality.to_string(), "ClusterID": workload.cluster.as_str()},
        "ServiceAccount": workload.identity.as_ref().map(ToString::to_string),
        "TLSMode": if workload.mutual_tls { "istio" } else { "disabled" },
        "WorkloadName": workload.name,
        "Namespace": workload.object.namespace.to_string(),
        "HealthStatus": format!("{:?}", endpoint.health),
    })
}

#[cfg(test)]
mod tests {
    use tombolo_model::id::ClusterId;

    use super::*;

    #[tokio::test]
    async fn refused_secrets_are_shown_until_they_are_gone() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("not asked here"))
        });
        let client = kube::Client::new(nobody, "default");
        let clusters = Clusters::new(ClusterId::new("cluster01"), client);
        let away = ClusterId::new("cluster02");
        clusters.refuse(&away, "istio-system/away".into(), "user `u`: exec is not allowed".into());
        let own = json!({"id": "cluster01", "secretName": "", "syncStatus": "syncing"});
        let refused = json!({
            "id": "cluster02", "secretName": "istio-system/away", "syncStatus": "refused",
            "reason": "user `u`: exec is not allowed",
        });
        assert_eq!(clusterz(&clusters), json!([own, refused]));
        clusters.retain_refused(|cluster| *cluster != away);
        assert_eq!(clusterz(&clusters), json!([own]));
    }
}
