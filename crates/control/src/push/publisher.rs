//! The one place that pictures are published from.

use std::sync::Arc;

use tokio::sync::watch;

use crate::index::picture::Picture;
use crate::push::publish::{Pictures, Published};

/// Publishes pictures to everybody who serves them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    latest: watch::Sender<Arc<Published>>,
}

impl Publisher {
    /// Starts with a picture, usually that of nothing.
    pub fn new(picture: Picture) -> Self {
        Self { latest: watch::Sender::new(Arc::new(Published::first(picture))) }
    }

    /// The latest picture, and a way to wait for the next.
    pub fn subscribe(&self) -> Pictures {
        self.latest.subscribe()
    }

    /// The latest picture.
    pub fn latest(&self) -> Arc<Published> {
        Arc::clone(&self.latest.borrow())
    }

    /// Publishes a picture, unless it is equal to the latest. Says whether it was published.
    pub fn publish(&self, picture: Picture) -> bool {
        let latest = self.latest();
        let Some(next) = latest.next(picture) else { return false };
        for diagnostic in next.picture.diagnostics.iter() {
            if !latest.picture.diagnostics.contains(diagnostic) {
                tracing::warn!(%diagnostic, "an object has less effect than it says");
            }
        }
        self.latest.send_replace(Arc::new(next));
        true
    }
}
