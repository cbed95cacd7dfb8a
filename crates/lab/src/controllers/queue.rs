//! The work queue of one controller: keys of objects that need a look.
//!
//! A key waits in the queue once however often it is added, and is never worked on by two workers
//! at a time: an addition during the work brings it back afterwards. Failures return a key after a
//! growing delay. Nothing is ever dropped, and the queue is bounded by the number of objects.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Names an object of the kind that a controller works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for objects of the cluster.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(&object.namespace().unwrap_or_default(), &object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Keys that wait for work.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ready: VecDeque<Key>,
    /// Waiting in `ready`, or added again while being worked on.
    dirty: HashSet<Key>,
    working: HashSet<Key>,
    later: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Inner {
    /// Returns whether a worker should wake.
    fn add(&mut self, key: Key) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn add_after(&mut self, key: Key, delay: Duration) {
        let due = Instant::now() + delay;
        let earliest = self.later.entry(key).or_insert(due);
        *earliest = due.min(*earliest);
    }

    /// Moves what is due to `ready`; returns when the next key is due.
    fn promote(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due: Vec<_> =
            self.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.later.remove(&key);
            self.add(key);
        }
        self.later.values().min().copied()
    }
}

impl Queue {
    /// Asks for a look at `key` as soon as a worker is free.
    pub fn add(&self, key: Key) {
        if self.inner.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Asks for a look at `key` after `delay`, or earlier if that was asked for already.
    pub fn add_after(&self, key: Key, delay: Duration) {
        self.inner.lock().add_after(key, delay);
        self.wake.notify_one();
    }

    /// Waits for a key. The caller must report back by [`Queue::done`]. Cancel safe.
    pub async fn next(&self) -> Key {
        loop {
            let next_due = {
                let mut inner = self.inner.lock();
                let next_due = inner.promote();
                if let Some(key) = inner.ready.pop_front() {
                    inner.dirty.remove(&key);
                    inner.working.insert(key.clone());
                    if !inner.ready.is_empty() {
                        // Keys that became due together wake the other workers too.
                        self.wake.notify_one();
                    }
                    return key;
                }
                next_due
            };
            match next_due {
                Some(due) => tokio::select! {
                    () = self.wake.notified() => (),
                    () = tokio::time::sleep_until(due) => (),
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends the work on `key`; after a failure it comes back, later each time.
    pub fn done(&self, key: &Key, failed: bool) {
        let mut inner = self.inner.lock();
        inner.working.remove(key);
        if failed {
            let failures = inner.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            let delay = FIRST_DELAY.saturating_mul(1 << (*failures - 1).min(12)).min(LONGEST_DELAY);
            inner.add_after(key.clone(), delay);
        } else {
            inner.failures.remove(key);
        }
        if inner.dirty.contains(key) {
            inner.ready.push_back(key.clone());
        }
        drop(inner);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    async fn next_within(queue: &Queue, limit: Duration) -> Option<Key> {
        tokio::time::timeout(limit, queue.next()).await.ok()
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_worked_on_once_at_a_time() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(next_within(&queue, Duration::from_millis(20)).await, None);
        queue.done(&key("a"), false);
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"), false);
        assert_eq!(next_within(&queue, Duration::from_millis(20)).await, None);
    }

    #[tokio::test]
    async fn failures_delay_a_key_longer_each_time() {
        let queue = Queue::default();
        queue.add(key("a"));
        let mut waits = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            let got = queue.next().await;
            waits.push(start.elapsed().as_millis());
            queue.done(&got, true);
        }
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
    }

    #[tokio::test]
    async fn the_earliest_of_two_delays_counts() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_millis(5));
        assert_eq!(next_within(&queue, Duration::from_secs(30)).await, Some(key("a")));
    }
}
