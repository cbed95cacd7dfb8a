//! `tombolo proxy-config`: what the proxy of a pod runs on.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::bail;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Subcommand};
use serde::Serialize;
use tombolo_install::inspect::dump::Dump;
use tombolo_install::inspect::summary::Filters;
use tombolo_install::inspect::{
    bootstrap, endpoints, levels, listeners, reach, routes, secrets, summary, upstreams,
};

use super::reporting::{Form, ReportFlags, Source, dump_of, message};
use crate::output;

/// Show what a proxy runs on.
#[derive(Debug, Args)]
#[command(visible_alias = "pc")]
pub struct ProxyConfig {
    #[command(subcommand)]
    command: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Everything: every table, or the whole dump.
    #[command(visible_alias = "a")]
    All(Box<All>),
    /// What the proxy was started with.
    #[command(visible_alias = "b")]
    Bootstrap(Bootstrap),
    /// The upstreams of the proxy, which Envoy calls clusters.
    #[command(visible_aliases = ["clusters", "c"])]
    Cluster(Cluster),
    /// Endpoints as discovery sends them.
    #[command(hide = true)]
    Eds(Endpoint),
    /// Endpoints with their state.
    #[command(visible_aliases = ["endpoints", "ep"])]
    Endpoint(Endpoint),
    /// Listeners and where their filter chains lead.
    #[command(visible_aliases = ["listeners", "l"])]
    Listener(Listener),
    /// The levels of the proxy's loggers.
    #[command(visible_alias = "o")]
    Log(Log),
    /// Whether two pods trust the same roots.
    #[command(visible_alias = "rc")]
    RootcaCompare(RootCompare),
    /// Route tables.
    #[command(visible_aliases = ["routes", "r"])]
    Route(Route),
    /// Certificates and roots.
    #[command(visible_aliases = ["secrets", "s"])]
    Secret(Secret),
}

/// Whom to ask, and how.
#[derive(Debug, Args)]
struct Asking {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    flags: ReportFlags,
    #[command(flatten)]
    admin: AdminPort,
}

#[derive(Debug, Args)]
struct AdminPort {
    /// The port of the proxy's admin server.
    #[arg(long, default_value_t = reach::ADMIN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    proxy_admin_port: u16,
}

impl Asking {
    async fn dump(&self, query: &str) -> anyhow::Result<Dump> {
        self.source.dump(&self.flags, self.admin.proxy_admin_port, query).await
    }
}

#[derive(Debug, Args)]
struct UpstreamFilter {
    /// Only upstreams with this in the name of their service.
    #[arg(long, default_value = "", hide_default_value = true)]
    fqdn: String,
    /// Only `inbound` or `outbound` upstreams.
    #[arg(long, default_value = "", hide_default_value = true)]
    direction: String,
    /// Only upstreams with this in the name of their subset.
    #[arg(long, default_value = "", hide_default_value = true)]
    subset: String,
}

impl UpstreamFilter {
    fn with(&self, port: u16) -> upstreams::Filter {
        let (fqdn, subset) = (self.fqdn.clone(), self.subset.clone());
        upstreams::Filter { fqdn, port, subset, direction: self.direction.clone() }
    }
}

#[derive(Debug, Args)]
struct ListenerFilter {
    /// Only what has this address.
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// Only listeners of this type: HTTP, TCP, HTTP+TCP or UNKNOWN.
    #[arg(long, default_value = "", hide_default_value = true)]
    r#type: String,
}

#[derive(Debug, Args)]
struct Verbose {
    /// A line for each filter chain or route; `--verbose=false` for each listener or route table.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    verbose: bool,
}

#[derive(Debug, Args)]
struct Output {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Form::Short)]
    output: Form,
}

#[derive(Debug, Args)]
struct Port {
    /// Only what has this port.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
}

#[derive(Debug, Args)]
struct Cluster {
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    filter: UpstreamFilter,
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Listener {
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    filter: ListenerFilter,
    #[command(flatten)]
    port: Port,
    #[command(flatten)]
    verbose: Verbose,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Route {
    #[command(flatten)]
    asking: Asking,
    /// Only the route table of this name.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    verbose: Verbose,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Endpoint {
    #[command(flatten)]
    asking: Asking,
    /// Only endpoints with this address.
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    #[command(flatten)]
    port: Port,
    /// Only endpoints of the upstream with this name.
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster: String,
    /// Only endpoints of this health, for example healthy.
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Secret {
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Bootstrap {
    #[command(flatten)]
    asking: Asking,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Form::Json)]
    output: Form,
}

#[derive(Debug, Args)]
struct All {
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    upstreams: UpstreamFilter,
    #[command(flatten)]
    listeners: ListenerFilter,
    #[command(flatten)]
    port: Port,
    /// Only the route table of this name.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    verbose: Verbose,
    /// Print a title before each table.
    #[arg(long)]
    with_headers: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Log {
    /// A pod as [TYPE/]NAME[.NAMESPACE]; all pods of a type, for example deploy/sleep.sample.
    #[arg(value_name = "POD", required_unless_present = "selector", conflicts_with = "selector")]
    pod: Option<String>,
    /// The pods with these labels instead.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// The levels to set, as LEVEL for all or LOGGER:LEVEL,... for some; trace, debug, info,
    /// warning, error, critical or off.
    #[arg(long, conflicts_with = "reset")]
    level: Option<String>,
    /// Set all loggers to the level of the mesh.
    #[arg(short = 'r', long)]
    reset: bool,
    #[command(flatten)]
    flags: ReportFlags,
    #[command(flatten)]
    admin: AdminPort,
}

#[derive(Debug, Args)]
struct RootCompare {
    /// A pod as [TYPE/]NAME[.NAMESPACE].
    #[arg(value_name = "POD1")]
    first: String,
    /// The other one.
    #[arg(value_name = "POD2")]
    second: String,
    #[command(flatten)]
    flags: ReportFlags,
    #[command(flatten)]
    admin: AdminPort,
}

/// Prints messages as a document, or the table.
fn print<T: Serialize + ?Sized>(
    form: Form,
    value: &T,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    output::text(match form.document() {
        Some(document) => document.write(value)?,
        None => table(),
    });
    Ok(())
}

impl ProxyConfig {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            match self.command {
                Part::All(all) => all.run().await?,
                Part::Bootstrap(bootstrap) => bootstrap.run().await?,
                Part::Cluster(cluster) => cluster.run().await?,
                Part::Eds(endpoint) => endpoint.run_eds().await?,
                Part::Endpoint(endpoint) => endpoint.run().await?,
                Part::Listener(listener) => listener.run().await?,
                Part::Log(log) => log.run().await?,
                Part::RootcaCompare(compare) => compare.run().await?,
                Part::Route(route) => route.run().await?,
                Part::Secret(secret) => secret.run().await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl Cluster {
    async fn run(self) -> anyhow::Result<()> {
        let query = "?mask=dynamic_active_clusters,dynamic_warming_clusters,static_clusters";
        let dump = self.asking.dump(query).await?;
        let all = upstreams::list(&dump, &self.filter.with(self.port.port))?;
        print(self.output.output, &all, || upstreams::table(&all, false))
    }
}

impl Listener {
    async fn run(self) -> anyhow::Result<()> {
        let dump = self.asking.dump("?mask=dynamic_listeners,static_listeners").await?;
        let ListenerFilter { address, r#type } = self.filter;
        let filter = listeners::Filter { address, port: self.port.port, kind: r#type };
        let all = listeners::list(&dump, &filter)?;
        let verbose = self.verbose.verbose;
        print(self.output.output, &all, || listeners::table(&all, verbose, false))
    }
}

impl Route {
    async fn run(self) -> anyhow::Result<()> {
        let dump = self.asking.dump("?mask=dynamic_route_configs,static_route_configs").await?;
        let all = routes::list(&dump, &self.name)?;
        let verbose = self.verbose.verbose;
        print(self.output.output, &all, || routes::table(&all, verbose, false))
    }
}

impl Endpoint {
    fn filter(&self) -> endpoints::Filter {
        endpoints::Filter {
            address: self.address.clone(),
            port: self.port.port,
            cluster: self.cluster.clone(),
            status: self.status.clone(),
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let Asking { source, flags, admin } = &self.asking;
        let text = source.text(flags, admin.proxy_admin_port, "clusters?format=json").await?;
        let document = message("envoy.admin.v3.Clusters", &text)?;
        let filter = self.filter();
        let all = endpoints::list(&document, &filter)?;
        print(self.output.output, &all, || endpoints::table(&all, &filter))
    }

    async fn run_eds(self) -> anyhow::Result<()> {
        let dump = self.asking.dump("?include_eds=true").await?;
        let all = endpoints::assignments(&dump, &self.filter())?;
        print(self.output.output, &all, || endpoints::assignments_table(&all, false))
    }
}

impl Secret {
    async fn run(self) -> anyhow::Result<()> {
        let query = "?mask=dynamic_active_secrets,dynamic_warming_secrets";
        let dump = self.asking.dump(query).await?;
        let all = secrets::list(&dump)?;
        let section = secrets::section(&dump)?;
        let now = SystemTime::now();
        print(self.output.output, &section, || secrets::table(&all, now, false))
    }
}

impl Bootstrap {
    async fn run(self) -> anyhow::Result<()> {
        let dump = self.asking.dump("?mask=bootstrap").await?;
        let table = bootstrap::table(&dump)?;
        print(self.output, &bootstrap::section(&dump)?, || table)
    }
}

impl All {
    async fn run(self) -> anyhow::Result<()> {
        let Asking { source, flags, admin } = &self.asking;
        let path = "config_dump?include_eds=true";
        let text = source.text(flags, admin.proxy_admin_port, path).await?;
        if let Some(document) = self.output.output.document() {
            // The proxy's own document, as it is.
            let value: serde_json::Value = serde_json::from_str(&text)?;
            output::text(document.write(&value)?);
            return Ok(());
        }
        let (address, port) = (self.listeners.address, self.port.port);
        let filters = Filters {
            upstreams: self.upstreams.with(port),
            listeners: listeners::Filter {
                address: address.clone(),
                port,
                kind: self.listeners.r#type,
            },
            route: self.name,
            endpoints: endpoints::Filter { address, port, ..endpoints::Filter::default() },
            verbose: self.verbose.verbose,
        };
        let dump = super::reporting::dump(&text)?;
        output::text(summary::tables(&dump, &filters, SystemTime::now(), self.with_headers)?);
        Ok(())
    }
}

impl Log {
    async fn run(self) -> anyhow::Result<()> {
        let cluster = self.flags.open().await?;
        let namespace = self.flags.namespace(&cluster);
        let pods = match (&self.selector, &self.pod) {
            (Some(selector), _) => reach::labelled(&cluster, selector, namespace).await?,
            (None, Some(pod)) => reach::pods(&cluster, pod, namespace).await?,
            (None, None) => bail!("name a pod, or labels by --selector"),
        };
        let port = self.admin.proxy_admin_port;
        let ask = async |pod, path: &str| reach::ask_proxy(&cluster, pod, port, "POST", path).await;
        for pod in &pods {
            let mut answer = ask(pod, "logging").await?;
            let queries = if self.reset {
                let mesh = reach::mesh_log_level(&cluster, self.flags.system(), None);
                vec![levels::reset(mesh.await?.as_deref())]
            } else {
                match &self.level {
                    Some(wanted) => levels::queries(wanted, &answer)?,
                    None => Vec::new(),
                }
            };
            for query in queries {
                answer = ask(pod, &format!("logging?{query}")).await?;
            }
            output::text(format_args!("{pod}:\n{answer}"));
        }
        Ok(())
    }
}

impl RootCompare {
    async fn run(self) -> anyhow::Result<()> {
        let cluster = self.flags.open().await?;
        let query = "?mask=dynamic_active_secrets,dynamic_warming_secrets";
        let mut all = Vec::new();
        for name in [&self.first, &self.second] {
            let pod = reach::pod(&cluster, name, self.flags.namespace(&cluster)).await?;
            let dump = dump_of(&cluster, &pod, self.admin.proxy_admin_port, query).await?;
            all.push((pod, secrets::roots(&dump)?));
        }
        let [(first, ours), (second, theirs)] = all.as_slice() else { return Ok(()) };
        if !ours.iter().any(|root| theirs.contains(root)) {
            bail!(
                "Both [{first}] and [{second}] have the non identical ROOTCA, theoretically the connectivity between them is unavailable"
            );
        }
        output::line(format_args!(
            "Both [{first}] and [{second}] have the identical ROOTCA, theoretically the connectivity between them is available"
        ));
        Ok(())
    }
}
