//! The property both engines exist for: whatever is published, asked for, delayed and cut, in the
//! end the client has what the server has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use crate::client::{self, Engine as ClientEngine, Handler, Interest, Refusal, Update};
use crate::proto::envoy::config::cluster::v3::Cluster;
use crate::proto::envoy::config::core::v3::Node;
use crate::resource::{Resource, Snapshot};
use crate::server::{self, Engine as ServerEngine, Subscriber, Wanted};
use crate::types;

const TYPES: [&str; 3] = [types::CLUSTER, types::ENDPOINT, types::LISTENER];
/// Resources with this content are refused by the client.
const BAD: u8 = 3;

/// Content by type and name.
type World = BTreeMap<(usize, u8), u8>;

#[derive(Clone, Debug)]
enum Step {
    Publish(World),
    Want(usize, bool, std::collections::BTreeSet<u8>),
    /// One request arrives.
    Request,
    /// One response is made and sent.
    Respond,
    /// One response arrives.
    Response,
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let world = || btree_map((0..TYPES.len(), 0..4u8), 0..=BAD, 0..10);
    let step = prop_oneof![
        3 => world().prop_map(Step::Publish),
        3 => (0..TYPES.len(), any::<bool>(), btree_set(0..4u8, 0..4))
            .prop_map(|(kind, all, names)| Step::Want(kind, all, names)),
        6 => Just(Step::Request),
        6 => Just(Step::Respond),
        6 => Just(Step::Response),
        1 => Just(Step::Cut),
    ];
    vec(step, 0..60)
}

fn resource(name: u8, content: u8) -> Resource {
    // Every type carries its name in field 1, which is all that matters here.
    let body = Cluster {
        name: name.to_string(),
        alt_stat_name: content.to_string(),
        ..Cluster::default()
    };
    Resource::encode(name.to_string(), &body)
}

fn content(resource: &Resource) -> u8 {
    resource.decode::<Cluster>().unwrap().alt_stat_name.parse().unwrap()
}

fn snapshot(world: &World) -> Snapshot {
    let mut snapshot = Snapshot { version: "v".into(), ..Snapshot::default() };
    for (at, type_url) in TYPES.into_iter().enumerate() {
        let of_type = world.iter().filter(|((kind, _), _)| *kind == at);
        snapshot =
            snapshot.with(type_url, of_type.map(|((_, name), content)| resource(*name, *content)));
    }
    snapshot
}

/// Content by type URL and name.
type Contents = BTreeMap<(String, Arc<str>), u8>;

/// What the client's owner holds.
#[derive(Default)]
struct Store(Contents);

impl Handler for Store {
    fn update(&mut self, update: Update) -> Vec<Refusal> {
        let mut refused = Vec::new();
        for resource in update.changed {
            match content(&resource) {
                BAD => refused.push(Refusal { name: resource.name, reason: "bad".into() }),
                good => {
                    self.0.insert((update.type_url.clone(), resource.name), good);
                }
            }
        }
        for name in update.removed {
            self.0.remove(&(update.type_url.clone(), name));
        }
        refused
    }
}

struct Nobody;
impl Subscriber for Nobody {
    fn snapshots(&self) -> tokio::sync::watch::Receiver<Arc<Snapshot>> {
        unreachable!("engines are driven by hand here")
    }
}

/// A client, a server and the wire between them.
struct Scene<C: ClientEngine, S> {
    client: C,
    server: S,
    new_server: fn() -> S,
    requests: VecDeque<C::Request>,
    responses: VecDeque<C::Response>,
    store: Store,
    interest: Interest,
    snapshot: Snapshot,
}

impl<C, S> Scene<C, S>
where
    C: ClientEngine,
    S: ServerEngine<Request = C::Request, Response = C::Response>,
{
    fn new(client: C, new_server: fn() -> S) -> Self {
        let mut scene = Self {
            client,
            server: new_server(),
            new_server,
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            store: Store::default(),
            interest: Interest::default(),
            snapshot: snapshot(&World::new()),
        };
        scene.cut();
        scene
    }

    fn cut(&mut self) {
        self.requests.clear();
        self.responses.clear();
        self.server = (self.new_server)();
        self.requests.extend(self.client.begin(&self.interest));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish(world) => self.snapshot = snapshot(&world),
            Step::Want(kind, all, names) => {
                let names = names.iter().map(|name| Arc::from(name.to_string())).collect();
                let wanted = Wanted { all: all && types::is_wildcard(TYPES[kind]), names };
                self.store.0.retain(|(type_url, name), _| {
                    type_url != TYPES[kind] || wanted.all || wanted.names.contains(name)
                });
                self.interest.insert(TYPES[kind].to_owned(), wanted);
                self.requests.extend(self.client.want(&self.interest));
            }
            Step::Request => {
                if let Some(mut request) = self.requests.pop_front() {
                    S::node(&mut request);
                    self.server.request(request, &Nobody).unwrap();
                }
            }
            Step::Respond => self.responses.extend(self.server.response(&self.snapshot, &Nobody)),
            Step::Response => {
                if let Some(response) = self.responses.pop_front() {
                    self.requests.push_back(self.client.response(response, &mut self.store));
                }
            }
            Step::Cut => self.cut(),
        }
    }

    /// Lets everything arrive. Says whether it came to an end.
    fn settle(&mut self) -> bool {
        for _ in 0..1000 {
            self.take(Step::Request);
            self.take(Step::Respond);
            self.take(Step::Response);
            if self.requests.is_empty() && self.responses.is_empty() {
                let next = self.server.response(&self.snapshot, &Nobody);
                if next.is_none() {
                    return true;
                }
                self.responses.extend(next);
            }
        }
        false
    }

    /// What the client should hold, and what it does; without what it refuses.
    fn compare(&self) -> (Contents, Contents) {
        let (mut want, mut bad) = (BTreeMap::new(), Vec::new());
        for (type_url, wanted) in &self.interest {
            let all = self.snapshot.resources(type_url).unwrap();
            for resource in all.values().filter(|it| wanted.all || wanted.names.contains(&it.name))
            {
                let key = (type_url.clone(), resource.name.clone());
                match content(resource) {
                    BAD => bad.push(key),
                    good => drop(want.insert(key, good)),
                }
            }
        }
        let held = self.store.0.iter().filter(|(key, _)| !bad.contains(key));
        (want, held.map(|(key, value)| (key.clone(), *value)).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_incremental_protocol_converges_after_any_cut(steps in steps()) {
        let new_server = || server::Delta::new("server".into());
        let mut scene = Scene::new(client::Delta::new(Node::default()), new_server);
        for step in steps {
            scene.take(step);
        }
        prop_assert!(scene.settle(), "it never came to rest");
        let (want, held) = scene.compare();
        prop_assert_eq!(want, held);
    }

    #[test]
    fn the_state_of_the_world_converges_after_any_cut(steps in steps()) {
        let new_server = || server::Sotw::new("server".into());
        let mut scene = Scene::new(client::Sotw::new(Node::default()), new_server);
        for step in steps {
            scene.take(step);
        }
        prop_assert!(scene.settle(), "it never came to rest");
        let (want, held) = scene.compare();
        // This protocol cannot say that endpoints are gone.
        for (key, content) in &want {
            prop_assert_eq!(held.get(key), Some(content), "{:?}", key);
        }
        for key in held.keys().filter(|(type_url, _)| type_url != types::ENDPOINT) {
            prop_assert!(want.contains_key(key), "{:?} should be gone", key);
        }
    }
}

fn wanting(
    type_url: &str,
    names: &[&str],
) -> crate::proto::envoy::service::discovery::v3::DeltaDiscoveryRequest {
    crate::proto::envoy::service::discovery::v3::DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

#[test]
fn endpoints_of_a_changed_cluster_are_sent_again_after_it() {
    let mut engine = server::Delta::new("server".into());
    engine.request(wanting(types::CLUSTER, &[]), &Nobody).unwrap();
    engine.request(wanting(types::ENDPOINT, &["1", "2"]), &Nobody).unwrap();
    let first = World::from([((0, 1), 0), ((0, 2), 0), ((1, 1), 0), ((1, 2), 0)]);
    let mut sent = |world: &World| {
        let snapshot = snapshot(world);
        let responses = std::iter::from_fn(|| engine.response(&snapshot, &Nobody));
        let names = |it: crate::proto::envoy::service::discovery::v3::DeltaDiscoveryResponse| {
            let names: Vec<String> = it.resources.into_iter().map(|it| it.name).collect();
            (it.type_url, names)
        };
        responses.take(10).map(names).collect::<Vec<_>>()
    };
    let two = || vec!["1".to_owned(), "2".to_owned()];
    assert_eq!(
        sent(&first),
        [(types::CLUSTER.to_owned(), two()), (types::ENDPOINT.to_owned(), two())]
    );
    assert_eq!(sent(&first), []);
    let mut changed = first;
    changed.insert((0, 2), 1);
    let one = || vec!["2".to_owned()];
    assert_eq!(
        sent(&changed),
        [(types::CLUSTER.to_owned(), one()), (types::ENDPOINT.to_owned(), one())]
    );
}

#[test]
fn what_does_not_exist_is_said_to_be_removed_and_an_empty_wildcard_is_answered() {
    let mut engine = server::Delta::new("server".into());
    engine.request(wanting(types::LISTENER, &[]), &Nobody).unwrap();
    engine.request(wanting(types::ENDPOINT, &["ghost"]), &Nobody).unwrap();
    let empty = snapshot(&World::new());
    let endpoints = engine.response(&empty, &Nobody).unwrap();
    assert_eq!(
        (endpoints.type_url.as_str(), endpoints.removed_resources),
        (types::ENDPOINT, vec!["ghost".to_owned()])
    );
    let listeners = engine.response(&empty, &Nobody).unwrap();
    assert_eq!((listeners.type_url.as_str(), listeners.resources.len()), (types::LISTENER, 0));
    assert!(engine.response(&empty, &Nobody).is_none());
}
