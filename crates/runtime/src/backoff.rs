//! The one backoff for everything that reconnects: exponential, capped, with full jitter.

use std::time::Duration;

use rand::RngExt;

/// Delays between attempts. Reconnecting without a delay is a bug.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// A backoff whose delays grow from about `first` to at most `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The delay before the next attempt: between half and all of the current step, which doubles.
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.most);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts again from the first delay, after an attempt that worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_again_after_a_reset() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        assert!(backoff.delay() <= first);
        let last = (0..10).map(|_| backoff.delay()).last().unwrap();
        assert!(last >= most / 2 && last <= most, "{last:?}");
        backoff.reset();
        assert!(backoff.delay() <= first);
    }
}
