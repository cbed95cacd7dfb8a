//! Which pod has which address of the node's range. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Hands out the node's pod addresses. The first is the gateway's; a freed address is used again
/// only after all others were, so that a late packet does not reach the wrong pod.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: Ipv4Net,
    taken: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

impl Addresses {
    pub(crate) fn new(range: Ipv4Net) -> Self {
        let gateway = gateway(range);
        Self {
            range,
            taken: BTreeSet::from([range.network(), gateway, range.broadcast()]),
            last: gateway,
        }
    }

    /// Takes `wanted` if it is free, or the next free address; none when the range is used up.
    pub(crate) fn take(&mut self, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let free =
            |address: &Ipv4Addr| self.range.contains(address) && !self.taken.contains(address);
        let (first, last) = (u32::from(self.range.network()), u32::from(self.range.broadcast()));
        let after = u32::from(self.last).saturating_add(1);
        let all = (after..=last).chain(first..after).map(Ipv4Addr::from);
        let found = wanted.filter(free).or_else(|| all.into_iter().find(free))?;
        if wanted != Some(found) {
            self.last = found;
        }
        self.taken.insert(found);
        Some(found)
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

/// The node's own address towards its pods.
pub(crate) fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new("10.0.0.0/29".parse().unwrap())
    }

    fn ip(last: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn a_range_gives_each_address_once_and_keeps_network_gateway_and_broadcast() {
        let mut addresses = addresses();
        let all: Vec<_> = (0..6).map(|_| addresses.take(None)).collect();
        assert_eq!(all, [ip(2), ip(3), ip(4), ip(5), ip(6), None]);
    }

    #[test]
    fn a_freed_address_comes_last() {
        let mut addresses = addresses();
        addresses.take(None);
        addresses.give_back(Ipv4Addr::new(10, 0, 0, 2));
        let all: Vec<_> = (0..5).map(|_| addresses.take(None)).collect();
        assert_eq!(all, [ip(3), ip(4), ip(5), ip(6), ip(2)]);
    }

    #[test]
    fn a_pod_gets_its_old_address_back_when_it_is_free() {
        let mut addresses = addresses();
        assert_eq!([addresses.take(ip(5)), addresses.take(ip(5))], [ip(5), ip(2)]);
    }
}
