//! `tombolo proxy init`: sets traffic capture up in a pod, with the flags of Istio's init
//! container.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;
use tombolo_agent::capture::{self, Ports, Ranges, Settings};

use crate::output;

/// Capture a pod's traffic for its proxy.
#[derive(Debug, Args)]
pub struct InitCommand {
    /// Where outbound connections go.
    #[arg(short = 'p', long, default_value_t = 15001)]
    envoy_port: u16,
    /// Where inbound connections go.
    #[arg(short = 'z', long, default_value_t = 15006)]
    inbound_capture_port: u16,
    /// The proxy's users, separated by commas.
    #[arg(short = 'u', long, value_delimiter = ',', default_value = "1337")]
    proxy_uid: Vec<u32>,
    /// The proxy's groups, separated by commas; the users' numbers by default.
    #[arg(short = 'g', long, value_delimiter = ',')]
    proxy_gid: Vec<u32>,
    /// How connections are intercepted; only REDIRECT is there.
    #[arg(short = 'm', long, default_value = "REDIRECT")]
    istio_inbound_interception_mode: String,
    /// Inbound ports to capture: `*`, or a list; nothing captures none.
    #[arg(short = 'b', long, default_value = "")]
    istio_inbound_ports: String,
    /// Inbound ports to leave alone where all others are captured.
    #[arg(short = 'd', long, default_value = "")]
    istio_local_exclude_ports: String,
    /// Outbound ranges to capture: `*`, or a list; nothing captures none.
    #[arg(short = 'i', long, default_value = "")]
    istio_service_cidr: String,
    /// Outbound ranges to leave alone.
    #[arg(short = 'x', long, default_value = "")]
    istio_service_exclude_cidr: String,
    /// Outbound ports to capture whatever their address.
    #[arg(short = 'q', long, default_value = "")]
    istio_outbound_ports: String,
    /// Outbound ports to leave alone.
    #[arg(short = 'o', long, default_value = "")]
    istio_local_outbound_ports_exclude: String,
    /// Interfaces to leave alone.
    #[arg(short = 'c', long, value_delimiter = ',')]
    istio_exclude_interfaces: Vec<String>,
    /// Send DNS queries to the proxy.
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE")]
    redirect_dns: bool,
    /// Print the rules and apply nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Accepted for the injector's sake: rules are always applied as a whole.
    #[arg(long)]
    force_apply: bool,
    /// Accepted for the injector's sake: logs are plain here.
    #[arg(long)]
    log_as_json: bool,
    /// Accepted for the injector's sake: there is one level.
    #[arg(long = "log_output_level")]
    log_output_level: Option<String>,
    /// Accepted for the injector's sake: rules are always nftables.
    #[arg(long)]
    native_nftables: bool,
}

/// Reads a list; what is empty has no entries.
fn list<T: std::str::FromStr>(flag: &str, text: &str) -> anyhow::Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| entry.parse().with_context(|| format!("{flag}: `{entry}` in `{text}`")))
        .collect()
}

impl InitCommand {
    fn settings(&self) -> anyhow::Result<Settings> {
        if self.istio_inbound_interception_mode != "REDIRECT" {
            bail!(
                "interception mode {} is not supported; use REDIRECT (annotation sidecar.istio.io/interceptionMode)",
                self.istio_inbound_interception_mode
            );
        }
        let resolver = std::fs::read_to_string("/etc/resolv.conf");
        let dns_servers = if self.redirect_dns {
            let text = resolver.context("read /etc/resolv.conf")?;
            text.lines()
                .filter_map(|line| line.trim().strip_prefix("nameserver"))
                .filter_map(|address| address.trim().parse::<IpAddr>().ok())
                .collect()
        } else {
            Vec::new()
        };
        let own: Option<IpAddr> =
            std::env::var("INSTANCE_IP").ok().and_then(|address| address.parse().ok());
        Ok(Settings {
            outbound_port: self.envoy_port,
            inbound_port: self.inbound_capture_port,
            proxy_uids: self.proxy_uid.clone(),
            proxy_gids: if self.proxy_gid.is_empty() {
                self.proxy_uid.clone()
            } else {
                self.proxy_gid.clone()
            },
            inbound_ports: match self.istio_inbound_ports.as_str() {
                "*" => Ports::All,
                ports => Ports::These(list("--istio-inbound-ports", ports)?),
            },
            exclude_inbound_ports: list(
                "--istio-local-exclude-ports",
                &self.istio_local_exclude_ports,
            )?,
            outbound_ranges: match self.istio_service_cidr.as_str() {
                "*" => Ranges::All,
                ranges => Ranges::These(list::<IpNet>("--istio-service-cidr", ranges)?),
            },
            exclude_outbound_ranges: list(
                "--istio-service-exclude-cidr",
                &self.istio_service_exclude_cidr,
            )?,
            outbound_ports: list("--istio-outbound-ports", &self.istio_outbound_ports)?,
            exclude_outbound_ports: list(
                "--istio-local-outbound-ports-exclude",
                &self.istio_local_outbound_ports_exclude,
            )?,
            exclude_interfaces: self.istio_exclude_interfaces.clone(),
            dns_servers,
            ipv6: own.is_some_and(|own| own.is_ipv6()),
        })
    }

    pub fn run(self) -> anyhow::Result<ExitCode> {
        let script = capture::script(&self.settings()?);
        if self.dry_run {
            output::text(script);
            return Ok(ExitCode::SUCCESS);
        }
        super::block_on(async {
            capture::apply(&script).await?;
            output::note("traffic is captured");
            Ok(ExitCode::SUCCESS)
        })
    }
}
