//! The command lines of a cluster's processes.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::children::logged;
use crate::control::NodeState;
use crate::directory::ClusterDirectory;
use crate::spec::{API_SERVER_PORT, ApiServerKind, ClusterSpec};

/// The running program itself, however its file was moved or replaced since.
const TOMBOLO: &str = "/proc/self/exe";

/// The issuer that service-account tokens name.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What our controllers still do when a real kube-controller-manager runs.
const BESIDE_KUBERNETES: &str = "load-balancer,node-lifecycle,scheduler";

/// What every command line of a cluster is made from.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) spec: ClusterSpec,
    pub(crate) folder: ClusterDirectory,
    /// The folder of the real Kubernetes programs.
    pub(crate) kubernetes: Option<PathBuf>,
    /// The control plane's address on the bridge.
    pub(crate) address: Ipv4Addr,
}

/// One process of a cluster: its name and its command line.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    program: String,
    arguments: Vec<String>,
    log: PathBuf,
}

impl Process {
    /// A fresh command, ready to start.
    pub(crate) fn command(&self) -> io::Result<Command> {
        let mut command = logged(&self.program, &self.log)?;
        command.args(&self.arguments);
        if self.program == TOMBOLO {
            use std::os::unix::process::CommandExt as _;
            command.arg0("tombolo");
        }
        Ok(command)
    }
}

impl Cluster {
    /// What must run before anything can talk to the API: the API server, and its store.
    pub(crate) fn api_server(&self) -> Vec<Process> {
        match (self.spec.api_server, &self.kubernetes) {
            (ApiServerKind::Kubernetes, Some(programs)) => {
                vec![self.etcd(programs), self.kube_apiserver(programs)]
            }
            _ => vec![self.embedded_api_server()],
        }
    }

    /// What runs in the control plane's network once the API answers.
    pub(crate) fn controllers(&self) -> Vec<Process> {
        let kubeconfig = display(&self.folder.kubeconfig("controllers"));
        let mut arguments = vec!["lab".to_owned(), "controllers".to_owned()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        flag("--kubeconfig", kubeconfig);
        flag("--root-ca-file", self.pki("ca.crt"));
        if let Some(range) = self.spec.load_balancer_pool {
            flag("--load-balancer-pool", range.to_string());
        }
        let mut processes = Vec::new();
        if let (ApiServerKind::Kubernetes, Some(programs)) =
            (self.spec.api_server, &self.kubernetes)
        {
            flag("--only", BESIDE_KUBERNETES.to_owned());
            processes.push(self.kube_controller_manager(programs));
        } else {
            flag("--service-account-private-key-file", self.pki("sa.key"));
        }
        processes.push(self.process("controllers", TOMBOLO.to_owned(), arguments));
        processes
    }

    /// A node's process 1 with the node agent.
    pub(crate) fn node(&self, node: &NodeState) -> Process {
        let name = &node.name;
        let flags = [
            ("--kubeconfig", display(&self.folder.kubeconfig(name))),
            ("--node-name", name.clone()),
            ("--node-ip", node.address.to_string()),
            ("--pod-cidr", node.pod_subnet.to_string()),
            ("--service-cidr", self.spec.service_subnet.to_string()),
            ("--cluster-dns", self.spec.service_address(10).to_string()),
            ("--cluster-domain", "cluster.local".to_owned()),
            ("--client-ca-file", self.pki("ca.crt")),
            ("--tls-cert-file", self.pki(&format!("{name}-kubelet.crt"))),
            ("--tls-private-key-file", self.pki(&format!("{name}-kubelet.key"))),
            ("--state-dir", display(&self.folder.node(name))),
        ];
        let mut arguments: Vec<String> = ["lab", "init", "--hostname", name, "--", TOMBOLO]
            .into_iter()
            .chain(["lab", "node"])
            .map(str::to_owned)
            .collect();
        for (flag, value) in flags {
            arguments.extend([flag.to_owned(), value]);
        }
        self.process(&format!("node/{name}"), TOMBOLO.to_owned(), arguments)
    }

    fn embedded_api_server(&self) -> Process {
        let mut arguments = vec!["api-server".to_owned()];
        arguments.extend(self.api_server_flags());
        arguments.push(format!("--data-dir={}", display(&self.folder.data())));
        // The lab ends with the machine, and its writes share a disk with all it runs.
        arguments.push("--unsafe-no-fsync".to_owned());
        self.process("api-server", TOMBOLO.to_owned(), arguments)
    }

    /// The flags that both API servers take.
    fn api_server_flags(&self) -> Vec<String> {
        [
            ("bind-address", self.address.to_string()),
            ("secure-port", API_SERVER_PORT.to_string()),
            ("advertise-address", self.address.to_string()),
            ("tls-cert-file", self.pki("apiserver.crt")),
            ("tls-private-key-file", self.pki("apiserver.key")),
            ("client-ca-file", self.pki("ca.crt")),
            ("service-cluster-ip-range", self.spec.service_subnet.to_string()),
            ("service-account-issuer", ISSUER.to_owned()),
            ("service-account-key-file", self.pki("sa.pub")),
            ("service-account-signing-key-file", self.pki("sa.key")),
            ("kubelet-client-certificate", self.pki("apiserver-kubelet-client.crt")),
            ("kubelet-client-key", self.pki("apiserver-kubelet-client.key")),
            ("kubelet-certificate-authority", self.pki("ca.crt")),
        ]
        .map(|(flag, value)| format!("--{flag}={value}"))
        .to_vec()
    }

    /// etcd listens on the loopback of the node's own network namespace.
    fn etcd(&self, programs: &Path) -> Process {
        let flags = [
            ("data-dir", display(&self.folder.data().join("etcd"))),
            ("log-level", "warn".to_owned()),
            // A lab ends with the machine's uptime, and what a killed process wrote is kept by the
            // kernel: waiting for the disk would win nothing.
            ("unsafe-no-fsync", "true".to_owned()),
            ("listen-client-urls", "http://127.0.0.1:2379".to_owned()),
            ("advertise-client-urls", "http://127.0.0.1:2379".to_owned()),
            ("listen-peer-urls", "http://127.0.0.1:2380".to_owned()),
            ("initial-advertise-peer-urls", "http://127.0.0.1:2380".to_owned()),
            ("initial-cluster", "default=http://127.0.0.1:2380".to_owned()),
        ];
        self.real(programs, "etcd", "etcd", &flags)
    }

    fn kube_apiserver(&self, programs: &Path) -> Process {
        let mut process = self.real(
            programs,
            "api-server",
            "kube-apiserver",
            &[
                ("etcd-servers", "http://127.0.0.1:2379".to_owned()),
                ("cert-dir", display(&self.folder.data().join("kube-apiserver"))),
                ("authorization-mode", "Node,RBAC".to_owned()),
                ("allow-privileged", "true".to_owned()),
                ("profiling", "false".to_owned()),
                ("kubelet-preferred-address-types", "InternalIP".to_owned()),
            ],
        );
        process.arguments.extend(self.api_server_flags());
        process
    }

    fn kube_controller_manager(&self, programs: &Path) -> Process {
        let kubeconfig = display(&self.folder.kubeconfig("controller-manager"));
        let flags = [
            ("kubeconfig", kubeconfig.clone()),
            ("authentication-kubeconfig", kubeconfig.clone()),
            ("authorization-kubeconfig", kubeconfig),
            ("bind-address", "127.0.0.1".to_owned()),
            ("cert-dir", display(&self.folder.data().join("kube-controller-manager"))),
            ("service-account-private-key-file", self.pki("sa.key")),
            ("root-ca-file", self.pki("ca.crt")),
            ("cluster-signing-cert-file", self.pki("ca.crt")),
            ("cluster-signing-key-file", self.pki("ca.key")),
            ("use-service-account-credentials", "true".to_owned()),
            ("leader-elect", "false".to_owned()),
            ("concurrent-deployment-syncs", "2".to_owned()),
            (
                "controllers",
                "*,-persistentvolume-binder,-attachdetach,-cloud-node-lifecycle".to_owned(),
            ),
        ];
        self.real(programs, "controller-manager", "kube-controller-manager", &flags)
    }

    fn real(
        &self,
        programs: &Path,
        name: &str,
        program: &str,
        flags: &[(&str, String)],
    ) -> Process {
        let flags = flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        self.process(name, display(&programs.join(program)), flags)
    }

    fn process(&self, name: &str, program: String, arguments: Vec<String>) -> Process {
        let log = self.folder.logs().join(format!("{}.log", name.replace('/', "-")));
        Process { name: name.to_owned(), program, arguments, log }
    }

    fn pki(&self, file: &str) -> String {
        display(&self.folder.pki().join(file))
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
