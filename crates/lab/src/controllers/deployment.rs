//! Deployments: ReplicaSets of the present and of past templates, and the way from one to the
//! other.
//!
//! The arithmetic of a rollout is pure ([`rollout`]), as are status and conditions ([`status`]);
//! this file reads, decides by them and writes. Annotations and names are Kubernetes', so that
//! `kubectl rollout` works and a real controller manager can take over.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};

use crate::controllers::cache::{Cache, Caches};
use crate::controllers::deployment::rollout::{Plan, Strategy};
use crate::controllers::deployment::status::Event;
use crate::controllers::failure::{Doing, Failure, Refused, already_exists, unless_gone};
use crate::controllers::pods::{self, Claim};
use crate::controllers::queue::{Key, Queue};
use crate::controllers::status::write;
use crate::controllers::work::Controller;
use crate::events::Events;

pub(crate) use revision::template_hash;
pub(crate) use rollout::scaled;

mod revision;
mod rollout;
mod status;

/// The controller.
pub struct Deployments {
    client: Client,
    queue: Arc<Queue>,
    deployments: Arc<Cache<Deployment>>,
    sets: Arc<Cache<ReplicaSet>>,
    pods: Arc<Cache<Pod>>,
    events: Events,
}

/// One pass: the Deployment, what it has, and what the pass has done so far.
struct Pass {
    deployment: Arc<Deployment>,
    spec: DeploymentSpec,
    /// Oldest first, without `new`.
    old: Vec<Arc<ReplicaSet>>,
    new: Option<Arc<ReplicaSet>>,
    event: Option<Event>,
}

impl Pass {
    fn all(&self) -> Vec<Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn strategy(&self) -> Strategy {
        Strategy::of(&self.spec)
    }
}

impl Deployments {
    /// Follows Deployments, their ReplicaSets and (for `Recreate`) the pods.
    pub fn new(caches: &Caches) -> Self {
        let queue: Arc<Queue> = Arc::default();
        let (deployments, sets) = (caches.all::<Deployment>(), caches.all::<ReplicaSet>());
        let pods = caches.all::<Pod>();
        let to = queue.clone();
        deployments.on_change(move |change| {
            change.states().take(1).for_each(|found| to.add(Key::of(&**found)));
        });
        let (to, known) = (queue.clone(), deployments.clone());
        sets.on_change(move |change| {
            for set in change.states() {
                if let Some(key) = pods::owner_key(&**set, "Deployment") {
                    to.add(key);
                } else {
                    // An orphan: whoever selects it may adopt it.
                    let namespace = set.namespace().unwrap_or_default();
                    known.in_namespace(&namespace).iter().for_each(|d| to.add(Key::of(&**d)));
                }
            }
        });
        let (to, known) = (queue.clone(), sets.clone());
        pods.on_change(move |change| {
            // `Recreate` waits for the last old pod to be gone.
            let (Some(pod), None) = (change.old, change.new) else { return };
            let owner = pods::owner_key(&**pod, "ReplicaSet").and_then(|key| known.get(&key));
            if let Some(key) = owner.and_then(|set| pods::owner_key(&*set, "Deployment")) {
                to.add(key);
            }
        });
        let events = Events::new(caches.client(), "deployment-controller", None);
        Self { client: caches.client(), queue, deployments, sets, pods, events }
    }

    fn sets_api(&self, pass: &Pass) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &pass.deployment.namespace().unwrap_or_default())
    }

    /// Finds the ReplicaSet of the present template, brings its revision up to date, and makes it
    /// when `create` says so.
    async fn find_new(&self, pass: &mut Pass, create: bool) -> Result<(), Failure> {
        let revision = revision::highest(&pass.old) + 1;
        if let Some(set) = pass.new.clone() {
            let updated = revision::refresh(&pass.deployment, &set, revision);
            let set = match updated {
                Some(updated) => self.replace(pass, &updated).await?,
                None => set,
            };
            self.set_revision(pass, revision::of(&*set)).await?;
            if pass.deployment.status.as_ref().is_none_or(status::has_no_progress) {
                pass.event = Some(Event::Found(set.name_any()));
            }
            pass.new = Some(set);
            return Ok(());
        }
        if create {
            let set = self.create_new(pass, revision).await?;
            self.set_revision(pass, revision).await?;
            pass.event = Some(Event::Created(set.name_any()));
            pass.new = Some(set);
        }
        Ok(())
    }

    async fn create_new(&self, pass: &Pass, revision: i64) -> Result<Arc<ReplicaSet>, Failure> {
        let collisions =
            pass.deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let sets: Vec<_> = pass.old.iter().map(|set| rollout::Set::of(set)).collect();
        let replicas = rollout::grow(&pass.strategy(), pass.wanted(), &sets, 0);
        let new = revision::new_set(&pass.deployment, &pass.spec, collisions, revision, replicas)?;
        let name = new.name_any();
        match self.sets_api(pass).create(&PostParams::default(), &new).await {
            Ok(made) => {
                self.sets.wrote(&made);
                if replicas > 0 {
                    let note = format!("Scaled up replica set {name} from 0 to {replicas}");
                    let about = pass.deployment.object_ref(&());
                    self.events.normal(&about, "ScalingReplicaSet", note).await;
                }
                Ok(Arc::new(made))
            }
            Err(error) => {
                if already_exists(&error) {
                    // Someone else's set has that name: the next hash is another one.
                    self.bump_collisions(pass, collisions).await?;
                }
                let error = Refused(error);
                let note = format!("Failed to create new replica set \"{name}\": {error}");
                let about = pass.deployment.object_ref(&());
                self.events.warning(&about, "ReplicaSetCreateError", note).await;
                Err(error.0).doing(|| format!("create ReplicaSet {name}"))
            }
        }
    }

    /// Only a set that is not ours counts as a collision; ours merely lags in the cache.
    async fn bump_collisions(&self, pass: &Pass, collisions: i32) -> Result<(), Failure> {
        let hash = template_hash(&pass.spec.template, collisions);
        let name = format!("{}-{hash}", pass.deployment.name_any());
        let found = unless_gone(self.sets_api(pass).get(&name).await)
            .doing(|| format!("read ReplicaSet {name}"))?;
        let Some(found) = found else { return Ok(()) };
        self.sets.wrote(&found);
        if pods::is_controlled_by(&found, &*pass.deployment) {
            return Ok(());
        }
        let mut status = pass.deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(collisions + 1);
        let old = &pass.deployment;
        write(&self.client, &self.deployments, old, |new| new.status = Some(status)).await?;
        Ok(())
    }

    async fn set_revision(&self, pass: &mut Pass, revision: i64) -> Result<(), Failure> {
        if revision::of(&*pass.deployment) == revision {
            return Ok(());
        }
        let mut changed = (*pass.deployment).clone();
        revision::put(&mut changed, revision);
        let api: Api<Deployment> =
            Api::namespaced(self.client.clone(), &changed.namespace().unwrap_or_default());
        let written = api
            .replace(&changed.name_any(), &PostParams::default(), &changed)
            .await
            .doing(|| format!("write the revision of Deployment {}", Key::of(&changed)))?;
        self.deployments.wrote(&written);
        pass.deployment = Arc::new(written);
        Ok(())
    }

    async fn replace(&self, pass: &Pass, set: &ReplicaSet) -> Result<Arc<ReplicaSet>, Failure> {
        let name = set.name_any();
        let written = self
            .sets_api(pass)
            .replace(&name, &PostParams::default(), set)
            .await
            .doing(|| format!("update ReplicaSet {name}"))?;
        self.sets.wrote(&written);
        Ok(Arc::new(written))
    }

    /// Scales what `plan` names and keeps the annotations that later passes read.
    async fn apply(&self, pass: &mut Pass, plan: Plan) -> Result<bool, Failure> {
        let mut scaled = false;
        for set in pass.all() {
            let before = rollout::Set::of(&set).wanted;
            let after = plan.get(&set.name_any()).copied().unwrap_or(before);
            let most = pass.wanted() + pass.strategy().surge(pass.wanted());
            let Some(changed) = revision::resized(&set, after, pass.wanted(), most) else {
                continue;
            };
            if before == 0 && after == 0 {
                continue;
            }
            let written = self.replace(pass, &changed).await?;
            if before != after {
                scaled = true;
                let way = if after > before { "up" } else { "down" };
                let name = set.name_any();
                let note = format!("Scaled {way} replica set {name} from {before} to {after}");
                let about = pass.deployment.object_ref(&());
                self.events.normal(&about, "ScalingReplicaSet", note).await;
            }
            for slot in pass.old.iter_mut().chain(pass.new.as_mut()) {
                if slot.name_any() == written.name_any() {
                    *slot = written.clone();
                }
            }
        }
        Ok(scaled)
    }

    async fn roll(&self, pass: &mut Pass) -> Result<(), Failure> {
        match pass.strategy() {
            Strategy::Recreate => {
                let down = rollout::to_zero(&sets_of(&pass.old));
                if self.apply(pass, down).await? || self.has_pods(&pass.old) {
                    return Ok(());
                }
                Box::pin(self.find_new(pass, true)).await?;
            }
            Strategy::Rolling { .. } => {
                Box::pin(self.find_new(pass, true)).await?;
                let (old, new) = (sets_of(&pass.old), pass.new.as_deref().map(rollout::Set::of));
                if let Some(new) = &new {
                    let up = rollout::scale_new(&pass.strategy(), pass.wanted(), &old, new);
                    if self.apply(pass, up).await? {
                        return Ok(());
                    }
                    let down = rollout::scale_old(&pass.strategy(), pass.wanted(), &old, new);
                    self.apply(pass, down).await?;
                }
                return Ok(());
            }
        }
        if let Some(new) = pass.new.as_deref().map(rollout::Set::of) {
            let up = Plan::from([(new.name, pass.wanted())]);
            self.apply(pass, up).await?;
        }
        Ok(())
    }

    fn has_pods(&self, sets: &[Arc<ReplicaSet>]) -> bool {
        sets.iter().any(|set| {
            let namespace = set.namespace().unwrap_or_default();
            self.pods
                .in_namespace(&namespace)
                .iter()
                .any(|pod| pods::is_controlled_by(&**pod, &**set) && !pods::is_finished(pod))
        })
    }

    /// Removes finished revisions beyond the history limit, oldest first.
    async fn forget_history(&self, pass: &Pass) -> Result<(), Failure> {
        let limit = usize::try_from(pass.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut idle: Vec<_> = pass.old.iter().filter(|set| revision::is_idle(set)).collect();
        idle.sort_by_key(|set| revision::of(&***set));
        let excess = idle.len().saturating_sub(limit);
        for set in idle.into_iter().take(excess) {
            let name = set.name_any();
            let gone = self.sets_api(pass).delete(&name, &DeleteParams::background()).await;
            unless_gone(gone).doing(|| format!("delete old ReplicaSet {name}"))?;
            self.sets.deleted(set);
        }
        Ok(())
    }

    async fn finish(&self, pass: &Pass) -> Result<(), Failure> {
        let now = Timestamp::now();
        let all = pass.all();
        let facts = status::Facts {
            deployment: &pass.deployment,
            all: &all,
            new: pass.new.as_deref(),
            event: pass.event.as_ref(),
            now,
        };
        let status = facts.status();
        if let Some(wait) = status::deadline_in(&pass.spec, &status, now) {
            self.queue.add_after(Key::of(&*pass.deployment), wait + Duration::from_secs(1));
        }
        if status::is_complete(&pass.deployment, &status) {
            self.forget_history(pass).await?;
        }
        let old = &pass.deployment;
        write(&self.client, &self.deployments, old, |new| new.status = Some(status)).await?;
        Ok(())
    }
}

fn sets_of(sets: &[Arc<ReplicaSet>]) -> Vec<rollout::Set> {
    sets.iter().map(|set| rollout::Set::of(set)).collect()
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    async fn pass(&self, key: &Key) -> Result<(), Failure> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(()) };
        let Some(spec) = deployment.spec.clone() else { return Ok(()) };
        let selector = pods::selector(&spec.selector, &format!("Deployment {key}"))?;
        let claim = Claim {
            owner: &*deployment,
            selector: &selector,
            cache: &self.sets,
            client: &self.client,
        };
        let mut owned = claim.owned().await?;
        owned.sort_by_key(|set| (set.creation_timestamp().map(|time| time.0), set.name_any()));
        let new = owned.iter().find(|set| revision::is_of_template(set, &spec.template)).cloned();
        let old = owned.into_iter().filter(|set| Some(set.uid()) != new.as_ref().map(|n| n.uid()));
        let mut pass = Pass { deployment, old: old.collect(), spec, new, event: None };
        if pass.deployment.metadata.deletion_timestamp.is_some() {
            return self.finish(&pass).await;
        }
        let resized = revision::was_resized(&pass.all(), pass.wanted());
        if pass.spec.paused == Some(true) || resized {
            Box::pin(self.find_new(&mut pass, false)).await?;
            let new = pass.new.as_deref().map(rollout::Set::of);
            let plan = rollout::rescale(&pass.strategy(), pass.wanted(), &sets_of(&pass.old), new);
            self.apply(&mut pass, plan).await?;
        } else {
            Box::pin(self.roll(&mut pass)).await?;
        }
        self.finish(&pass).await
    }
}
