//! The nftables script for a set of options.
//!
//! Tables and chains have Istio's names. The script replaces its tables as one transaction: at no
//! moment is traffic captured by half of the rules. Traffic of the proxy's own users never reaches
//! the outbound redirect, so it cannot loop.

use std::fmt;

use ipnet::IpNet;

use crate::capture::options::{Inbound, Options, OwnerGroups, Ranges};

/// The table that redirects.
pub const TABLE: &str = "istio-proxy-nat";

/// The source address of what the proxy passes on to its own application.
const PASS_V4: &str = "127.0.0.6";
const PASS_V6: &str = "::6";

/// The script that puts the rules in place.
pub fn script(options: &Options) -> String {
    let chains = [
        base("prerouting", "prerouting", prerouting(options)),
        base("output", "output", vec!["counter jump istio-output".to_owned()]),
        chain("istio-inbound", inbound(options)),
        chain("istio-redirect", vec![redirect(options.outbound_port)]),
        chain("istio-in-redirect", vec![redirect(options.inbound_port)]),
        chain("istio-output", output(options)),
    ];
    // A chain must exist before another one jumps to it.
    let declared: String = ["istio-inbound", "istio-redirect", "istio-in-redirect", "istio-output"]
        .iter()
        .map(|name| format!("\tchain {name} {{\n\t}}\n"))
        .collect();
    let table = format!("table inet {TABLE}");
    format!("{}{table} {{\n{declared}}}\n{table} {{\n{}}}\n", removal(), chains.concat())
}

/// The script that takes the rules away, whether they are there or not.
pub fn removal() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn chain(name: &str, rules: Vec<String>) -> String {
    let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
    format!("\tchain {name} {{\n{rules}\t}}\n")
}

fn base(name: &str, hook: &str, rules: Vec<String>) -> String {
    let head = format!("type nat hook {hook} priority -100; policy accept;");
    chain(name, [vec![head], rules].concat())
}

fn redirect(port: u16) -> String {
    format!("meta l4proto tcp counter redirect to :{port}")
}

fn prerouting(options: &Options) -> Vec<String> {
    let mut rules = Vec::new();
    let each = |names: &[String], verdict: &str| -> Vec<String> {
        names.iter().map(|name| format!("iifname \"{name}\" {verdict}")).collect()
    };
    // What virtual machines send out is outbound, although it arrives on an interface.
    match &options.outbound_ranges {
        Ranges::All => {
            rules.extend(each(&options.virtual_interfaces, "counter jump istio-redirect"));
        }
        Ranges::Only(ranges) => {
            for range in ranges {
                let verdict = format!("{} counter jump istio-redirect", daddr(range));
                rules.extend(each(&options.virtual_interfaces, &verdict));
            }
        }
    }
    rules.extend(each(&options.virtual_interfaces, "counter return"));
    rules.extend(each(&options.excluded_interfaces, "counter return"));
    if options.inbound != Inbound::Nothing {
        rules.push("meta l4proto tcp counter jump istio-inbound".to_owned());
    }
    rules
}

fn inbound(options: &Options) -> Vec<String> {
    let mut rules = vec![format!("tcp dport {} counter return", options.tunnel_port)];
    let ports = |ports: &[u16], verdict: &str| -> Vec<String> {
        ports.iter().map(|port| format!("tcp dport {port} counter {verdict}")).collect()
    };
    match &options.inbound {
        Inbound::Nothing => {}
        Inbound::Only(only) => rules.extend(ports(only, "jump istio-in-redirect")),
        Inbound::AllBut(excluded) => {
            rules.extend(ports(excluded, "return"));
            rules.push("meta l4proto tcp counter jump istio-in-redirect".to_owned());
        }
    }
    rules
}

fn output(options: &Options) -> Vec<String> {
    let mut rules = Vec::new();
    let mut rule = |text: String| rules.push(text);
    for interface in &options.excluded_interfaces {
        rule(format!("oifname \"{interface}\" counter return"));
    }
    for port in &options.excluded_outbound_ports {
        rule(format!("tcp dport {port} counter return"));
        rule(format!("udp dport {port} counter return"));
    }
    rule(format!("oifname \"lo\" ip saddr {PASS_V4} counter return"));
    rule(format!("oifname \"lo\" ip6 saddr {PASS_V6} counter return"));
    for owner in owners(options) {
        own(options, &owner).into_iter().for_each(&mut rule);
    }
    match &options.owner_groups {
        OwnerGroups::Only(groups) => {
            let others: Vec<_> =
                groups.iter().map(|group| format!("meta skgid != {group}")).collect();
            rule(format!("{} counter return", others.join(" ")));
        }
        OwnerGroups::AllBut(groups) => {
            groups.iter().for_each(|group| rule(format!("meta skgid {group} counter return")));
        }
    }
    rule("ip daddr 127.0.0.1/32 counter return".to_owned());
    rule("ip6 daddr ::1/128 counter return".to_owned());
    for range in &options.excluded_ranges {
        rule(format!("{} counter return", daddr(range)));
    }
    for port in &options.outbound_ports {
        rule(format!("tcp dport {port} counter jump istio-redirect"));
    }
    match &options.outbound_ranges {
        Ranges::All => rule("meta l4proto tcp counter jump istio-redirect".to_owned()),
        Ranges::Only(ranges) => {
            for range in ranges {
                rule(format!("{} meta l4proto tcp counter jump istio-redirect", daddr(range)));
            }
        }
    }
    rules
}

/// The users and groups whose traffic is the proxy's own, as `skuid 1337`.
fn owners(options: &Options) -> Vec<Owner> {
    let uids = options.uids.iter().map(|uid| Owner("skuid", *uid));
    uids.chain(options.gids.iter().map(|gid| Owner("skgid", *gid))).collect()
}

struct Owner(&'static str, u32);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "meta {} {}", self.0, self.1)
    }
}

/// Traffic of one owner: to its own pod's address it is inbound, otherwise it passes.
fn own(options: &Options, owner: &Owner) -> Vec<String> {
    let tunnel = options.tunnel_port;
    let mut rules: Vec<String> = ["ip daddr != 127.0.0.1/32", "ip6 daddr != ::1/128"]
        .iter()
        .map(|other| {
            format!("oifname \"lo\" {other} tcp dport != {tunnel} {owner} counter jump istio-in-redirect")
        })
        .collect();
    // Containers of a pod that talk to each other on localhost are not captured, unless the
    // options ask for ranges on localhost.
    if !captures_loopback(options) {
        let Owner(key, id) = owner;
        rules.push(format!("oifname \"lo\" meta {key} != {id} counter return"));
    }
    rules.push(format!("{owner} counter return"));
    rules
}

fn captures_loopback(options: &Options) -> bool {
    match &options.outbound_ranges {
        Ranges::All => false,
        Ranges::Only(ranges) => ranges.iter().any(|range| range.addr().is_loopback()),
    }
}

fn daddr(range: &IpNet) -> String {
    match range {
        IpNet::V4(range) => format!("ip daddr {range}"),
        IpNet::V6(range) => format!("ip6 daddr {range}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::capture::options::Texts;

    use super::*;

    fn golden(name: &str, change: impl FnOnce(&mut Texts<'_>)) {
        let mut texts = Texts { uids: "1337", ranges: "*", inbound: "*", ..Texts::default() };
        change(&mut texts);
        let options = Options::parse(&texts, 15001, 15006, 15008).unwrap();
        insta::assert_snapshot!(name, script(&options));
    }

    #[test]
    fn the_default_injection() {
        golden("default", |texts| texts.excluded_inbound = "15090,15021,15020");
    }

    #[test]
    fn nothing_inbound() {
        golden("nothing_inbound", |texts| texts.inbound = "");
    }

    #[test]
    fn some_inbound_ports() {
        golden("some_inbound_ports", |texts| texts.inbound = "80,443");
    }

    #[test]
    fn ranges_of_both_families() {
        golden("ranges", |texts| {
            texts.ranges = "10.0.0.0/8,fd00::/8";
            texts.excluded_ranges = "10.1.0.0/16,fd01::/16";
        });
    }

    #[test]
    fn a_range_on_localhost() {
        golden("loopback_range", |texts| texts.ranges = "127.1.2.3/32");
    }

    #[test]
    fn outbound_ports() {
        golden("outbound_ports", |texts| {
            texts.ranges = "";
            texts.outbound_ports = "9000,9001";
            texts.excluded_outbound_ports = "3306";
        });
    }

    #[test]
    fn interfaces() {
        golden("interfaces", |texts| {
            texts.excluded_interfaces = "not-istio-nic";
            texts.virtual_interfaces = "eth1,eth2";
        });
    }

    #[test]
    fn several_owners_and_groups() {
        golden("owners", |texts| {
            texts.uids = "3,4";
            texts.gids = "1,2";
            texts.owner_groups = "java,202";
        });
    }

    #[test]
    fn excluded_groups() {
        golden("excluded_groups", |texts| texts.excluded_owner_groups = "888,ftp");
    }

    #[test]
    fn names_cannot_smuggle_rules() {
        let texts = Texts { excluded_interfaces: "x\" accept; #", ..Texts::default() };
        let invalid = Options::parse(&texts, 1, 2, 3).unwrap_err();
        let want = "--istio-exclude-interfaces: `x\" accept; #` is not a name";
        assert_eq!(invalid.to_string(), want);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let texts = Texts { mode: "TPROXY", ..Texts::default() };
        let invalid = Options::parse(&texts, 1, 2, 3).unwrap_err();
        let want = "--istio-inbound-interception-mode: `TPROXY` is not supported, only REDIRECT";
        assert_eq!(invalid.to_string(), want);
    }
}
