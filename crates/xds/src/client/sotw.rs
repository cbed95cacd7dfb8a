//! The state-of-the-world protocol, as the client keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::delta::{Held, INVALID_ARGUMENT, ordered};
use super::{Engine, Handler, Interest, Update, refusals};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::proto::google::protobuf::Any;
use crate::proto::google::rpc;
use crate::resource::Resource;
use crate::server::Wanted;
use crate::types;

/// What the client has, and where each type stands on the current stream.
#[derive(Debug)]
pub struct Sotw {
    node: Node,
    held: Held,
    asked: Interest,
    /// Version and nonce that the next request of a type repeats.
    last: BTreeMap<String, (String, String)>,
    /// Types of which something was named on the current stream.
    named: BTreeSet<String>,
}

impl Sotw {
    /// A client that has nothing yet.
    pub fn new(node: Node) -> Self {
        Self {
            node,
            held: Held::default(),
            asked: Interest::default(),
            last: BTreeMap::new(),
            named: BTreeSet::new(),
        }
    }

    /// Goes on with what was accepted over the other protocol.
    pub(super) fn adopt(&mut self, held: Held) {
        self.held = held;
    }

    fn asking(&mut self, type_url: &str, wanted: &Wanted) -> DiscoveryRequest {
        let (version_info, response_nonce) = self.last.get(type_url).cloned().unwrap_or_default();
        let mut names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        // Naming nothing means everything, for the types that allow it, until something is named.
        let implied =
            names.is_empty() && types::is_wildcard(type_url) && !self.named.contains(type_url);
        if wanted.all && !implied {
            names.push("*".to_owned());
        }
        if !names.is_empty() {
            self.named.insert(type_url.to_owned());
        }
        DiscoveryRequest {
            version_info,
            resource_names: names,
            type_url: type_url.to_owned(),
            response_nonce,
            ..DiscoveryRequest::default()
        }
    }
}

impl Engine for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    async fn open(
        client: &mut AggregatedDiscoveryServiceClient<Channel>,
        request: Request<ReceiverStream<DiscoveryRequest>>,
    ) -> Result<Streaming<DiscoveryResponse>, Status> {
        client.stream_aggregated_resources(request).await.map(tonic::Response::into_inner)
    }

    fn begin(&mut self, wanted: &Interest) -> Vec<DiscoveryRequest> {
        self.asked.clear();
        self.named.clear();
        for (_, nonce) in self.last.values_mut() {
            nonce.clear();
        }
        let mut requests = self.want(wanted);
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.clone());
        }
        requests
    }

    fn want(&mut self, wanted: &Interest) -> Vec<DiscoveryRequest> {
        let mut requests = Vec::new();
        for (type_url, wanted) in ordered(wanted) {
            let before = self.asked.get(type_url);
            let nothing = !wanted.all && wanted.names.is_empty();
            if before == Some(wanted) || before.is_none() && nothing {
                continue;
            }
            if let Some(held) = self.held.get_mut(type_url) {
                held.retain(|name, _| wanted.all || wanted.names.contains(name));
            }
            if before.is_some() && !self.named.contains(type_url) {
                // Everything was asked for by naming nothing. Nothing cannot be asked for any more:
                // it looks the same. What comes is dropped, and to get it back we start over.
                if nothing {
                    self.asked.insert(type_url.clone(), wanted.clone());
                    continue;
                }
                if let Some((_, nonce)) = self.last.get_mut(type_url) {
                    nonce.clear();
                }
            }
            requests.push(self.asking(type_url, wanted));
            self.asked.insert(type_url.clone(), wanted.clone());
        }
        requests
    }

    fn response(
        &mut self,
        response: DiscoveryResponse,
        handler: &mut dyn Handler,
    ) -> DiscoveryRequest {
        let type_url = response.type_url;
        let (mut resources, nameless) = read(response.resources);
        // What is no longer wanted may still be on its way.
        let wanted = self.asked.get(&type_url).cloned().unwrap_or_default();
        resources.retain(|each| wanted.all || wanted.names.contains(&each.name));
        let held = self.held.entry(type_url.clone()).or_default();
        let present: BTreeSet<Arc<str>> = resources.iter().map(|each| each.name.clone()).collect();
        let removed: Vec<Arc<str>> = if types::lists_everything(&type_url) && nameless.is_empty() {
            held.keys().filter(|name| !present.contains(*name)).cloned().collect()
        } else {
            Vec::new()
        };
        let changed: Vec<Resource> = resources
            .into_iter()
            .filter(|each| held.get(&each.name) != Some(&each.version))
            .collect();
        let versions: Vec<_> =
            changed.iter().map(|each| (each.name.clone(), each.version.clone())).collect();
        let mut refused = handler.update(Update {
            type_url: type_url.clone(),
            version: response.version_info.clone(),
            changed,
            removed: removed.clone(),
        });
        refused.extend(nameless);
        let refused = refusals(&refused);
        for name in &removed {
            held.remove(name);
        }
        for (name, version) in versions {
            if refused.as_ref().is_none_or(|(_, names)| !names.contains(&name)) {
                held.insert(name, version);
            }
        }
        let last = self.last.entry(type_url.clone()).or_default();
        last.1 = response.nonce;
        if refused.is_none() {
            last.0 = response.version_info;
        }
        DiscoveryRequest {
            error_detail: refused.map(|(message, _)| rpc::Status {
                code: INVALID_ARGUMENT,
                message,
                ..rpc::Status::default()
            }),
            ..self.asking(&type_url, &wanted)
        }
    }
}

/// Gives resources their names, which this protocol carries inside the bodies only.
fn read(bodies: Vec<Any>) -> (Vec<Resource>, Vec<super::Refusal>) {
    let (mut named, mut nameless) = (Vec::new(), Vec::new());
    for body in bodies {
        match name(&body) {
            Ok(name) => named.push(Resource::from_any(name, body)),
            Err(reason) => {
                nameless.push(super::Refusal { name: body.type_url.as_str().into(), reason });
            }
        }
    }
    (named, nameless)
}

/// The name in a body. Field 1 holds it in every type we know, a string.
fn name(body: &Any) -> Result<String, String> {
    #[derive(prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    use prost::Message;
    match Named::decode(body.value.clone()) {
        Ok(named) if !named.name.is_empty() => Ok(named.name),
        Ok(_) => Err("a resource without a name".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
