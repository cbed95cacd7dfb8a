//! What the node follows of its cluster: pods bound to it, services and their endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::hash::Hash;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::node::Node;
use crate::node::pod::volumes::remove_folder;
use crate::node::pod::work::{Live, Wanted, Worker};
use crate::node::service::host_ports;

/// Copies of the objects that services are made of, and a signal when one changes.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub nodes: Store<NodeObject>,
    changes: watch::Sender<u64>,
    /// How many of the copies are complete.
    complete: watch::Sender<usize>,
}

/// The copies that [`Cluster`] holds.
const COPIES: usize = 3;

impl Cluster {
    /// Starts to follow the cluster.
    pub(crate) fn follow(client: &kube::Client, shutdown: &Shutdown) -> Self {
        let signals = Signals { changes: watch::Sender::new(0), complete: watch::Sender::new(0) };
        Self {
            services: mirror(Api::all(client.clone()), "services", &signals, shutdown),
            slices: mirror(Api::all(client.clone()), "endpoint slices", &signals, shutdown),
            nodes: mirror(Api::all(client.clone()), "nodes", &signals, shutdown),
            changes: signals.changes,
            complete: signals.complete,
        }
    }

    /// Fires on each change; the value says nothing.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells that a port of the node has a pod, or has none any more.
    pub(crate) fn host_ports_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Returns when everything has been listed once.
    pub(crate) async fn complete(&self) {
        let mut complete = self.complete.subscribe();
        // An error means that the process ends. (The stores' own way to wait wakes one waiter only.)
        let _ending = complete.wait_for(|count| *count == COPIES).await;
    }
}

/// How a copy tells that it has changed or is complete.
#[derive(Clone)]
struct Signals {
    changes: watch::Sender<u64>,
    complete: watch::Sender<usize>,
}

fn mirror<K>(api: Api<K>, what: &'static str, signals: &Signals, shutdown: &Shutdown) -> Store<K>
where
    K: Resource + Lookup + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    <K as Resource>::DynamicType: Default + Eq + Hash + Clone,
    <K as Lookup>::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
{
    let (reader, writer) = store();
    let (signals, draining) = (signals.clone(), shutdown.clone());
    let events = reflector(
        writer,
        watcher(api, watcher::Config::default()).default_backoff().modify(forget),
    );
    shutdown.spawn_essential(what, async move {
        let mut events = std::pin::pin!(events);
        let mut complete = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = draining.draining() => None,
            };
            match event {
                None => break,
                Some(Ok(Event::Init | Event::InitApply(_))) => (),
                Some(Ok(event)) => {
                    if matches!(event, Event::InitDone) && !std::mem::replace(&mut complete, true) {
                        signals.complete.send_modify(|count| *count += 1);
                    }
                    signals.changes.send_modify(|count| *count += 1);
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "watching {what} failed, trying again");
                }
            }
        }
    });
    reader
}

/// Drops what the node never reads, which is most of an object's size.
fn forget<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Follows the pods bound to this node and keeps a worker for each.
pub(crate) async fn run_pods(node: Arc<Node>) {
    let shutdown = node.shutdown.clone();
    let mine =
        watcher::Config::default().fields(&format!("spec.nodeName={}", node.settings.node_name));
    let api = Api::<Pod>::all(node.client.clone());
    let mut events = std::pin::pin!(watcher(api, mine).default_backoff().modify(forget));
    let mut workers =
        Workers { node, known: BTreeMap::new(), listed: BTreeSet::new(), cleaned: false };
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            () = shutdown.draining() => break,
        };
        match event {
            Ok(None) => break,
            Ok(Some(event)) => workers.hear(event),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "watching pods failed, trying again");
            }
        }
    }
}

struct Workers {
    node: Arc<Node>,
    /// What each pod's worker is told, by the pod's uid.
    known: BTreeMap<String, watch::Sender<Wanted>>,
    listed: BTreeSet<String>,
    cleaned: bool,
}

impl Workers {
    fn hear(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.apply(pod);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                for (uid, worker) in &self.known {
                    if !listed.contains(uid) {
                        worker.send_modify(|wanted| wanted.gone = true);
                    }
                }
                if !std::mem::replace(&mut self.cleaned, true) {
                    self.clean(&listed);
                }
            }
            Event::Apply(pod) => self.apply(pod),
            Event::Delete(pod) => {
                if let Some(worker) = pod.metadata.uid.as_ref().and_then(|uid| self.known.get(uid))
                {
                    worker.send_modify(|wanted| wanted.gone = true);
                }
            }
        }
        self.known.retain(|_, worker| !worker.is_closed());
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let opens = pod.spec.as_ref().is_some_and(|spec| host_ports::asked(spec).next().is_some());
        let wanted = Wanted { pod: Arc::new(pod), gone: false };
        if let Some(worker) = self.known.get(&uid).filter(|worker| !worker.is_closed()) {
            worker.send_replace(wanted);
            if opens {
                self.node.cluster.host_ports_changed();
            }
            return;
        }
        let folder = self.node.pods_folder().join(&uid);
        if let Err(error) =
            fs::create_dir_all(&folder).and_then(|()| remove_folder(&folder.join("volumes")))
        {
            tracing::error!(%error, folder = %folder.display(), "pod's folder could not be made");
        }
        let live =
            Arc::new(Live { folder, running: Default::default(), entrance: Default::default() });
        let name = (
            wanted.pod.metadata.namespace.clone().unwrap_or_default(),
            wanted.pod.metadata.name.clone().unwrap_or_default(),
        );
        let (sender, receiver) = watch::channel(wanted);
        self.known.insert(uid, sender);
        self.node.pods.lock().insert(name.clone(), (receiver.clone(), Arc::clone(&live)));
        let (node, worker) = (
            Arc::clone(&self.node),
            Worker::new(Arc::clone(&self.node), receiver, Arc::clone(&live)),
        );
        self.node.shutdown.spawn("pod", async move {
            worker.run().await;
            {
                let mut pods = node.pods.lock();
                // A pod of the same name may have taken the place meanwhile.
                if pods.get(&name).is_some_and(|(_, present)| Arc::ptr_eq(present, &live)) {
                    pods.remove(&name);
                }
            }
            if opens {
                node.cluster.host_ports_changed();
            }
        });
    }

    /// Removes what pods that are no more have left behind.
    fn clean(&self, listed: &BTreeSet<String>) {
        for entry in fs::read_dir(self.node.pods_folder()).into_iter().flatten().flatten() {
            if listed.contains(entry.file_name().to_string_lossy().as_ref()) {
                continue;
            }
            let path = entry.path();
            if let Err(error) =
                remove_folder(&path.join("volumes")).and_then(|()| remove_folder(&path))
            {
                tracing::warn!(%error, folder = %path.display(), "left-over folder could not be removed");
            }
        }
    }
}
