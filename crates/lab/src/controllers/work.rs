//! How a controller runs: workers take keys from its queue and make one pass over each.

use std::future::Future;
use std::sync::Arc;

use tombolo_runtime::errors::chain;
use tombolo_runtime::shutdown::Shutdown;

use crate::controllers::failure::Failure;
use crate::controllers::queue::{Key, Queue};

/// A loop that brings objects of one kind to what their specification asks.
pub trait Controller: Send + Sync + 'static {
    /// The name in `--only`, in logs and of its tasks.
    const NAME: &'static str;

    /// How many objects it works on at a time.
    const WORKERS: usize = 2;

    /// Where its keys wait.
    fn queue(&self) -> &Arc<Queue>;

    /// One pass over one object, which may be gone by now.
    fn pass(&self, key: &Key) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Starts the workers of `controller`.
pub fn start<C: Controller>(controller: C, shutdown: &Shutdown) {
    let controller = Arc::new(controller);
    for _ in 0..C::WORKERS {
        let (controller, stop) = (controller.clone(), shutdown.clone());
        shutdown.spawn_essential(C::NAME, async move {
            loop {
                tokio::select! {
                    () = stop.draining() => return,
                    // Cancel safe: a dropped pass is made again by the next process.
                    () = one(&*controller) => (),
                }
            }
        });
    }
}

async fn one<C: Controller>(controller: &C) {
    let key = controller.queue().next().await;
    let result = Box::pin(controller.pass(&key)).await;
    if let Err(failure) = &result {
        let error = chain(failure).to_string();
        if failure.lost_a_race() {
            tracing::debug!(controller = C::NAME, object = %key, error, "will look again");
        } else {
            tracing::warn!(controller = C::NAME, object = %key, error, "pass failed, will retry");
        }
    }
    controller.queue().done(&key, result.is_err());
}
