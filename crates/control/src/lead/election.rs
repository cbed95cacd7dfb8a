//! Leader election over an annotation of a ConfigMap, as Kubernetes clients of all languages do
//! it, with Istio's rule that a local control plane takes over from a remote one.
//!
//! *Guarantees*
//! * Two candidates never hold a lock at the same time by their own clocks, as long as these run
//!   at the same speed: a holder stops trusting its lock well before others may take it.
//! * A holder that was paused notices before its next write: [`Held::is_held`] compares a clock
//!   that does not stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const RECORD: &str = "control-plane.alpha.kubernetes.io/leader";
const LEASE: Duration = Duration::from_secs(30);
const RENEW_WITHIN: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(7500);
/// What giving a lock back may take, when the process or the cluster goes.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// A lock and who wants it.
#[derive(Clone)]
pub struct Candidate {
    pub client: Client,
    pub namespace: String,
    /// The ConfigMap's name.
    pub lock: String,
    /// Who we are: the pod's name.
    pub identity: String,
    /// What we are: the revision, with `^` before it for a control plane of another cluster.
    pub key: String,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("lock", &self.lock)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The proof of holding a lock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Held {
    until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
}

impl Held {
    /// A lock that is always held, where election is switched off.
    fn always() -> Self {
        let far = Instant::now() + Duration::from_secs(3600 * 24 * 365 * 10);
        Self { until: Arc::new(Mutex::new(far)), lost: CancellationToken::new() }
    }

    /// Whether the lock is still ours. Ask before every write.
    pub fn is_held(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < *self.until.lock()
    }

    /// Returns when the lock is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    holder_identity: String,
    holder_key: String,
    lease_duration_seconds: u64,
    acquire_time: Option<jiff::Timestamp>,
    renew_time: Option<jiff::Timestamp>,
    leader_transitions: u64,
}

/// What was seen last, and when by our own clock: others' clocks are never compared with ours.
struct Observed {
    record: Record,
    at: Instant,
}

impl Candidate {
    /// Runs `lead` whenever, and only while, the lock is ours. Never returns by itself; dropping
    /// the future gives the lock up when it expires.
    pub async fn run<F, Fut>(&self, enabled: bool, stop: CancellationToken, mut lead: F)
    where
        F: FnMut(Held) -> Fut,
        Fut: Future<Output = ()>,
    {
        if !enabled {
            tokio::select! {
                () = lead(Held::always()) => (),
                () = stop.cancelled() => (),
            }
            return;
        }
        let mut observed: Option<Observed> = None;
        while !stop.is_cancelled() {
            let tried = tokio::select! {
                tried = tokio::time::timeout(RENEW_WITHIN, self.try_hold(&mut observed)) => tried,
                () = stop.cancelled() => return,
            };
            let Ok(tried) = tried else {
                tracing::warn!(lock = self.lock, "the API server does not answer about the lock");
                continue;
            };
            match tried {
                Ok(Some(started)) => {
                    tracing::info!(lock = self.lock, "lock taken");
                    let held = Held {
                        until: Arc::new(Mutex::new(started + RENEW_WITHIN)),
                        lost: CancellationToken::new(),
                    };
                    tokio::select! {
                        () = lead(held.clone()) => (),
                        () = self.renew(&held, &mut observed) => (),
                        () = stop.cancelled() => (),
                    }
                    held.lost.cancel();
                    if stop.is_cancelled() {
                        self.release().await;
                        return;
                    }
                    tracing::warn!(lock = self.lock, "lock lost");
                }
                Ok(None) => (),
                Err(error) => {
                    tracing::warn!(lock = self.lock, %error, "lock cannot be read or taken");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => (),
                () = stop.cancelled() => (),
            }
        }
    }

    /// Renews until that has not worked for too long.
    async fn renew(&self, held: &Held, observed: &mut Option<Observed>) {
        loop {
            let left = held.until.lock().saturating_duration_since(Instant::now());
            tokio::time::sleep(RETRY.min(left)).await;
            if !held.is_held() {
                return;
            }
            match tokio::time::timeout(left, self.try_hold(observed)).await {
                Ok(Ok(Some(started))) => *held.until.lock() = started + RENEW_WITHIN,
                Ok(Ok(None)) => return,
                Ok(Err(error)) => tracing::warn!(lock = self.lock, %error, "lock not renewed"),
                Err(_) => return,
            }
        }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Takes or renews the lock. Says when the attempt began, from which the lock counts; none
    /// when somebody else holds it.
    async fn try_hold(
        &self,
        observed: &mut Option<Observed>,
    ) -> Result<Option<Instant>, kube::Error> {
        let started = Instant::now();
        let Some(mut lock) = self.api().get_opt(&self.lock).await? else {
            let record = self.record(&Record::default());
            let lock = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(self.lock.clone()),
                    namespace: Some(self.namespace.clone()),
                    annotations: Some(BTreeMap::from([(RECORD.to_owned(), text(&record))])),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            };
            return match self.api().create(&PostParams::default(), &lock).await {
                Ok(_) => {
                    *observed = Some(Observed { record, at: started });
                    Ok(Some(started))
                }
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                Err(error) => Err(error),
            };
        };
        let annotations = lock.metadata.annotations.get_or_insert_default();
        // A damaged record holds nothing.
        let current: Record = annotations
            .get(RECORD)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        if observed.as_ref().is_none_or(|seen| seen.record != current) {
            *observed = Some(Observed { record: current.clone(), at: started });
        }
        let seen_at = observed.as_ref().map_or(started, |seen| seen.at);
        if !self.may_take(&current, started.saturating_duration_since(seen_at)) {
            return Ok(None);
        }
        let record = self.record(&current);
        annotations.insert(RECORD.to_owned(), text(&record));
        // The resource version in `lock` makes this fail when anybody wrote in between.
        match self.api().replace(&self.lock, &PostParams::default(), &lock).await {
            Ok(_) => {
                *observed = Some(Observed { record, at: started });
                Ok(Some(started))
            }
            Err(kube::Error::Api(status))
                if status.code == 409 && current.holder_identity != self.identity =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a lock with this record, unchanged for `age`, may be taken.
    fn may_take(&self, current: &Record, age: Duration) -> bool {
        let lease = match current.lease_duration_seconds {
            0 => LEASE,
            seconds => Duration::from_secs(seconds),
        };
        let ours = current.holder_identity == self.identity && current.holder_key == self.key;
        let free = current.holder_identity.is_empty();
        // A control plane of the cluster itself comes before one of another cluster.
        let remote = format!("^{}", self.key);
        ours || free || age > lease || current.holder_key == remote
    }

    fn record(&self, current: &Record) -> Record {
        let now = jiff::Timestamp::now();
        let same = current.holder_identity == self.identity;
        Record {
            holder_identity: self.identity.clone(),
            holder_key: self.key.clone(),
            lease_duration_seconds: LEASE.as_secs(),
            acquire_time: if same { current.acquire_time.or(Some(now)) } else { Some(now) },
            renew_time: Some(now),
            leader_transitions: current.leader_transitions
                + u64::from(!same && !current.holder_identity.is_empty()),
        }
    }

    /// Gives the lock back, so that a successor need not wait.
    async fn release(&self) {
        let given_back = async {
            let Some(mut lock) = self.api().get_opt(&self.lock).await? else { return Ok(()) };
            let annotations = lock.metadata.annotations.get_or_insert_default();
            let current: Record = annotations
                .get(RECORD)
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            if current.holder_identity != self.identity {
                return Ok(());
            }
            let record =
                Record { holder_identity: String::new(), lease_duration_seconds: 1, ..current };
            annotations.insert(RECORD.to_owned(), text(&record));
            self.api().replace(&self.lock, &PostParams::default(), &lock).await.map(drop)
        };
        let result: Result<Result<(), kube::Error>, _> =
            tokio::time::timeout(GIVE_BACK, given_back).await;
        match result {
            Ok(Ok(())) => (),
            Ok(Err(error)) => {
                tracing::warn!(lock = self.lock, %error, "lock not given back; it expires by itself");
            }
            Err(_) => tracing::warn!(
                lock = self.lock,
                "lock not given back in time; it expires by itself"
            ),
        }
    }
}

fn text(record: &Record) -> String {
    serde_json::to_string(record).expect("a record is plain text and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(identity: &str, key: &str) -> Record {
        Record {
            holder_identity: identity.into(),
            holder_key: key.into(),
            lease_duration_seconds: 30,
            ..Record::default()
        }
    }

    #[tokio::test]
    async fn a_lock_is_taken_when_free_expired_ours_or_held_from_another_cluster() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap()));
        let candidate = Candidate {
            client: client.unwrap(),
            namespace: "istio-system".into(),
            lock: "lock".into(),
            identity: "us".into(),
            key: "default".into(),
        };
        let (fresh, old) = (Duration::from_secs(29), Duration::from_secs(31));
        for (current, age, want) in [
            (Record::default(), fresh, true),
            (record("us", "default"), fresh, true),
            (record("other", "default"), fresh, false),
            (record("other", "default"), old, true),
            (record("other", "^default"), fresh, true),
            (record("other", "^canary"), fresh, false),
        ] {
            assert_eq!(candidate.may_take(&current, age), want, "{current:?} after {age:?}");
        }
    }
}
