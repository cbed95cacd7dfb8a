//! Which endpoint takes a request.
//!
//! Pure: random numbers and the judgement of which endpoints are usable come in as arguments.
//! First a priority is chosen by its health, then (where localities have weights) a locality, then
//! an endpoint by the upstream's policy.

use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::{Rng, RngExt};

use crate::config::endpoints::{Assignment, EndpointConfig};
use crate::config::upstream::{Policy, UpstreamConfig};

/// What balancing needs to know about an endpoint.
pub trait Candidate {
    /// Its share of the traffic.
    fn weight(&self) -> u32;
    /// Whether discovery says that it works.
    fn is_healthy(&self) -> bool;
    /// How many requests it works on.
    fn active(&self) -> u32;
    /// Where it is.
    fn address(&self) -> SocketAddr;
}

/// The endpoints of an upstream, arranged for picking.
#[derive(Debug)]
pub struct Endpoints<E> {
    priorities: Vec<Priority<E>>,
    policy: Policy,
    panic_threshold: u32,
    overprovisioning: u32,
    locality_weighted: bool,
}

#[derive(Debug)]
struct Priority<E> {
    localities: Vec<Place<E>>,
    /// The turn of each endpoint for round robin.
    turns: Mutex<Turns>,
    count: usize,
}

#[derive(Debug)]
struct Place<E> {
    weight: u32,
    endpoints: Vec<Arc<E>>,
}

/// An earliest-deadline-first schedule: an endpoint of weight 2 comes twice as often.
#[derive(Debug, Default)]
struct Turns(BinaryHeap<Turn>);

#[derive(Debug, PartialEq)]
struct Turn {
    deadline: f64,
    /// Among equal deadlines the one that waited longest comes first.
    order: u64,
    index: usize,
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the greatest, and the earliest deadline is wanted.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl<E> Default for Endpoints<E> {
    fn default() -> Self {
        Self {
            priorities: Vec::new(),
            policy: Policy::Random,
            panic_threshold: 0,
            overprovisioning: 140,
            locality_weighted: false,
        }
    }
}

impl<E: Candidate> Endpoints<E> {
    /// Arranges an assignment; `make` yields the endpoint for a configuration.
    pub fn new(
        assignment: &Assignment,
        config: &UpstreamConfig,
        mut make: impl FnMut(&EndpointConfig) -> Arc<E>,
    ) -> Self {
        let mut priorities: Vec<Priority<E>> = Vec::new();
        for locality in &assignment.localities {
            let number = usize::try_from(locality.priority).unwrap_or(usize::MAX).min(128);
            while priorities.len() <= number {
                priorities.push(Priority {
                    localities: Vec::new(),
                    turns: Mutex::default(),
                    count: 0,
                });
            }
            let endpoints: Vec<_> = locality.endpoints.iter().map(&mut make).collect();
            let priority = &mut priorities[number];
            priority.count += endpoints.len();
            priority.localities.push(Place { weight: locality.weight, endpoints });
        }
        Self {
            priorities,
            policy: config.policy,
            panic_threshold: config.panic_threshold,
            overprovisioning: assignment.overprovisioning,
            locality_weighted: config.locality_weighted,
        }
    }

    /// Every endpoint.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<E>> {
        let places = self.priorities.iter().flat_map(|priority| &priority.localities);
        places.flat_map(|place| &place.endpoints)
    }

    /// Picks an endpoint. `usable` judges what this process knows about an endpoint; `hash` is
    /// what a consistent-hash policy goes by.
    pub fn pick(
        &self,
        random: &mut impl Rng,
        hash: Option<u64>,
        usable: &dyn Fn(&E) -> bool,
    ) -> Option<Arc<E>> {
        let healthy = |endpoint: &E| endpoint.is_healthy() && usable(endpoint);
        let (priority, panic) = self.priority(random, hash, &healthy)?;
        let fits = |endpoint: &E| panic || healthy(endpoint);
        if self.locality_weighted && !panic {
            let shares = |place: &Place<E>| {
                let fit = place.endpoints.iter().filter(|endpoint| fits(endpoint)).count();
                if fit == 0 {
                    return 0.0;
                }
                // A locality whose endpoints fail gives its share to the others.
                let share = fit as f64 * f64::from(self.overprovisioning) / 100.0;
                f64::from(place.weight) * (share / place.endpoints.len() as f64).min(1.0)
            };
            let shares: Vec<f64> = priority.localities.iter().map(shares).collect();
            if shares.iter().sum::<f64>() > 0.0 {
                let place = &priority.localities[weighted(random, &shares)];
                let among: Vec<_> = place.endpoints.iter().filter(|e| fits(e)).collect();
                return self.by_policy(&among, None, random, hash);
            }
        }
        let places = priority.localities.iter().flat_map(|place| &place.endpoints);
        let among: Vec<_> = places.filter(|endpoint| fits(endpoint)).collect();
        self.by_policy(&among, Some(priority), random, hash)
    }

    /// Picks a priority by its health, and says whether its endpoints are used although most are
    /// unhealthy.
    fn priority(
        &self,
        random: &mut impl Rng,
        hash: Option<u64>,
        healthy: &dyn Fn(&E) -> bool,
    ) -> Option<(&Priority<E>, bool)> {
        let share = |priority: &Priority<E>| {
            let places = priority.localities.iter().flat_map(|place| &place.endpoints);
            let healthy = places.filter(|endpoint| healthy(endpoint)).count();
            (healthy, priority.count)
        };
        let shares: Vec<(usize, usize)> = self.priorities.iter().map(share).collect();
        let factor = usize::try_from(self.overprovisioning).unwrap_or(140);
        let availability: Vec<usize> = shares
            .iter()
            .map(|(healthy, all)| (healthy * factor).checked_div(*all).unwrap_or(0).min(100))
            .collect();
        let total = availability.iter().sum::<usize>().min(100);
        let threshold = usize::try_from(self.panic_threshold).unwrap_or(50);
        let in_panic = |index: usize| {
            let (healthy, all) = shares[index];
            total < 100 && all > 0 && healthy * 100 < threshold * all
        };
        if total == 0 {
            // Nobody is healthy: with a panic threshold everybody of the first priority is used.
            let index = self.priorities.iter().position(|priority| priority.count > 0)?;
            return in_panic(index).then(|| (&self.priorities[index], true));
        }
        let mut point = match hash {
            Some(hash) => usize::try_from(hash % 100).unwrap_or(0),
            None => random.random_range(0..100),
        };
        let mut left = 100;
        for (index, available) in availability.iter().enumerate() {
            let load = (available * 100 / total).min(left);
            if point < load {
                return Some((&self.priorities[index], in_panic(index)));
            }
            point -= load;
            left -= load;
        }
        // Rounding down leaves a rest: it goes to the first priority that has something.
        let index = availability.iter().position(|available| *available > 0)?;
        Some((&self.priorities[index], in_panic(index)))
    }

    fn by_policy(
        &self,
        among: &[&Arc<E>],
        priority: Option<&Priority<E>>,
        random: &mut impl Rng,
        hash: Option<u64>,
    ) -> Option<Arc<E>> {
        let first = among.first()?;
        if among.len() == 1 {
            return Some((*first).clone());
        }
        let equal = among.iter().all(|endpoint| endpoint.weight() == first.weight());
        let weights = || among.iter().map(|e| f64::from(e.weight())).collect::<Vec<_>>();
        let index = match (self.policy, hash) {
            (Policy::RoundRobin, _) => match priority {
                Some(priority) => priority.turns.lock().next(among, random),
                None => weighted(random, &weights()),
            },
            (Policy::LeastRequest { choices, .. }, _) if equal => least_of(random, among, choices),
            (Policy::LeastRequest { bias, .. }, _) => {
                let effective = |endpoint: &&Arc<E>| {
                    f64::from(endpoint.weight()) / (f64::from(endpoint.active()) + 1.0).powf(bias)
                };
                weighted(random, &among.iter().map(effective).collect::<Vec<_>>())
            }
            (Policy::RingHash { .. } | Policy::Maglev { .. }, Some(hash)) => {
                rendezvous(among, hash)
            }
            _ if equal => random.random_range(0..among.len()),
            _ => weighted(random, &weights()),
        };
        among.get(index).map(|endpoint| (*endpoint).clone())
    }
}

/// The least loaded of `choices` endpoints chosen at random.
fn least_of<E: Candidate>(random: &mut impl Rng, among: &[&Arc<E>], choices: u32) -> usize {
    let mut best = random.random_range(0..among.len());
    for _ in 1..choices {
        let other = random.random_range(0..among.len());
        if among[other].active() < among[best].active() {
            best = other;
        }
    }
    best
}

/// An index by weight.
fn weighted(random: &mut impl Rng, weights: &[f64]) -> usize {
    let total: f64 = weights.iter().sum();
    let mut point = random.random_range(0.0..1.0) * total;
    for (index, weight) in weights.iter().enumerate() {
        point -= weight;
        if point < 0.0 {
            return index;
        }
    }
    weights.len().saturating_sub(1)
}

/// Consistent hashing by highest random weight: when an endpoint goes, only its keys move.
fn rendezvous<E: Candidate>(among: &[&Arc<E>], hash: u64) -> usize {
    let score = |endpoint: &Arc<E>| {
        let mut hasher = DefaultHasher::new();
        (hash, endpoint.address()).hash(&mut hasher);
        // A number in (0, 1); its logarithm over the weight gives shares by weight.
        let unit = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(endpoint.weight()) / unit.ln()
    };
    let scored = among.iter().enumerate().map(|(index, endpoint)| (index, score(endpoint)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(index, _)| index)
}

impl Turns {
    fn next<E: Candidate>(&mut self, among: &[&Arc<E>], random: &mut impl Rng) -> usize {
        if self.0.len() != among.len() {
            // The set of usable endpoints changed: begin again, somewhere.
            let start = random.random_range(0..among.len());
            let turn = |index: usize| {
                let order = (index + among.len() - start) % among.len();
                let deadline = 1.0 / f64::from(among[index].weight().max(1));
                Turn { deadline, order: order as u64, index }
            };
            self.0 = (0..among.len()).map(turn).collect();
        }
        let Some(mut turn) = self.0.pop() else { return 0 };
        let index = turn.index;
        turn.deadline += 1.0 / f64::from(among[index].weight().max(1));
        turn.order += among.len() as u64;
        self.0.push(turn);
        index
    }
}
