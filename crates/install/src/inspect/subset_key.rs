//! The names of Istio's upstreams: `DIRECTION|PORT|SUBSET|HOST`.

/// The parts of such a name. Ordered as istioctl orders its tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubsetKey {
    pub host: String,
    pub subset: String,
    pub port: u16,
    pub direction: String,
}

impl SubsetKey {
    /// Takes a name apart; none if it is of another form, such as `PassthroughCluster`.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '|');
        let [direction, port, subset, host] =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        Some(Self {
            host: host.to_owned(),
            subset: subset.to_owned(),
            port: port.parse().unwrap_or_default(),
            direction: direction.to_owned(),
        })
    }

    /// Where a name comes in tables; names of another form count as hosts.
    pub fn order(name: &str) -> Self {
        Self::parse(name).unwrap_or_else(|| Self {
            host: name.to_owned(),
            subset: String::new(),
            port: 0,
            direction: String::new(),
        })
    }
}
