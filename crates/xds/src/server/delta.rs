//! The incremental protocol for one stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Engine, Following, MOST_NAMES, Nonces, Subscriber, Wanted, too_many};
use crate::proto::envoy::config::core::v3::Node;
use crate::proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire,
};
use crate::resource::{Resource, Resources, Snapshot};
use crate::types::{self, CLUSTER, ENDPOINT};
use tonic::Status;

/// What one client of the incremental protocol wants and has.
#[derive(Debug)]
pub struct Delta(Following<Watch>);

#[derive(Debug, Default)]
struct Watch {
    wanted: Wanted,
    /// Versions of what the client has, as far as we know.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// Names whose absence the client must be told once more.
    unanswered: BTreeSet<Arc<str>>,
    /// Names in responses that the client has not answered yet, with the number of the last such
    /// response. Until then a name that is not wanted may be wanted again when it arrives.
    on_the_way: BTreeMap<Arc<str>, u64>,
    /// The map that `held` was compared with last; none when it must be compared again.
    seen: Option<Arc<Resources>>,
    /// Whether a first response went out; an empty one counts.
    answered: bool,
}

impl Delta {
    /// A stream that nothing was asked on yet.
    pub fn new(identifier: Arc<str>) -> Self {
        Self(Following::new(identifier))
    }
}

impl Engine for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn request(
        &mut self,
        request: DeltaDiscoveryRequest,
        subscriber: &dyn Subscriber,
    ) -> Result<(), Status> {
        let type_url = request.type_url;
        let (watch, first) = self.0.watch(&type_url)?;
        if !request.response_nonce.is_empty() {
            match &request.error_detail {
                None => subscriber.accepted(&type_url, &request.response_nonce),
                Some(error) => {
                    subscriber.rejected(&type_url, &request.response_nonce, &error.message);
                }
            }
        }
        watch.arrived(&request.response_nonce);
        let before = watch.wanted.clone();
        if first {
            watch.held = request
                .initial_resource_versions
                .into_iter()
                .map(|(name, version)| (Arc::from(name), Arc::from(version)))
                .collect();
            watch.wanted.all =
                request.resource_names_subscribe.is_empty() && types::is_wildcard(&type_url);
        }
        watch.subscribe(request.resource_names_subscribe, first);
        watch.unsubscribe(request.resource_names_unsubscribe);
        if watch.wanted.names.len() > MOST_NAMES || watch.held.len() > MOST_NAMES {
            return Err(too_many("names"));
        }
        if first || watch.wanted != before {
            subscriber.subscribed(&type_url, &watch.wanted);
        }
        Ok(())
    }

    fn response(
        &mut self,
        snapshot: &Snapshot,
        subscriber: &dyn Subscriber,
    ) -> Option<DeltaDiscoveryResponse> {
        for type_url in self.0.types() {
            let all = snapshot.resources(&type_url).cloned().unwrap_or_default();
            let Some((changed, removed)) =
                self.0.watches.get_mut(&type_url).and_then(|watch| watch.difference(&all))
            else {
                continue;
            };
            if type_url == CLUSTER {
                self.warm(&changed);
            }
            let nonce = self.0.nonces.next(&snapshot.version);
            if let Some(watch) = self.0.watches.get_mut(&type_url) {
                watch.leaves(self.0.nonces.0, &changed, &removed);
            }
            subscriber.sent(&type_url, &nonce, changed.len());
            return Some(DeltaDiscoveryResponse {
                system_version_info: snapshot.version.clone(),
                resources: changed.into_iter().map(wire).collect(),
                type_url,
                removed_resources: removed.iter().map(ToString::to_string).collect(),
                nonce,
                control_plane: self.0.control_plane(),
                ..DeltaDiscoveryResponse::default()
            });
        }
        None
    }
}

impl Delta {
    /// A client that got clusters waits for their endpoints, also for those it has already.
    fn warm(&mut self, clusters: &[Resource]) {
        let Some(endpoints) = self.0.watches.get_mut(ENDPOINT) else { return };
        for cluster in clusters {
            // Held in a version that no endpoints have: sent again, or said to be removed.
            if let Some(version) = endpoints.held.get_mut(&cluster.name) {
                *version = Arc::from("");
                endpoints.seen = None;
            }
        }
    }
}

fn wire(resource: Resource) -> Wire {
    Wire {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.body),
        ..Wire::default()
    }
}

impl Watch {
    fn subscribe(&mut self, names: Vec<String>, first: bool) {
        for name in names {
            self.seen = None;
            if name == "*" {
                self.wanted.all = true;
                let on_the_way = self.on_the_way.keys();
                self.unanswered
                    .extend(on_the_way.filter(|name| !self.held.contains_key(*name)).cloned());
                continue;
            }
            let name: Arc<str> = name.into();
            // Asking again for something means not having it, but a stream may begin with what
            // the client kept from the one before.
            if !first {
                self.held.remove(&name);
            }
            self.unanswered.insert(name.clone());
            self.wanted.names.insert(name);
        }
    }

    fn unsubscribe(&mut self, names: Vec<String>) {
        for name in names {
            self.seen = None;
            if name == "*" {
                self.wanted.all = false;
                let keep = &self.wanted.names;
                self.held.retain(|name, _| keep.contains(name));
                continue;
            }
            self.wanted.names.remove(name.as_str());
            self.unanswered.remove(name.as_str());
            if self.wanted.all {
                // Still wanted through the wildcard; the client may have dropped it, though.
                self.unanswered.insert(name.as_str().into());
            }
            self.held.remove(name.as_str());
        }
    }

    /// The client answered the response with this nonce, and so all before it.
    fn arrived(&mut self, nonce: &str) {
        if let Some(number) = Nonces::number(nonce) {
            self.on_the_way.retain(|_, last| *last > number);
        }
    }

    /// A response with this number goes out.
    fn leaves(&mut self, number: u64, changed: &[Resource], removed: &[Arc<str>]) {
        self.on_the_way.extend(changed.iter().map(|resource| (resource.name.clone(), number)));
        for name in removed {
            self.on_the_way.remove(name);
        }
    }

    /// What the client lacks and what it has too much, or nothing when it is up to date.
    /// Both are taken as sent.
    fn difference(&mut self, all: &Arc<Resources>) -> Option<(Vec<Resource>, Vec<Arc<str>>)> {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, all)) {
            return None;
        }
        let mut changed = Vec::new();
        let mut look = |resource: &Resource, held: &BTreeMap<Arc<str>, Arc<str>>| {
            if held.get(&resource.name) != Some(&resource.version) {
                changed.push(resource.clone());
            }
        };
        if self.wanted.all {
            all.values().for_each(|resource| look(resource, &self.held));
        } else {
            let known = self.wanted.names.iter().filter_map(|name| all.get(name));
            known.for_each(|resource| look(resource, &self.held));
        }
        let gone = |name: &&Arc<str>| {
            !all.contains_key(*name) || !(self.wanted.all || self.wanted.names.contains(*name))
        };
        let mut removed: BTreeSet<Arc<str>> = self.held.keys().filter(gone).cloned().collect();
        removed.extend(self.unanswered.iter().filter(|name| !all.contains_key(*name)).cloned());
        for resource in &changed {
            self.held.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &removed {
            self.held.remove(name);
        }
        self.unanswered.clear();
        self.seen = Some(all.clone());
        let first = !std::mem::replace(&mut self.answered, true);
        if !first && changed.is_empty() && removed.is_empty() {
            return None;
        }
        // Nobody waits for the first answer to a question that was not asked.
        if !self.wanted.all && self.wanted.names.is_empty() && removed.is_empty() {
            return None;
        }
        Some((changed, removed.into_iter().collect()))
    }
}
