//! The host's way into the lab: a link from the host to the bridge, when the host can have one.
//!
//! The link is made by the launcher from inside the lab's network namespace, with its other end
//! in the host's, so it disappears with the lab however that ends. The host is never changed when
//! it already uses addresses of the lab's network, or when the caller is not root: the lab works
//! without, and [`plan`] says what is then different and what to do.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;

use crate::namespace::on_own_thread;
use crate::network::HOST_PORT;
use crate::spec::{LAB_GATEWAY, LAB_NETWORK, overlap};

/// The host's end of the link.
pub const HOST_LINK: &str = "tombolo0";

#[derive(Deserialize)]
struct Route {
    dst: String,
    dev: Option<String>,
}

/// Finds why the host cannot reach the lab's addresses; nothing when it can be made to.
///
/// # Errors
/// When the host's routes cannot be read.
pub fn obstacle(path: &OsStr) -> io::Result<Option<String>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Some(without_root()));
    }
    // Routes of the local table are the host's addresses.
    let output = ip(path, &["-json", "-4", "route", "show", "table", "all"])?;
    Ok(conflict(&output)?.map(|(route, device)| in_use(&route, &device)))
}

/// The link that is made when there is no obstacle; called from inside the lab's network
/// namespace with the host's in `host`.
///
/// # Errors
/// When the link cannot be made, for example because another lab just made its own.
pub fn attach(path: &OsStr, host: &File) -> io::Result<()> {
    let host_path = format!("/proc/{}/fd/{}", std::process::id(), host.as_raw_fd());
    let link = ["link", "add", HOST_PORT, "type", "veth", "peer", "name", HOST_LINK, "netns"];
    ip(path, &[&link[..], &[host_path.as_str()]].concat())?;
    let gateway = format!("{LAB_GATEWAY}/{}", LAB_NETWORK.prefix_len());
    let configured = on_own_thread(|| {
        setns(host, CloneFlags::CLONE_NEWNET)?;
        ip(path, &["address", "add", &gateway, "dev", HOST_LINK])?;
        ip(path, &["link", "set", HOST_LINK, "up"])
    });
    if configured.is_err() {
        // Half a link would keep other labs from making theirs.
        ip(path, &["link", "delete", HOST_PORT])?;
    }
    configured.map(|_| ())
}

/// The first route of the host that has an address in common with the lab's network.
fn conflict(json: &str) -> io::Result<Option<(Ipv4Net, String)>> {
    let routes: Vec<Route> = serde_json::from_str(json)?;
    Ok(routes.into_iter().find_map(|route| {
        let subnet: Ipv4Net = match route.dst.parse() {
            Ok(subnet) => subnet,
            // A single address is printed without its length; `default` is no subnet at all.
            Err(_) => Ipv4Net::new(route.dst.parse().ok()?, 32).ok()?,
        };
        let taken = subnet.prefix_len() > 0 && overlap(subnet, LAB_NETWORK);
        taken.then(|| (subnet, route.dev.unwrap_or_else(|| "no device".to_owned())))
    }))
}

fn in_use(route: &Ipv4Net, device: &str) -> String {
    let advice = if device == HOST_LINK {
        "delete the clusters of the other lab that has this link, and make this lab again"
            .to_owned()
    } else {
        format!(
            "remove that route (`ip route get {LAB_GATEWAY}` shows whose it is) and make the lab again"
        )
    };
    format!(
        "this host already uses {route} (on {device}), so it cannot reach node and load-balancer \
         addresses in {LAB_NETWORK}; kubectl works, and `tombolo lab container exec NODE COMMAND` \
         reaches them from a node. To reach them from here, {advice}"
    )
}

fn without_root() -> String {
    format!(
        "without root this host cannot reach node and load-balancer addresses in {LAB_NETWORK}; \
         kubectl works, and `tombolo lab container exec NODE COMMAND` reaches them from a node. To \
         reach them from here, run as root"
    )
}

fn ip(path: &OsStr, arguments: &[&str]) -> io::Result<String> {
    let child = Command::new("ip")
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut text = format!("`ip {}` failed: ", arguments.join(" ")).into_bytes();
    text.write_all(output.stderr.trim_ascii())?;
    Err(io::Error::other(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_share_addresses_with_the_lab_are_found() {
        let found = |json: &str| conflict(json).unwrap().map(|(net, dev)| format!("{net} {dev}"));
        let free = r#"[{"dst":"default","dev":"eth0"},{"dst":"192.0.2.0/24","dev":"eth0"},
            {"type":"local","dst":"127.0.0.1","dev":"lo"},{"dst":"172.17.0.0/16","dev":"docker0"}]"#;
        assert_eq!(found(free), None);
        let docker = r#"[{"dst":"172.18.0.0/16","dev":"br-1"}]"#;
        assert_eq!(found(docker).unwrap(), "172.18.0.0/16 br-1");
        let vpn = r#"[{"dst":"172.16.0.0/12","dev":"wg0"}]"#;
        assert_eq!(found(vpn).unwrap(), "172.16.0.0/12 wg0");
        let address = r#"[{"type":"local","dst":"172.18.9.9","dev":"eth7"}]"#;
        assert_eq!(found(address).unwrap(), "172.18.9.9/32 eth7");
    }

    #[test]
    fn a_host_that_uses_the_range_is_told_what_to_do() {
        let text = in_use(&"172.18.0.0/16".parse().unwrap(), "br-1");
        assert!(text.starts_with("this host already uses 172.18.0.0/16 (on br-1)"), "{text}");
        assert!(text.ends_with("remove that route (`ip route get 172.18.0.1` shows whose it is) and make the lab again"), "{text}");
        let text = in_use(&"172.18.0.0/16".parse().unwrap(), HOST_LINK);
        assert!(
            text.ends_with(
                "delete the clusters of the other lab that has this link, and make this lab again"
            ),
            "{text}"
        );
    }
}
