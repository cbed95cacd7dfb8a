//! `tombolo proxy …`: the data plane beside a workload or as a gateway, and its set-up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tombolo_agent::capture::options::{Options, Texts};
use tombolo_agent::capture::{apply, rules};
use tombolo_agent::settings::{Role, Settings};
use tombolo_agent::wait;
use tombolo_runtime::logs::{self, Format};

use crate::output;

/// Run the data plane of a pod.
#[derive(Debug, Args)]
pub struct Proxy {
    #[command(subcommand)]
    command: ProxyCommand,
}

#[derive(Debug, Subcommand)]
enum ProxyCommand {
    /// Run beside a workload. Settings come from the environment, in Istio's names.
    Sidecar(Run),
    /// Run as a gateway. Settings come from the environment, in Istio's names.
    Router(Run),
    /// Capture the pod's traffic by nftables rules.
    Init(Box<Init>),
    /// Wait until the proxy is ready.
    Wait(Wait),
    /// Send one request to the proxy and print the answer.
    Request {
        /// GET or POST.
        method: String,
        /// For example http://127.0.0.1:15020/drain.
        url: String,
    },
}

/// How the data plane runs.
#[derive(Debug, Args)]
pub struct Run {
    /// The DNS domain that completes short names.
    #[arg(long)]
    domain: Option<String>,
    #[command(flatten)]
    logging: Logging,
}

#[derive(Debug, Args)]
struct Logging {
    /// The least level that is logged about traffic: trace, debug, info, warning, error, off.
    #[arg(long = "proxyLogLevel", default_value = "warning")]
    proxy_log_level: String,
    /// Accepted for the sake of Envoy, whose components it names.
    #[arg(long = "proxyComponentLogLevel", default_value = "", hide = true)]
    component_log_level: String,
    /// The least level that is logged about everything else, as `default:info`.
    #[arg(long = "log_output_level", default_value = "default:info")]
    output_level: String,
    /// Log as JSON.
    #[arg(long = "log_as_json")]
    as_json: bool,
}

impl Logging {
    fn start(&self) {
        let level = |text: &str| match text {
            "warning" | "warn" => "warn",
            "critical" | "error" => "error",
            "none" | "off" => "off",
            "debug" => "debug",
            "trace" => "trace",
            _ => "info",
        };
        let own = self.output_level.split(',').find_map(|pair| match pair.split_once(':') {
            Some(("default", own)) => Some(own),
            None => Some(pair),
            Some(_) => None,
        });
        let own = level(own.unwrap_or("info"));
        // The proxy says at info when listeners open; that belongs to the process's own log.
        let traffic = match level(&self.proxy_log_level) {
            "warn" => own,
            other => other,
        };
        let format = if self.as_json { Format::Json } else { Format::Text };
        logs::init(format, &format!("{own},tombolo_proxy={traffic}"));
    }
}

/// The options of istio-iptables.
#[derive(Debug, Args)]
pub struct Init {
    /// The port that takes outbound traffic.
    #[arg(short = 'p', long = "envoy-port", default_value_t = 15001)]
    envoy_port: u16,
    /// The port that takes inbound traffic.
    #[arg(short = 'z', long = "inbound-capture-port", default_value_t = 15006)]
    inbound_capture_port: u16,
    /// The port of HTTP tunnels, which is never redirected.
    #[arg(short = 'e', long = "inbound-tunnel-port", default_value_t = 15008)]
    inbound_tunnel_port: u16,
    /// The users the proxy runs as.
    #[arg(short = 'u', long = "proxy-uid", default_value = "1337")]
    proxy_uid: String,
    /// The groups the proxy runs as; those of the users by default.
    #[arg(short = 'g', long = "proxy-gid", default_value = "")]
    proxy_gid: String,
    /// How inbound traffic is captured: REDIRECT.
    #[arg(short = 'm', long = "istio-inbound-interception-mode", default_value = "REDIRECT")]
    mode: String,
    /// Inbound ports to capture, or `*`.
    #[arg(short = 'b', long = "istio-inbound-ports", default_value = "")]
    inbound_ports: String,
    /// Inbound ports not to capture, where all others are.
    #[arg(short = 'd', long = "istio-local-exclude-ports", default_value = "")]
    excluded_inbound_ports: String,
    /// Outbound address ranges to capture, or `*`.
    #[arg(short = 'i', long = "istio-service-cidr", default_value = "")]
    ranges: String,
    /// Outbound address ranges not to capture.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", default_value = "")]
    excluded_ranges: String,
    /// Outbound ports to capture whatever the address.
    #[arg(short = 'q', long = "istio-outbound-ports", default_value = "")]
    outbound_ports: String,
    /// Outbound ports not to capture.
    #[arg(short = 'o', long = "istio-local-outbound-ports-exclude", default_value = "")]
    excluded_outbound_ports: String,
    /// Interfaces whose traffic is left alone.
    #[arg(short = 'c', long = "istio-exclude-interfaces", default_value = "")]
    excluded_interfaces: String,
    /// Interfaces of virtual machines, whose inbound traffic is outbound.
    #[arg(short = 'k', long = "kube-virt-interfaces", default_value = "")]
    virtual_interfaces: String,
    /// Print the rules and change nothing.
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
    /// Take the rules away.
    #[arg(long = "cleanup-only")]
    cleanup_only: bool,
    /// Accepted: rules are always nftables rules.
    #[arg(long = "native-nftables", hide = true)]
    native_nftables: bool,
    /// Accepted: rules are always put in place as a whole.
    #[arg(long = "force-apply", hide = true)]
    force_apply: bool,
    #[arg(long = "reconcile", hide = true)]
    reconcile: bool,
    #[command(flatten)]
    logging: Logging,
}

/// How long to wait for the proxy.
#[derive(Debug, Args)]
pub struct Wait {
    /// What must answer.
    #[arg(long, default_value = "http://localhost:15021/healthz/ready")]
    url: String,
    /// How long to wait, in seconds.
    #[arg(long = "timeoutSeconds", default_value_t = 60)]
    timeout_seconds: u64,
    /// How long to pause between attempts, in milliseconds.
    #[arg(long = "periodMillis", default_value_t = 500)]
    period_millis: u64,
}

impl Proxy {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            ProxyCommand::Sidecar(run) => run.sidecar()?,
            ProxyCommand::Router(run) => run.router()?,
            ProxyCommand::Init(init) => init.run()?,
            ProxyCommand::Wait(wait) => wait.run()?,
            ProxyCommand::Request { method, url } => {
                let answer =
                    super::block_on(async move { Ok(wait::request(&method, &url).await?) })?;
                output::text(&answer);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Wait {
    pub fn run(self) -> anyhow::Result<()> {
        super::block_on(async move {
            let limit = Duration::from_secs(self.timeout_seconds);
            let every = Duration::from_millis(self.period_millis);
            Ok(wait::until_ready(&self.url, limit, every).await?)
        })
    }
}

impl Run {
    pub fn sidecar(self) -> anyhow::Result<()> {
        self.run(Role::Sidecar)
    }

    pub fn router(self) -> anyhow::Result<()> {
        self.run(Role::Router)
    }

    fn run(self, role: Role) -> anyhow::Result<()> {
        tombolo_runtime::memory::use_small_pages();
        self.logging.start();
        let settings = Settings::read(role, self.domain, &environment(), Path::new("/"))?;
        tombolo_agent::run::run(settings)
    }
}

impl Init {
    /// The same, but the rules are taken away.
    pub fn cleaning(mut self) -> Self {
        self.cleanup_only = true;
        self
    }

    pub fn run(self) -> anyhow::Result<()> {
        self.logging.start();
        let environment = environment();
        let variable = |name: &str| environment.get(name).map_or("", String::as_str);
        if variable("ISTIO_META_DNS_CAPTURE") == "true" {
            anyhow::bail!(
                "ISTIO_META_DNS_CAPTURE: capturing DNS is not supported; set it to false"
            );
        }
        let texts = Texts {
            uids: &self.proxy_uid,
            gids: &self.proxy_gid,
            mode: &self.mode,
            inbound: &self.inbound_ports,
            excluded_inbound: &self.excluded_inbound_ports,
            ranges: &self.ranges,
            excluded_ranges: &self.excluded_ranges,
            outbound_ports: &self.outbound_ports,
            excluded_outbound_ports: &self.excluded_outbound_ports,
            excluded_interfaces: &self.excluded_interfaces,
            virtual_interfaces: &self.virtual_interfaces,
            owner_groups: variable("ISTIO_OUTBOUND_OWNER_GROUPS"),
            excluded_owner_groups: variable("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"),
        };
        let (outbound, inbound) = (self.envoy_port, self.inbound_capture_port);
        let options = Options::parse(&texts, outbound, inbound, self.inbound_tunnel_port)?;
        let script = if self.cleanup_only { rules::removal() } else { rules::script(&options) };
        output::text(&script);
        if !self.dry_run {
            apply::apply(&script)?;
        }
        Ok(())
    }
}
