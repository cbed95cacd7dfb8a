//! What a client wants to follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::server::Wanted;

/// The wanted resources by type URL.
pub type Interest = BTreeMap<String, Wanted>;

/// What a client wants to follow. Cheap to clone; every clone changes the same interest.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    interest: Arc<watch::Sender<Arc<Interest>>>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { interest: Arc::new(watch::Sender::new(Arc::default())) }
    }
}

impl Subscriptions {
    /// Follows every resource of a type.
    pub fn want_all(&self, type_url: &str) {
        self.change(|interest| {
            interest.entry(type_url.to_owned()).or_default().all = true;
        });
    }

    /// Follows exactly these resources of a type; others of it are no longer followed by name.
    pub fn want_names<N: Into<Arc<str>>>(
        &self,
        type_url: &str,
        names: impl IntoIterator<Item = N>,
    ) {
        let names: BTreeSet<Arc<str>> = names.into_iter().map(Into::into).collect();
        self.change(|interest| {
            interest.entry(type_url.to_owned()).or_default().names = names;
        });
    }

    /// What is followed now.
    pub fn interest(&self) -> Arc<Interest> {
        self.interest.borrow().clone()
    }

    fn change(&self, change: impl FnOnce(&mut Interest)) {
        self.interest.send_if_modified(|interest| {
            let mut next = Interest::clone(interest);
            change(&mut next);
            if next == **interest {
                return false;
            }
            *interest = Arc::new(next);
            true
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Interest>> {
        self.interest.subscribe()
    }
}
