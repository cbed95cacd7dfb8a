//! What pictures promise: the order of events does not show, and changes touch no more than they
//! must.

#![cfg(test)]

#[path = "golden_support/scenario.rs"]
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tombolo_control::compile::resource::ResourceType;
use tombolo_control::index::live::{Change, Event, Live};
use tombolo_control::index::objects::Object;
use tombolo_control::index::picture::Picture;
use tombolo_control::push::publish::Changes;
use tombolo_control::push::publisher::Publisher;
use tombolo_control::serve::ads::Compile;
use tombolo_control::serve::compiler::Compiler;
use tombolo_model::endpoint::Health;
use tombolo_model::id::{ClusterId, Host, ObjectName};
use tombolo_xds::resource::Resources;

const SCENARIO: &str = "traffic-rules";

fn live(events: impl IntoIterator<Item = Event>) -> Live {
    let mut live = Live::new(ClusterId::new("cluster01"), "cluster.local", "istio-system");
    for event in events {
        live.apply(event);
    }
    live
}

fn is_opening(event: &Event) -> bool {
    matches!(event.change, Change::Opened)
}

/// An event that takes back what `event` did.
fn undo(event: &Event) -> Option<Event> {
    let Change::Apply(object) = &event.change else { return None };
    let change = Change::Delete(object.kind(), object.name().clone());
    Some(Event { change, ..event.clone() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The picture is a function of the set of live objects: clusters may report in any order,
    /// anything may be reported twice, and may have come and gone before.
    #[test]
    fn the_order_of_events_does_not_show(
        shuffled in Just(scenario::events(&scenario::folder().join(SCENARIO))).prop_shuffle(),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let want = Picture::of(&live(scenario::events(&scenario::folder().join(SCENARIO))));
        let (openings, rest): (Vec<Event>, Vec<Event>) =
            shuffled.into_iter().partition(is_opening);
        let repeated: Vec<Event> = again.iter().map(|at| at.get(&rest).clone()).collect();
        let came_and_went: Vec<Event> =
            repeated.iter().flat_map(|event| [Some(event.clone()), undo(event)]).flatten().collect();
        let all = openings
            .into_iter()
            .chain(came_and_went)
            .chain(rest)
            .chain(repeated);
        prop_assert_eq!(Picture::of(&live(all)), want);
    }
}

/// The same events, in which `helloworld` in the second cluster is not ready.
fn with_second_cluster_unready() -> Vec<Event> {
    let mut events = scenario::events(&scenario::folder().join(SCENARIO));
    for event in &mut events {
        if let Change::Apply(Object::Slice(slice)) = &mut event.change
            && event.cluster == ClusterId::new("cluster02")
            && &*slice.service == "helloworld"
        {
            for endpoint in &mut slice.endpoints {
                endpoint.health = Health::Unhealthy;
            }
        }
    }
    events
}

#[test]
fn a_change_of_endpoints_compiles_only_those_endpoints() {
    let (picture, proxies) = scenario::load(SCENARIO);
    let sleep = &proxies["cluster01-sleep"].0;
    let publisher = Publisher::new(picture);
    let before = publisher.latest();
    let compiler = Compiler::default();
    let endpoints = compiler.compile(&before, sleep, ResourceType::Endpoint);
    let clusters = compiler.compile(&before, sleep, ResourceType::Cluster);

    assert!(publisher.publish(Picture::of(&live(with_second_cluster_unready()))));
    let after = publisher.latest();
    let host = Host::new("helloworld.sample.svc.cluster.local");
    let changes = after.changes_since(before.generation);
    assert_eq!(changes, Changes { endpoints: BTreeSet::from([host]), ..Changes::default() },);
    assert!(changes.touches(ResourceType::Endpoint, sleep));
    assert!(!changes.touches(ResourceType::Cluster, sleep));

    let now = compiler.compile(&after, sleep, ResourceType::Endpoint);
    let afresh = Compiler::default().compile(&after, sleep, ResourceType::Endpoint);
    let versions = |of: &Resources| -> BTreeMap<Arc<str>, Arc<str>> {
        of.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect()
    };
    assert_eq!(versions(&now), versions(&afresh));
    let before = versions(&endpoints);
    let different: Vec<String> = versions(&now)
        .into_iter()
        .filter(|(name, version)| before.get(name) != Some(version))
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(
        different,
        [
            "outbound|5000|v2|helloworld.sample.svc.cluster.local",
            "outbound|5000||helloworld.sample.svc.cluster.local",
        ]
    );
    let again = compiler.compile(&after, sleep, ResourceType::Cluster);
    assert_eq!(versions(&again), versions(&clusters));
}

#[test]
fn what_is_shared_stays_while_only_endpoints_change() {
    let (picture, proxies) = scenario::load(SCENARIO);
    let sleep = &proxies["cluster01-sleep"].0;
    let publisher = Publisher::new(picture.clone());
    let compiler = Compiler::default();
    let compile = |kind| compiler.compile(&publisher.latest(), sleep, kind);
    let listeners = compile(ResourceType::Listener);
    let remarks = publisher.latest().diagnostics();
    let unready = Picture::of(&live(with_second_cluster_unready()));
    for turn in 0..40 {
        let next = if turn % 2 == 0 { &unready } else { &picture };
        assert!(publisher.publish(next.clone()));
        compile(ResourceType::Endpoint);
    }
    assert_eq!(publisher.latest().diagnostics(), remarks);
    assert_eq!(compile(ResourceType::Listener), listeners);
}

#[test]
fn an_equal_picture_is_not_published() {
    for name in scenario::all() {
        let (picture, _) = scenario::load(&name);
        let publisher = Publisher::new(picture.clone());
        assert!(!publisher.publish(picture), "{name}");
        assert_eq!(publisher.latest().generation, 1);
    }
}

#[test]
fn a_reader_that_missed_pictures_is_told_all_their_changes() {
    let (picture, proxies) = scenario::load(SCENARIO);
    let sleep = &proxies["cluster01-sleep"].0;
    let publisher = Publisher::new(picture);
    let seen = publisher.latest().generation;
    publisher.publish(Picture::of(&live(with_second_cluster_unready())));
    let mut events = with_second_cluster_unready();
    events.retain(|event| {
        !matches!(&event.change, Change::Apply(object)
            if *object.name() == ObjectName::new("sample", "sleep-78ff5975c6-bbbbb")
                && event.cluster == ClusterId::new("cluster02"))
    });
    publisher.publish(Picture::of(&live(events)));
    let latest = publisher.latest();
    let changes = latest.changes_since(seen);
    let host = |name: &str| Host::new(&format!("{name}.sample.svc.cluster.local"));
    let gone = ObjectName::new("sample", "sleep-78ff5975c6-bbbbb");
    let want = Changes {
        everything: false,
        endpoints: BTreeSet::from([host("helloworld"), host("sleep")]),
        pods: BTreeSet::from([(ClusterId::new("cluster02"), gone)]),
    };
    assert_eq!(changes, want);
    assert!(changes.touches(ResourceType::Endpoint, sleep));
    assert!(!changes.touches(ResourceType::Cluster, sleep), "another cluster's pod went");
    assert_eq!(latest.changes_since(latest.generation), Changes::default());
}
