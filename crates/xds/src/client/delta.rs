//! The incremental protocol, as the client keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::{Engine, Handler, Interest, Update, refusals};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::proto::google::rpc;
use crate::resource::Resource;
use crate::server::Wanted;

/// Versions of accepted resources by type and name.
pub(super) type Held = BTreeMap<String, BTreeMap<Arc<str>, Arc<str>>>;

/// gRPC's `INVALID_ARGUMENT`, which a NACK carries.
pub(super) const INVALID_ARGUMENT: i32 = 3;

/// What the client has, and what it told the server on the current stream.
#[derive(Debug)]
pub struct Delta {
    node: Node,
    held: Held,
    asked: Interest,
}

impl Delta {
    /// A client that has nothing yet.
    pub fn new(node: Node) -> Self {
        Self { node, held: Held::default(), asked: Interest::default() }
    }

    pub(super) fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    fn opening(&mut self, type_url: &str, wanted: &Wanted) -> DeltaDiscoveryRequest {
        let held = self.held.entry(type_url.to_owned()).or_default();
        held.retain(|name, _| wanted.all || wanted.names.contains(name));
        let versions = held.iter().map(|(name, version)| (name.to_string(), version.to_string()));
        let mut subscribe: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        if wanted.all {
            subscribe.push("*".to_owned());
        }
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: versions.collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn changing(
        &mut self,
        type_url: &str,
        wanted: &Wanted,
        before: &Wanted,
    ) -> DeltaDiscoveryRequest {
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        subscribe.extend(wanted.names.difference(&before.names).map(ToString::to_string));
        unsubscribe.extend(before.names.difference(&wanted.names).map(ToString::to_string));
        match (before.all, wanted.all) {
            (false, true) => subscribe.push("*".to_owned()),
            (true, false) => unsubscribe.push("*".to_owned()),
            _ => (),
        }
        let held = self.held.entry(type_url.to_owned()).or_default();
        held.retain(|name, _| wanted.all || wanted.names.contains(name));
        DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// The types of `wanted` in the order a proxy needs them.
pub(super) fn ordered(wanted: &Interest) -> Vec<(&String, &Wanted)> {
    let mut types: Vec<_> = wanted.iter().collect();
    types.sort_by_key(|(type_url, _)| crate::types::rank(type_url));
    types
}

impl Engine for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    async fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        request: Request<ReceiverStream<DeltaDiscoveryRequest>>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        client.delta_aggregated_resources(request).await.map(tonic::Response::into_inner)
    }

    fn begin(&mut self, wanted: &Interest) -> Vec<DeltaDiscoveryRequest> {
        self.asked.clear();
        let mut requests = self.want(wanted);
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.clone());
        }
        requests
    }

    fn want(&mut self, wanted: &Interest) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for (type_url, wanted) in ordered(wanted) {
            match self.asked.get(type_url).cloned() {
                // Subscribing to nothing would mean everything.
                None if !wanted.all && wanted.names.is_empty() => continue,
                None => requests.push(self.opening(type_url, wanted)),
                Some(before) if before == *wanted => continue,
                Some(before) => requests.push(self.changing(type_url, wanted, &before)),
            }
            self.asked.insert(type_url.clone(), wanted.clone());
        }
        requests
    }

    fn response(
        &mut self,
        response: DeltaDiscoveryResponse,
        handler: &mut dyn Handler,
    ) -> DeltaDiscoveryRequest {
        let type_url = response.type_url;
        let wanted = self.asked.get(&type_url).cloned().unwrap_or_default();
        let changed: Vec<Resource> = response
            .resources
            .into_iter()
            // What was unsubscribed from meanwhile may still be on its way.
            .filter(|wire| wanted.all || wanted.names.contains(wire.name.as_str()))
            .map(|wire| Resource {
                name: wire.name.into(),
                version: wire.version.into(),
                body: wire.resource.unwrap_or_default(),
            })
            .collect();
        let removed: Vec<Arc<str>> =
            response.removed_resources.into_iter().map(Arc::from).collect();
        let versions: Vec<_> =
            changed.iter().map(|each| (each.name.clone(), each.version.clone())).collect();
        let refused = refusals(&handler.update(Update {
            type_url: type_url.clone(),
            version: response.system_version_info,
            changed,
            removed: removed.clone(),
        }));
        let held = self.held.entry(type_url.clone()).or_default();
        for name in &removed {
            held.remove(name);
        }
        for (name, version) in versions {
            // The handler keeps the version it had before, if any; so do we.
            if refused.as_ref().is_none_or(|(_, names)| !names.contains(&name)) {
                held.insert(name, version);
            }
        }
        DeltaDiscoveryRequest {
            type_url,
            response_nonce: response.nonce,
            error_detail: refused.map(|(message, _)| rpc::Status {
                code: INVALID_ARGUMENT,
                message,
                ..rpc::Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        }
    }
}
