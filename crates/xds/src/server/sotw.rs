//! The state-of-the-world protocol for one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Engine, Following, MOST_NAMES, Subscriber, Wanted, too_many};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use crate::resource::{Resource, Resources, Snapshot};
use crate::types::{self, CLUSTER, ENDPOINT};
use tonic::Status;

/// What one client of the state-of-the-world protocol wants and was sent.
#[derive(Debug)]
pub struct Sotw(Following<Watch>);

#[derive(Debug, Default)]
struct Watch {
    wanted: Wanted,
    /// Versions of what was sent.
    sent: BTreeMap<Arc<str>, Arc<str>>,
    nonce: String,
    /// Whether the client has named anything on this stream.
    named: bool,
    /// The map that `sent` was compared with last; none when it must be compared again.
    seen: Option<Arc<Resources>>,
    /// The client waits for an answer, even if nothing changed.
    owed: bool,
    /// The next request is answered whatever it says: Envoy warms a cluster with the answer.
    answer_next: bool,
}

impl Sotw {
    /// A stream that nothing was asked on yet.
    pub fn new(identifier: Arc<str>) -> Self {
        Self(Following::new(identifier))
    }
}

impl Engine for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &mut DiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn request(
        &mut self,
        request: DiscoveryRequest,
        subscriber: &dyn Subscriber,
    ) -> Result<(), Status> {
        let type_url = request.type_url;
        let (watch, first) = self.0.watch(&type_url)?;
        if request.resource_names.len() > MOST_NAMES {
            return Err(too_many("names"));
        }
        let rejected = request.error_detail.is_some();
        if let Some(error) = &request.error_detail {
            subscriber.rejected(&type_url, &request.response_nonce, &error.message);
        }
        if !first && !request.response_nonce.is_empty() {
            if request.response_nonce != watch.nonce {
                return Ok(()); // An answer to a response that a newer one has overtaken.
            }
            if !rejected {
                subscriber.accepted(&type_url, &request.response_nonce);
            }
        }
        // A rejection too may name more than before: the request that first did may have been
        // overtaken by the very response that is rejected here.
        let before = watch.wanted.clone();
        watch.want(request.resource_names, &type_url);
        let restarts = first || request.response_nonce.is_empty();
        if restarts {
            watch.sent.clear();
        }
        let answer = !rejected && std::mem::take(&mut watch.answer_next);
        if restarts || answer || watch.wanted.all && !before.all {
            watch.owed = true;
        }
        if answer {
            watch.sent.clear();
        }
        if first || watch.wanted != before {
            watch.seen = None;
            subscriber.subscribed(&type_url, &watch.wanted);
        }
        if watch.owed {
            watch.seen = None;
        }
        Ok(())
    }

    fn response(
        &mut self,
        snapshot: &Snapshot,
        subscriber: &dyn Subscriber,
    ) -> Option<DiscoveryResponse> {
        for type_url in self.0.types() {
            let all = snapshot.resources(&type_url).cloned().unwrap_or_default();
            let nonce = self.0.nonces.next(&snapshot.version);
            let Some(resources) = self
                .0
                .watches
                .get_mut(&type_url)
                .and_then(|watch| watch.difference(&all, &type_url, &nonce))
            else {
                continue;
            };
            if type_url == CLUSTER {
                self.warm();
            }
            subscriber.sent(&type_url, &nonce, resources.len());
            return Some(DiscoveryResponse {
                version_info: snapshot.version.clone(),
                resources: resources.into_iter().map(|resource| resource.body).collect(),
                type_url,
                nonce,
                control_plane: self.0.control_plane(),
                ..DiscoveryResponse::default()
            });
        }
        None
    }
}

impl Sotw {
    /// After clusters all their endpoints go out again, and the next request is answered too.
    fn warm(&mut self) {
        if let Some(endpoints) = self.0.watches.get_mut(ENDPOINT) {
            endpoints.sent.clear();
            endpoints.seen = None;
            endpoints.answer_next = true;
        }
    }
}

impl Watch {
    fn want(&mut self, names: Vec<String>, type_url: &str) {
        // Naming nothing means everything only as long as nothing was ever named.
        self.wanted.all = names.iter().any(|name| name == "*")
            || names.is_empty() && !self.named && types::is_wildcard(type_url);
        self.named |= !names.is_empty();
        self.wanted.names = names.into_iter().filter(|name| name != "*").map(Arc::from).collect();
        let wanted = &self.wanted;
        self.sent.retain(|name, _| wanted.all || wanted.names.contains(name));
    }

    /// What to send, or nothing when the client is up to date. It is taken as sent.
    fn difference(
        &mut self,
        all: &Arc<Resources>,
        type_url: &str,
        nonce: &str,
    ) -> Option<Vec<Resource>> {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, all)) {
            return None;
        }
        self.seen = Some(all.clone());
        let wanted: Vec<&Resource> = if self.wanted.all {
            all.values().collect()
        } else {
            self.wanted.names.iter().filter_map(|name| all.get(name)).collect()
        };
        let is_new =
            |resource: &&&Resource| self.sent.get(&resource.name) != Some(&resource.version);
        let names: BTreeSet<&Arc<str>> = wanted.iter().map(|resource| &resource.name).collect();
        let gone = self.sent.keys().any(|name| !names.contains(name));
        let changed: Vec<&Resource> = wanted.iter().filter(is_new).copied().collect();
        let owed = std::mem::take(&mut self.owed);
        let complete = types::lists_everything(type_url);
        // A named type cannot say that something is gone; the client notices by other types.
        if !owed && changed.is_empty() && !(complete && gone) {
            self.sent.retain(|name, _| all.contains_key(name));
            return None;
        }
        if !self.wanted.all && self.wanted.names.is_empty() {
            return None;
        }
        let send: Vec<Resource> =
            (if complete || owed { wanted } else { changed }).into_iter().cloned().collect();
        self.sent.retain(|name, _| all.contains_key(name));
        for resource in &send {
            self.sent.insert(resource.name.clone(), resource.version.clone());
        }
        nonce.clone_into(&mut self.nonce);
        Some(send)
    }
}
