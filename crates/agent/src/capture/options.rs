//! What is captured: the options of `istio-iptables`, checked.

use std::fmt;

use ipnet::IpNet;

/// Lists of ports, ranges and interfaces that decide what is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub outbound_port: u16,
    pub inbound_port: u16,
    pub tunnel_port: u16,
    /// Users whose traffic is the proxy's own.
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub inbound: Inbound,
    pub outbound_ranges: Ranges,
    pub excluded_ranges: Vec<IpNet>,
    /// Outbound ports that are captured even outside the ranges.
    pub outbound_ports: Vec<u16>,
    pub excluded_outbound_ports: Vec<u16>,
    pub excluded_interfaces: Vec<String>,
    pub virtual_interfaces: Vec<String>,
    pub owner_groups: OwnerGroups,
}

/// Which inbound ports are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    Nothing,
    Only(Vec<u16>),
    AllBut(Vec<u16>),
}

/// Which outbound ranges are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    All,
    Only(Vec<IpNet>),
}

/// Whose outbound traffic is captured, by the group of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerGroups {
    Only(Vec<String>),
    AllBut(Vec<String>),
}

/// The texts of the options, as on the command line.
#[derive(Clone, Debug, Default)]
pub struct Texts<'a> {
    pub uids: &'a str,
    pub gids: &'a str,
    pub mode: &'a str,
    pub inbound: &'a str,
    pub excluded_inbound: &'a str,
    pub ranges: &'a str,
    pub excluded_ranges: &'a str,
    pub outbound_ports: &'a str,
    pub excluded_outbound_ports: &'a str,
    pub excluded_interfaces: &'a str,
    pub virtual_interfaces: &'a str,
    pub owner_groups: &'a str,
    pub excluded_owner_groups: &'a str,
}

/// An option that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct Invalid {
    option: &'static str,
    problem: String,
}

impl Options {
    /// Checks the texts of the options.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn parse(
        texts: &Texts<'_>,
        outbound: u16,
        inbound: u16,
        tunnel: u16,
    ) -> Result<Self, Invalid> {
        if !matches!(texts.mode, "" | "REDIRECT") {
            let problem = format!("`{}` is not supported, only REDIRECT", texts.mode);
            return Err(Invalid { option: "--istio-inbound-interception-mode", problem });
        }
        let uids = list("--proxy-uid", texts.uids)?;
        let gids = list("--proxy-gid", texts.gids)?;
        let excluded = list("--istio-local-exclude-ports", texts.excluded_inbound)?;
        Ok(Self {
            outbound_port: outbound,
            inbound_port: inbound,
            tunnel_port: tunnel,
            gids: if gids.is_empty() { uids.clone() } else { gids },
            uids,
            inbound: match texts.inbound.trim() {
                "" => Inbound::Nothing,
                "*" => Inbound::AllBut(excluded),
                ports => Inbound::Only(list("--istio-inbound-ports", ports)?),
            },
            outbound_ranges: match texts.ranges.trim() {
                "*" => Ranges::All,
                ranges => Ranges::Only(list("--istio-service-cidr", ranges)?),
            },
            excluded_ranges: list("--istio-service-exclude-cidr", texts.excluded_ranges)?,
            outbound_ports: list("--istio-outbound-ports", texts.outbound_ports)?,
            excluded_outbound_ports: list(
                "--istio-local-outbound-ports-exclude",
                texts.excluded_outbound_ports,
            )?,
            excluded_interfaces: names("--istio-exclude-interfaces", texts.excluded_interfaces)?,
            virtual_interfaces: names("--kube-virt-interfaces", texts.virtual_interfaces)?,
            owner_groups: owner_groups(texts)?,
        })
    }
}

fn owner_groups(texts: &Texts<'_>) -> Result<OwnerGroups, Invalid> {
    match texts.owner_groups.trim() {
        "" | "*" => {
            let excluded =
                names("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", texts.excluded_owner_groups)?;
            Ok(OwnerGroups::AllBut(excluded))
        }
        groups => names("ISTIO_OUTBOUND_OWNER_GROUPS", groups).map(OwnerGroups::Only),
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn list<T: std::str::FromStr<Err: fmt::Display>>(
    option: &'static str,
    text: &str,
) -> Result<Vec<T>, Invalid> {
    let parse = |part: &str| {
        part.parse()
            .map_err(|error: T::Err| Invalid { option, problem: format!("`{part}`: {error}") })
    };
    parts(text).map(parse).collect()
}

/// Names go into the text of rules, so they must not hold anything that means something there.
fn names(option: &'static str, text: &str) -> Result<Vec<String>, Invalid> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '*');
    let check = |name: &str| match name.chars().all(plain) {
        true => Ok(name.to_owned()),
        false => Err(Invalid { option, problem: format!("`{name}` is not a name") }),
    };
    parts(text).map(check).collect()
}
