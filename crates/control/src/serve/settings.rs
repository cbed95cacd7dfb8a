//! The settings of a control plane: istiod's flags and environment variables, read once.
//!
//! Every mistake is collected before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tombolo_model::id::ClusterId;

use crate::pipeline;
use crate::watch::kubeconfig::Loopback;

/// What the command line says; each field is the flag of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    pub http_addr: String,
    pub https_addr: String,
    pub secure_grpc_addr: String,
    pub monitoring_addr: String,
    pub domain: String,
    pub cluster_id: Option<String>,
    pub cluster_aliases: Vec<String>,
    pub kubeconfig: Option<PathBuf>,
    pub namespace: Option<String>,
    pub shutdown_duration: String,
    pub max_connection_age: String,
}

/// The settings of one control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Readiness and debugging, plain HTTP.
    pub http: SocketAddr,
    /// Webhooks, TLS.
    pub https: SocketAddr,
    /// xDS and certificates, TLS.
    pub grpc: SocketAddr,
    /// Metrics and debugging, plain HTTP.
    pub monitoring: SocketAddr,
    /// The DNS domain of services.
    pub domain: String,
    /// The cluster this control plane runs in.
    pub cluster: ClusterId,
    /// Other names of clusters: alias and cluster.
    pub aliases: Vec<(String, ClusterId)>,
    pub kubeconfig: Option<PathBuf>,
    /// The namespace it runs in, `istio-system`.
    pub namespace: String,
    /// The pod it runs in.
    pub pod: String,
    /// The revision it is; `default` when none is set.
    pub revision: String,
    /// Whether remote clusters that name this one take their lead from it.
    pub external: bool,
    /// Where a plugged-in authority lies.
    pub cacerts: PathBuf,
    /// Audiences that tokens must be for.
    pub audiences: Vec<String>,
    /// Names besides the usual ones for the serving certificate.
    pub custom_hosts: Vec<String>,
    /// The ConfigMap that carries the roots into namespaces.
    pub root_config_map: String,
    /// The ConfigMap that carries the lists of revoked certificates into namespaces; none when
    /// they are not handed out.
    pub revocations_config_map: Option<String>,
    pub leader_election: bool,
    /// Whether API servers are told which roots the injection webhooks' certificates are under.
    pub patch_injection_webhooks: bool,
    /// When native sidecars are injected.
    pub native_sidecars: NativeSidecars,
    /// Namespaces besides its own whose callers may use every debug endpoint.
    pub debug_namespaces: Vec<String>,
    /// How long workload certificates live when nothing is asked for.
    pub workload_certificate: Duration,
    pub longest_workload_certificate: Duration,
    pub grace: Duration,
    pub connection_age: Duration,
    /// How long the start waits for a remote cluster; 0 for ever.
    pub remote_timeout: Duration,
    /// How quiet it must be before a picture is made, and how long it may be put off.
    pub debounce: (Duration, Duration),
    /// Whether the API server of a remote cluster may be on loopback.
    pub loopback: Loopback,
}

/// When the proxy is injected as a native sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NativeSidecars {
    Always,
    Never,
    /// Where the nodes know them.
    #[default]
    Auto,
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("invalid settings:\n  {}", .0.join("\n  "))]
pub struct Invalid(Vec<String>);

struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    fn or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.text(name).as_deref() {
            None => default,
            Some("true" | "1" | "True" | "TRUE") => true,
            Some("false" | "0" | "False" | "FALSE") => false,
            Some(other) => {
                self.problems.push(format!("{name}={other}: expected true or false"));
                default
            }
        }
    }

    fn duration(&mut self, name: &str, text: &str, default: Duration) -> Duration {
        match text.parse::<tombolo_crds::duration::Duration>() {
            Ok(duration) => duration.0,
            Err(error) => {
                self.problems.push(format!("{name}={text}: {error}"));
                default
            }
        }
    }

    fn duration_or(&mut self, name: &str, default: Duration) -> Duration {
        match self.text(name) {
            Some(text) => self.duration(name, &text, default),
            None => default,
        }
    }

    fn address(&mut self, flag: &str, text: &str) -> SocketAddr {
        // As in Go, an address without a host means every address.
        let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
        full.parse().unwrap_or_else(|error| {
            self.problems.push(format!("--{flag}={text}: {error}"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }
}

impl Settings {
    /// Reads flags and environment.
    ///
    /// # Errors
    /// With every mistake that was found.
    pub fn read(
        flags: Flags,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Invalid> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let aliases = flags.cluster_aliases.iter().filter_map(|pair| {
            let split =
                pair.split_once('=').map(|(alias, id)| (alias.to_owned(), ClusterId::new(id)));
            if split.is_none() {
                reader.problems.push(format!("--clusterAliases={pair}: expected ALIAS=CLUSTER"));
            }
            split
        });
        let aliases = aliases.collect();
        let native = match reader.text("ENABLE_NATIVE_SIDECARS").as_deref() {
            None | Some("auto") => NativeSidecars::Auto,
            Some("true") => NativeSidecars::Always,
            Some("false") => NativeSidecars::Never,
            Some(other) => {
                let problem =
                    format!("ENABLE_NATIVE_SIDECARS={other}: expected true, false or auto");
                reader.problems.push(problem);
                NativeSidecars::Auto
            }
        };
        let audiences = match reader.list("TOKEN_AUDIENCES") {
            none if none.is_empty() => vec!["istio-ca".to_owned()],
            some => some,
        };
        let revocations_config_map = reader
            .flag("PILOT_ENABLE_CA_CRL", true)
            .then(|| reader.or("PILOT_CRL_CONFIGMAP", "istio-ca-crl"));
        let cluster = flags.cluster_id.unwrap_or_else(|| reader.or("CLUSTER_ID", "Kubernetes"));
        let settings = Self {
            http: reader.address("httpAddr", &flags.http_addr),
            https: reader.address("httpsAddr", &flags.https_addr),
            grpc: reader.address("secureGRPCAddr", &flags.secure_grpc_addr),
            monitoring: reader.address("monitoringAddr", &flags.monitoring_addr),
            domain: flags.domain,
            cluster: ClusterId::new(&cluster),
            aliases,
            kubeconfig: flags.kubeconfig,
            namespace: flags
                .namespace
                .unwrap_or_else(|| reader.or("POD_NAMESPACE", "istio-system")),
            pod: reader.or("POD_NAME", "istiod"),
            revision: reader.or("REVISION", "default"),
            external: reader.flag("EXTERNAL_ISTIOD", false),
            cacerts: reader.or("ROOT_CA_DIR", "/etc/cacerts").into(),
            audiences,
            custom_hosts: reader.list("ISTIOD_CUSTOM_HOST"),
            root_config_map: reader.or("PILOT_CA_CERT_CONFIGMAP", "istio-ca-root-cert"),
            revocations_config_map,
            leader_election: reader.flag("ENABLE_LEADER_ELECTION", true),
            // As in Istio, the webhooks are found by their revision: only whether there is a name
            // counts. Who sets none patches them by other means.
            patch_injection_webhooks: environment("INJECTION_WEBHOOK_CONFIG_NAME")
                .is_none_or(|name| !name.is_empty()),
            native_sidecars: native,
            debug_namespaces: reader.list("DEBUG_ENDPOINT_AUTH_ALLOWED_NAMESPACES"),
            workload_certificate: reader
                .duration_or("DEFAULT_WORKLOAD_CERT_TTL", Duration::from_secs(24 * 3600)),
            longest_workload_certificate: reader
                .duration_or("MAX_WORKLOAD_CERT_TTL", Duration::from_secs(90 * 24 * 3600)),
            grace: reader.duration(
                "--shutdownDuration",
                &flags.shutdown_duration,
                Duration::from_secs(10),
            ),
            connection_age: reader.duration(
                "--keepaliveMaxServerConnectionAge",
                &flags.max_connection_age,
                Duration::from_secs(1800),
            ),
            remote_timeout: reader
                .duration_or("PILOT_REMOTE_CLUSTER_TIMEOUT", Duration::from_secs(30)),
            debounce: (
                reader.duration_or("PILOT_DEBOUNCE_AFTER", Duration::from_millis(100)),
                reader.duration_or("PILOT_DEBOUNCE_MAX", Duration::from_secs(10)),
            ),
            // In a pod, loopback is the pod itself and never another cluster.
            loopback: match reader.text("KUBERNETES_SERVICE_HOST") {
                Some(_) => Loopback::Refused,
                None => Loopback::Allowed,
            },
        };
        if reader.problems.is_empty() { Ok(settings) } else { Err(Invalid(reader.problems)) }
    }

    /// The ConfigMap with the mesh's settings.
    pub fn mesh_config_map(&self) -> String {
        self.revisioned("istio")
    }

    /// The ConfigMap with the injector's configuration.
    pub fn injector_config_map(&self) -> String {
        self.revisioned("istio-sidecar-injector")
    }

    /// A name with the revision at its end, unless that is the default one.
    pub fn revisioned(&self, name: &str) -> String {
        match self.revision.as_str() {
            "default" => name.to_owned(),
            revision => format!("{name}-{revision}"),
        }
    }

    /// What following clusters needs of this.
    pub fn pipeline(&self) -> pipeline::Settings {
        pipeline::Settings {
            cluster: self.cluster.clone(),
            domain: self.domain.clone(),
            system_namespace: self.namespace.clone(),
            revision: self.revision.clone(),
            mesh_config_map: self.mesh_config_map(),
            remote_timeout: self.remote_timeout,
            debounce_after: self.debounce.0,
            debounce_most: self.debounce.1,
            loopback: self.loopback,
        }
    }

    /// The DNS names that the serving certificate has.
    pub fn serving_names(&self, discovery_host: &str) -> Vec<String> {
        let namespace = &self.namespace;
        let mut names: Vec<String> = ["istiod", "istiod-remote", "istio-pilot"]
            .iter()
            .map(|name| format!("{name}.{namespace}.svc"))
            .collect();
        if self.revision != "default" {
            names.push(format!("istiod-{}.{namespace}.svc", self.revision));
        }
        names.push(discovery_host.to_owned());
        names.extend(self.custom_hosts.iter().cloned());
        names.sort();
        names.dedup();
        names
    }

    /// The cluster that a client means by `name`.
    pub fn resolve(&self, name: &str) -> ClusterId {
        if name.is_empty() {
            return self.cluster.clone();
        }
        let alias = self.aliases.iter().find(|(alias, _)| alias == name);
        alias.map_or_else(|| ClusterId::new(name), |(_, cluster)| cluster.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            http_addr: ":8080".into(),
            https_addr: ":15017".into(),
            secure_grpc_addr: ":15012".into(),
            monitoring_addr: ":15014".into(),
            domain: "cluster.local".into(),
            cluster_id: None,
            cluster_aliases: vec![],
            kubeconfig: None,
            namespace: None,
            shutdown_duration: "10s".into(),
            max_connection_age: "30m".into(),
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let mut flags = flags();
        flags.https_addr = "nowhere".into();
        flags.cluster_aliases = vec!["x".into()];
        let environment = |name: &str| match name {
            "EXTERNAL_ISTIOD" => Some("maybe".to_owned()),
            "DEFAULT_WORKLOAD_CERT_TTL" => Some("soon".to_owned()),
            _ => None,
        };
        let text = Settings::read(flags, &environment).unwrap_err().to_string();
        for part in
            ["--clusterAliases=x", "--httpsAddr=nowhere", "EXTERNAL_ISTIOD=maybe", "TTL=soon"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn the_serving_names_are_istiods() {
        let environment = |name: &str| match name {
            "REVISION" => Some("canary".to_owned()),
            "ISTIOD_CUSTOM_HOST" => Some("mesh.example.org, other.example.org".to_owned()),
            _ => None,
        };
        let settings = Settings::read(flags(), &environment).unwrap();
        assert_eq!(
            settings.serving_names("istiod.istio-system.svc"),
            [
                "istio-pilot.istio-system.svc",
                "istiod-canary.istio-system.svc",
                "istiod-remote.istio-system.svc",
                "istiod.istio-system.svc",
                "mesh.example.org",
                "other.example.org",
            ]
        );
    }

    #[test]
    fn only_an_empty_name_stops_patching_the_injection_webhooks() {
        for (name, want) in
            [(None, true), (Some("istio-sidecar-injector"), true), (Some(""), false)]
        {
            let environment = |variable: &str| {
                name.filter(|_| variable == "INJECTION_WEBHOOK_CONFIG_NAME").map(str::to_owned)
            };
            let settings = Settings::read(flags(), &environment).unwrap();
            assert_eq!(settings.patch_injection_webhooks, want, "{name:?}");
        }
    }
}
