//! Traffic capture in a pod's network namespace: outbound connections go to the proxy's port
//! 15001, inbound ones to 15006, except the proxy's own.
//!
//! [`script`] is pure: the flags of Istio's capture in, one nftables script out, which replaces
//! what an earlier run left in one transaction. Tables and chains have the names of Istio's own
//! nftables mode. Only REDIRECT is there; TPROXY is refused.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::process::Stdio;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The inbound tunnel port, which is never captured.
const TUNNEL_PORT: u16 = 15008;
/// The source address of the proxy's own connections to the application.
const PASSTHROUGH_SOURCE: &str = "127.0.0.6";

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where outbound connections go.
    pub outbound_port: u16,
    /// Where inbound connections go.
    pub inbound_port: u16,
    /// The users and groups whose connections are the proxy's own.
    pub proxy_uids: Vec<u32>,
    pub proxy_gids: Vec<u32>,
    pub inbound_ports: Ports,
    /// Inbound ports that are left alone, where all others are captured.
    pub exclude_inbound_ports: Vec<u16>,
    pub outbound_ranges: Ranges,
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Outbound ports that are captured although their address is not in a range.
    pub outbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_interfaces: Vec<String>,
    /// DNS servers whose queries go to the proxy's DNS port.
    pub dns_servers: Vec<IpAddr>,
    /// Whether the pod has an IPv6 address; without one, IPv6 is left alone.
    pub ipv6: bool,
}

/// Inbound ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    All,
    These(Vec<u16>),
}

/// Outbound addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    All,
    These(Vec<IpNet>),
}

/// The port on which the proxy answers DNS.
const DNS_PORT: u16 = 15053;

/// Why traffic is not captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("start nft; install the package `nftables` in the image")]
    Start(#[source] io::Error),
    #[error("give nft its script")]
    Write(#[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// The nftables script: removes what is there of an earlier run and adds the rules, atomically.
pub fn script(settings: &Settings) -> String {
    let mut text = String::new();
    for line in [
        "add table inet istio-proxy-nat".to_owned(),
        "delete table inet istio-proxy-nat".to_owned(),
        "table inet istio-proxy-nat {".to_owned(),
    ] {
        text.push_str(&line);
        text.push('\n');
    }
    chain(&mut text, "istio-redirect", None, &[redirect(settings.outbound_port)]);
    chain(&mut text, "istio-in-redirect", None, &[redirect(settings.inbound_port)]);
    chain(&mut text, "istio-inbound", None, &inbound(settings));
    if !settings.dns_servers.is_empty() {
        chain(&mut text, "istio-output-dns", None, &dns(settings));
    }
    chain(&mut text, "istio-output", None, &outbound(settings));
    chain(&mut text, "istio-prerouting", Some("prerouting priority dstnat"), &prerouting(settings));
    chain(&mut text, "istio-output-hook", Some("output priority -100"), &output_hook(settings));
    text.push_str("}\n");
    text
}

fn chain(text: &mut String, name: &str, hook: Option<&str>, rules: &[String]) {
    let _ = writeln!(text, "  chain {name} {{");
    if let Some(hook) = hook {
        let _ = writeln!(text, "    type nat hook {hook}; policy accept;");
    }
    for rule in rules {
        let _ = writeln!(text, "    {rule}");
    }
    text.push_str("  }\n");
}

fn redirect(port: u16) -> String {
    format!("meta l4proto tcp counter redirect to :{port}")
}

/// Leaves IPv6 alone in a pod without an IPv6 address: the proxy does not listen there.
fn only_ipv4(settings: &Settings) -> Option<String> {
    (!settings.ipv6).then(|| "meta nfproto ipv6 counter return".to_owned())
}

fn prerouting(settings: &Settings) -> Vec<String> {
    let mut rules: Vec<String> = settings
        .exclude_interfaces
        .iter()
        .map(|name| format!("iifname \"{name}\" counter return"))
        .collect();
    rules.extend(only_ipv4(settings));
    if settings.inbound_ports != Ports::These(Vec::new()) {
        rules.push("meta l4proto tcp counter jump istio-inbound".to_owned());
    }
    rules
}

fn inbound(settings: &Settings) -> Vec<String> {
    let mut rules = vec![format!("tcp dport {TUNNEL_PORT} counter return")];
    match &settings.inbound_ports {
        Ports::All => {
            let excluded = settings.exclude_inbound_ports.iter();
            rules.extend(excluded.map(|port| format!("tcp dport {port} counter return")));
            rules.push("meta l4proto tcp counter jump istio-in-redirect".to_owned());
        }
        Ports::These(ports) => {
            rules.extend(
                ports.iter().map(|port| format!("tcp dport {port} counter jump istio-in-redirect")),
            );
        }
    }
    rules
}

fn output_hook(settings: &Settings) -> Vec<String> {
    let mut rules: Vec<String> = settings
        .exclude_interfaces
        .iter()
        .map(|name| format!("oifname \"{name}\" counter return"))
        .collect();
    rules.extend(only_ipv4(settings));
    rules.push("counter jump istio-output".to_owned());
    rules
}

/// Not to the pod itself over loopback: such connections of the proxy are the application calling
/// itself by its own address, and go through the inbound side.
fn outbound(settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    for port in &settings.exclude_outbound_ports {
        rules.push(format!("tcp dport {port} counter return"));
        rules.push(format!("udp dport {port} counter return"));
    }
    rules.push(format!("oifname \"lo\" ip saddr {PASSTHROUGH_SOURCE} counter return"));
    rules.push("oifname \"lo\" ip6 saddr ::6 counter return".to_owned());
    let dns = !settings.dns_servers.is_empty();
    let owners = settings
        .proxy_uids
        .iter()
        .map(|uid| ("skuid", *uid))
        .chain(settings.proxy_gids.iter().map(|gid| ("skgid", *gid)));
    for (key, id) in owners {
        let tunnel = if dns && key == "skuid" {
            format!("{{ 53, {TUNNEL_PORT} }}")
        } else {
            TUNNEL_PORT.to_string()
        };
        for loopback in ["ip daddr != 127.0.0.1", "ip6 daddr != ::1"] {
            rules.push(format!(
                "oifname \"lo\" {loopback} tcp dport != {tunnel} meta {key} {id} counter jump istio-in-redirect"
            ));
        }
        let not_dns = if dns { "tcp dport != 53 " } else { "" };
        rules.push(format!("oifname \"lo\" {not_dns}meta {key} != {id} counter return"));
        rules.push(format!("meta {key} {id} counter return"));
    }
    if dns {
        rules.push("counter jump istio-output-dns".to_owned());
    }
    rules.push("ip daddr 127.0.0.1 counter return".to_owned());
    rules.push("ip6 daddr ::1 counter return".to_owned());
    rules.extend(
        settings
            .exclude_outbound_ranges
            .iter()
            .map(|range| format!("{} counter return", to(range))),
    );
    rules.extend(
        settings
            .outbound_ports
            .iter()
            .map(|port| format!("tcp dport {port} counter jump istio-redirect")),
    );
    match &settings.outbound_ranges {
        Ranges::All => rules.push("counter jump istio-redirect".to_owned()),
        Ranges::These(ranges) => {
            rules.extend(
                ranges.iter().map(|range| format!("{} counter jump istio-redirect", to(range))),
            );
        }
    }
    rules
}

fn dns(settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    for protocol in ["tcp", "udp"] {
        for server in &settings.dns_servers {
            let family = if server.is_ipv4() { "ip" } else { "ip6" };
            rules.push(format!(
                "{family} daddr {server} {protocol} dport 53 counter redirect to :{DNS_PORT}"
            ));
        }
    }
    rules
}

fn to(range: &IpNet) -> String {
    match range {
        IpNet::V4(range) => format!("ip daddr {range}"),
        IpNet::V6(range) => format!("ip6 daddr {range}"),
    }
}

/// Applies a script in this network namespace.
///
/// # Errors
/// When `nft` is not there or refuses the rules; nothing is changed then.
pub async fn apply(script: &str) -> Result<(), CaptureError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(CaptureError::Start)?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(script.as_bytes()).await.map_err(CaptureError::Write)?;
    }
    let output = nft.wait_with_output().await.map_err(CaptureError::Write)?;
    if output.status.success() {
        return Ok(());
    }
    Err(CaptureError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the sidecar injector asks for by default.
    fn injected() -> Settings {
        Settings {
            outbound_port: 15001,
            inbound_port: 15006,
            proxy_uids: vec![1337],
            proxy_gids: vec![1337],
            inbound_ports: Ports::All,
            exclude_inbound_ports: vec![15090, 15021, 15020],
            outbound_ranges: Ranges::All,
            exclude_outbound_ranges: Vec::new(),
            outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            dns_servers: Vec::new(),
            ipv6: false,
        }
    }

    #[test]
    fn the_injectors_default() {
        insta::assert_snapshot!(script(&injected()));
    }

    #[test]
    fn every_option_at_once() {
        insta::assert_snapshot!(script(&Settings {
            inbound_ports: Ports::These(vec![80, 443]),
            outbound_ranges: Ranges::These(vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd00::/8".parse().unwrap()
            ]),
            exclude_outbound_ranges: vec!["10.1.0.0/16".parse().unwrap()],
            outbound_ports: vec![9000],
            exclude_outbound_ports: vec![22],
            exclude_interfaces: vec!["eth1".to_owned()],
            dns_servers: vec!["10.96.0.10".parse().unwrap()],
            ipv6: true,
            ..injected()
        }));
    }
}
