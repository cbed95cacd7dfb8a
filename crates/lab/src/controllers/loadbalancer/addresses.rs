//! Which address a LoadBalancer Service gets. Pure, and used both by the lab's own controller and
//! by the `metallb controller` that runs in a pod.
//!
//! Addresses are handed out in order: pools by priority and name, ranges as written, addresses
//! ascending. What a Service asks for by annotation or field decides; a refusal is worded as
//! MetalLB words it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// A run of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a CIDR like 172.18.11.0/24 nor a range like 172.18.11.1-172.18.11.9")]
pub struct RangeError(pub String);

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let bad = || RangeError(text.to_owned());
        let range = match text.split_once('-') {
            Some((first, last)) => Self {
                first: first.trim().parse().map_err(|_| bad())?,
                last: last.trim().parse().map_err(|_| bad())?,
            },
            None => {
                let net: IpNet = text.trim().parse().map_err(|_| bad())?;
                Self { first: net.network(), last: net.broadcast() }
            }
        };
        let ordered = range.first.is_ipv4() == range.last.is_ipv4() && range.first <= range.last;
        if ordered { Ok(range) } else { Err(bad()) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl Range {
    /// Whether the range holds `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |value| match u32::try_from(value) {
            Ok(value) if v4 => IpAddr::V4(Ipv4Addr::from(value)),
            _ => IpAddr::V6(Ipv6Addr::from(value)),
        })
    }
}

/// A named set of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses, in the order in which they are handed out.
    pub ranges: Vec<Range>,
    /// Whether Services that do not ask for this pool may have its addresses.
    pub auto_assign: bool,
    /// Whether `.0` and `.255` are left out, which some devices take for broadcasts.
    pub avoid_buggy: bool,
    /// Lower goes first; without one, last.
    pub priority: Option<i32>,
    /// Whether it is reserved for some Services, and then whether this is one of them.
    pub reserved: Option<bool>,
}

impl Pool {
    fn may_give(&self, address: IpAddr) -> bool {
        let buggy = match address {
            IpAddr::V4(address) => matches!(address.octets(), [_, _, _, 0 | 255]),
            IpAddr::V6(_) => false,
        };
        self.holds(address) && !(self.avoid_buggy && buggy)
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    fn serves(&self) -> bool {
        self.reserved != Some(false)
    }
}

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The addresses that it names, as written.
    pub wanted: Vec<String>,
    /// The pool that it names.
    pub pool: Option<String>,
    /// One entry per address family that it needs: true for IPv6.
    pub families: Vec<bool>,
    /// How it may share an address.
    pub sharing: Sharing,
    /// What it has now.
    pub held: Vec<IpAddr>,
}

/// What decides whether two Services may have the same address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The value of the annotation, empty when there is none.
    pub key: String,
    /// Protocol and number of each port.
    pub ports: Vec<(String, i32)>,
    /// What traffic is sent to: equal for Services that may be announced by different nodes.
    pub backend: String,
}

impl Sharing {
    fn allows(&self, other: &Self) -> bool {
        !self.key.is_empty()
            && self.key == other.key
            && self.backend == other.backend
            && !self.ports.iter().any(|port| other.ports.contains(port))
    }
}

/// An address that another Service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of the Service.
    pub service: String,
    /// How it may be shared.
    pub sharing: Sharing,
}

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// One address per family asked for.
    pub addresses: Vec<IpAddr>,
    /// The pool they are from.
    pub pool: String,
}

/// Why a Service gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No pool has a free address.
    #[error("no available IPs")]
    Exhausted,
    /// The pool asked for does not exist.
    #[error("unknown pool {0:?}")]
    UnknownPool(String),
    /// The pool asked for has no free address.
    #[error("no available IPs in pool {pool:?} for {family} IPFamily")]
    PoolExhausted {
        /// The pool.
        pool: String,
        /// `ipv4` or `ipv6`.
        family: &'static str,
    },
    /// The pool asked for is reserved for others.
    #[error("pool {pool:?} is not compatible with service {service:?}")]
    NotForYou {
        /// The pool.
        pool: String,
        /// The Service.
        service: String,
    },
    /// No pool holds the address asked for.
    #[error("{0:?} is not allowed in config")]
    NotInPools(IpAddr),
    /// The address asked for is not in the pool asked for.
    #[error("requested loadBalancer IP(s) {addresses:?} does not belong to pool {pool:?}")]
    OtherPool {
        /// The addresses asked for.
        addresses: Vec<String>,
        /// The pool asked for.
        pool: String,
    },
    /// Another Service has the address asked for.
    #[error("can't change sharing key for {by:?}, address also in use by {other}")]
    InUse {
        /// The Service that asks.
        by: String,
        /// The Service that has it.
        other: String,
    },
    /// What the Service asks for is no address.
    #[error("invalid LoadBalancer IP {0:?}")]
    Malformed(String),
    /// Addresses and the Service's IP families do not agree.
    #[error("requested loadBalancer IP(s) {0:?} does not match the ipFamily of the service")]
    Family(Vec<String>),
}

/// Decides what `request` gets. What it has already is kept as long as it may have it.
///
/// # Errors
/// When nothing fits.
pub fn allocate(pools: &[Pool], taken: &[Taken], request: &Request) -> Result<Given, Refusal> {
    let is_free = |address: IpAddr| in_use(taken, request, address).is_none();
    if !request.wanted.is_empty() {
        return wanted(pools, taken, request);
    }
    if let Some(name) = &request.pool {
        let pool = pools.iter().find(|pool| &pool.name == name);
        let pool = pool.ok_or_else(|| Refusal::UnknownPool(name.clone()))?;
        if !pool.serves() {
            let service = format!("{}/{}", request.namespace, request.name);
            return Err(Refusal::NotForYou { pool: name.clone(), service });
        }
        return from_pool(pool, request, &is_free).map_err(|v6| Refusal::PoolExhausted {
            pool: name.clone(),
            family: if v6 { "ipv6" } else { "ipv4" },
        });
    }
    let mut order: Vec<_> = pools.iter().filter(|pool| pool.auto_assign).collect();
    order.retain(|pool| pool.serves());
    // Pools made for this Service go before those for everyone.
    order.sort_by_key(|pool| {
        (pool.reserved.is_none(), pool.priority.unwrap_or(i32::MAX), pool.name.clone())
    });
    let kept = order.iter().find_map(|pool| kept(pool, request, &is_free));
    if let Some(given) = kept {
        return Ok(given);
    }
    order.iter().find_map(|pool| from_pool(pool, request, &is_free).ok()).ok_or(Refusal::Exhausted)
}

fn in_use<'a>(taken: &'a [Taken], request: &Request, address: IpAddr) -> Option<&'a Taken> {
    taken.iter().find(|other| other.address == address && !request.sharing.allows(&other.sharing))
}

/// What the Service has, if the pool would still give it.
fn kept(pool: &Pool, request: &Request, is_free: &dyn Fn(IpAddr) -> bool) -> Option<Given> {
    let families: Vec<bool> = request.held.iter().map(IpAddr::is_ipv6).collect();
    let fits = families == request.families
        && request.held.iter().all(|address| pool.may_give(*address) && is_free(*address));
    fits.then(|| Given { addresses: request.held.clone(), pool: pool.name.clone() })
}

/// Free addresses of one pool, or the family that has none.
fn from_pool(
    pool: &Pool,
    request: &Request,
    is_free: &dyn Fn(IpAddr) -> bool,
) -> Result<Given, bool> {
    if let Some(given) = kept(pool, request, is_free) {
        return Ok(given);
    }
    let mut addresses = Vec::new();
    for v6 in &request.families {
        let mut all = pool
            .ranges
            .iter()
            .filter(|range| range.first.is_ipv6() == *v6)
            .flat_map(|range| range.addresses());
        addresses.push(all.find(|a| pool.may_give(*a) && is_free(*a)).ok_or(*v6)?);
    }
    Ok(Given { addresses, pool: pool.name.clone() })
}

fn wanted(pools: &[Pool], taken: &[Taken], request: &Request) -> Result<Given, Refusal> {
    let mut addresses = Vec::new();
    for text in &request.wanted {
        let parsed = text.trim().parse();
        addresses.push(parsed.map_err(|_| Refusal::Malformed(text.clone()))?);
    }
    let families: Vec<bool> = addresses.iter().map(IpAddr::is_ipv6).collect();
    if families.len() != request.families.len()
        || !families.iter().all(|family| request.families.contains(family))
    {
        return Err(Refusal::Family(request.wanted.clone()));
    }
    let mut from: Option<&Pool> = None;
    for address in &addresses {
        let pool = pools.iter().find(|pool| pool.holds(*address) && pool.serves());
        from = Some(pool.ok_or(Refusal::NotInPools(*address))?);
    }
    let pool = from.map(|pool| pool.name.clone()).unwrap_or_default();
    if let Some(asked) = request.pool.as_ref().filter(|asked| **asked != pool) {
        let addresses = request.wanted.clone();
        return Err(Refusal::OtherPool { addresses, pool: asked.clone() });
    }
    for address in &addresses {
        if let Some(other) = in_use(taken, request, *address) {
            let by = format!("{}/{}", request.namespace, request.name);
            return Err(Refusal::InUse { by, other: other.service.clone() });
        }
    }
    Ok(Given { addresses, pool })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, ranges: &[&str]) -> Pool {
        Pool {
            name: name.into(),
            ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            auto_assign: true,
            avoid_buggy: false,
            priority: None,
            reserved: None,
        }
    }

    fn request() -> Request {
        Request {
            namespace: "ns".into(),
            name: "svc".into(),
            families: vec![false],
            ..Request::default()
        }
    }

    fn taken(address: &str) -> Taken {
        Taken {
            address: address.parse().unwrap(),
            service: "ns/other".into(),
            sharing: Sharing::default(),
        }
    }

    fn show(result: Result<Given, Refusal>) -> String {
        match result {
            Ok(given) => {
                let list: Vec<_> = given.addresses.iter().map(ToString::to_string).collect();
                format!("{} from {}", list.join(","), given.pool)
            }
            Err(refusal) => refusal.to_string(),
        }
    }

    fn check(pools: &[Pool], taken: &[Taken], request: &Request, want: &str) {
        assert_eq!(show(allocate(pools, taken, request)), want);
    }

    #[test]
    fn addresses_are_given_in_order_and_taken_ones_skipped() {
        let mut pools = [pool("a", &["172.18.11.0-172.18.11.255"])];
        check(&pools, &[], &request(), "172.18.11.0 from a");
        pools[0].avoid_buggy = true;
        check(&pools, &[], &request(), "172.18.11.1 from a");
        check(&pools, &[taken("172.18.11.1")], &request(), "172.18.11.2 from a");
    }

    #[test]
    fn a_full_pool_overflows_into_the_next_and_then_refuses() {
        let mut pools = [pool("a", &["10.0.0.1/32"]), pool("b", &["10.0.1.7-10.0.1.7"])];
        check(&pools, &[taken("10.0.0.1")], &request(), "10.0.1.7 from b");
        check(&pools, &[taken("10.0.0.1"), taken("10.0.1.7")], &request(), "no available IPs");
        pools[1].auto_assign = false;
        check(&pools, &[taken("10.0.0.1")], &request(), "no available IPs");
        pools[1].auto_assign = true;
        pools[1].priority = Some(1);
        check(&pools, &[], &request(), "10.0.1.7 from b");
    }

    #[test]
    fn what_a_service_has_is_kept_while_it_may_have_it() {
        let pools = [pool("a", &["10.0.0.0/24"])];
        let held = Request { held: vec!["10.0.0.9".parse().unwrap()], ..request() };
        check(&pools, &[], &held, "10.0.0.9 from a");
        let outside = Request { held: vec!["10.9.0.9".parse().unwrap()], ..request() };
        check(&pools, &[], &outside, "10.0.0.0 from a");
    }

    #[test]
    fn a_service_that_names_a_pool_gets_it_or_hears_why_not() {
        let mut pools = [pool("a", &["10.0.0.1/32"]), pool("b", &["10.0.1.7/32"])];
        pools[1].auto_assign = false;
        let wants = |name: &str| Request { pool: Some(name.into()), ..request() };
        check(&pools, &[], &wants("b"), "10.0.1.7 from b");
        check(&pools, &[], &wants("c"), "unknown pool \"c\"");
        let full = [taken("10.0.1.7")];
        check(&pools, &full, &wants("b"), "no available IPs in pool \"b\" for ipv4 IPFamily");
        pools[1].reserved = Some(false);
        check(&pools, &[], &wants("b"), "pool \"b\" is not compatible with service \"ns/svc\"");
    }

    #[test]
    fn a_service_that_names_an_address_gets_it_or_hears_why_not() {
        let pools = [pool("a", &["10.0.0.0/24"])];
        let wants = |text: &str| Request { wanted: vec![text.into()], ..request() };
        check(&pools, &[], &wants("10.0.0.77"), "10.0.0.77 from a");
        check(&pools, &[], &wants("10.9.0.1"), "10.9.0.1 is not allowed in config");
        check(&pools, &[], &wants("seven"), "invalid LoadBalancer IP \"seven\"");
        let used = [taken("10.0.0.77")];
        let want = "can't change sharing key for \"ns/svc\", address also in use by ns/other";
        check(&pools, &used, &wants("10.0.0.77"), want);
    }

    #[test]
    fn services_with_one_key_and_different_ports_share_an_address() {
        let pools = [pool("a", &["10.0.0.1/32"])];
        let sharing = |port: i32| Sharing {
            key: "k".into(),
            ports: vec![("TCP".into(), port)],
            backend: "Cluster".into(),
        };
        let first = [Taken { sharing: sharing(80), ..taken("10.0.0.1") }];
        let second = Request { sharing: sharing(443), ..request() };
        check(&pools, &first, &second, "10.0.0.1 from a");
        let clash = Request { sharing: sharing(80), ..request() };
        check(&pools, &first, &clash, "no available IPs");
    }

    #[test]
    fn ranges_that_do_not_parse_are_refused_with_the_text() {
        for text in ["10.0.0.9-10.0.0.1", "10.0.0.0/33", "10.0.0.1-fd00::1", "x"] {
            assert_eq!(text.parse::<Range>(), Err(RangeError(text.into())));
        }
    }
}
