//! Readiness as a set of named blockers: a process is ready when none is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The blockers that keep a process from being ready. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ready {
    pending: Arc<Mutex<BTreeMap<u64, Reason>>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Why a process is not ready.
#[derive(Clone, Debug)]
struct Reason {
    text: String,
    /// What this reason waits for itself.
    because: Option<Ready>,
}

/// One reason not to be ready. Dropping it removes the reason.
#[derive(Debug)]
pub struct Blocker {
    ready: Ready,
    id: u64,
}

impl Default for Ready {
    fn default() -> Self {
        Self { pending: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }
}

impl Ready {
    /// Adds a reason not to be ready, which lasts until the returned blocker is dropped.
    pub fn block(&self, reason: impl Into<String>) -> Blocker {
        self.add(Reason { text: reason.into(), because: None })
    }

    /// Like [`Self::block`]; while it lasts, what `because` waits for is shown with it.
    pub fn block_because(&self, reason: impl Into<String>, because: &Self) -> Blocker {
        self.add(Reason { text: reason.into(), because: Some(because.clone()) })
    }

    fn add(&self, reason: Reason) -> Blocker {
        let mut id = 0;
        self.changed.send_modify(|next| {
            id = *next;
            *next += 1;
        });
        self.pending.lock().insert(id, reason);
        Blocker { ready: self.clone(), id }
    }

    /// What the process still waits for, in the order it was added.
    pub fn pending(&self) -> Vec<String> {
        let reasons: Vec<Reason> = self.pending.lock().values().cloned().collect();
        let mut all = Vec::new();
        for Reason { text, because } in reasons {
            match because.map(|because| because.pending()).unwrap_or_default() {
                details if details.is_empty() => all.push(text),
                details => all.extend(details.iter().map(|detail| format!("{text}: {detail}"))),
            }
        }
        all
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.pending.lock().is_empty()
    }

    /// Returns when nothing is pending. Cancel safe.
    pub async fn wait(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_ready() {
            // The sender lives in `self`, so this cannot fail while we wait.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Blocker {
    /// Says the reason anew.
    pub fn describe(&self, reason: impl Into<String>) {
        if let Some(pending) = self.ready.pending.lock().get_mut(&self.id) {
            pending.text = reason.into();
        }
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.ready.pending.lock().remove(&self.id);
        self.ready.changed.send_modify(|next| *next += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_blocker_is_gone() {
        let ready = Ready::default();
        let (watch, certificates) = (ready.block("watch"), ready.block("certificates"));
        assert_eq!(ready.pending(), ["watch", "certificates"]);
        drop(watch);
        assert!(!ready.is_ready());
        let waiting = tokio::spawn({
            let ready = ready.clone();
            async move { ready.wait().await }
        });
        drop(certificates);
        waiting.await.unwrap();
        assert!(ready.is_ready());
    }

    #[test]
    fn a_reason_shows_what_it_waits_for_itself() {
        let (ready, unseen) = (Ready::default(), Ready::default());
        let picture = ready.block_because("first picture", &unseen);
        assert_eq!(ready.pending(), ["first picture"]);
        let (one, two) = (unseen.block("cluster one"), unseen.block("cluster two"));
        two.describe("cluster two: Pod");
        let want = ["first picture: cluster one", "first picture: cluster two: Pod"];
        assert_eq!(ready.pending(), want);
        drop((picture, one));
        assert!(ready.is_ready());
        assert_eq!(unseen.pending(), ["cluster two: Pod"]);
    }
}
