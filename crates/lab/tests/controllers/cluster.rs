//! A real etcd and kube-apiserver without kube-controller-manager, the lab's controllers on top,
//! and a stand-in for a kubelet. One for all tests of the process; they keep to namespaces.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tombolo_lab::controllers::{self, Settings};
use tombolo_runtime::shutdown::Shutdown;

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
pub(crate) const NODE: &str = "node-1";

pub(crate) struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
}

static CLUSTER: LazyLock<Option<Cluster>> = LazyLock::new(start);

/// The cluster; `None`, with a word on standard error, where Kubernetes' programs are missing.
/// In CI that is a failure.
pub(crate) fn cluster() -> Option<&'static Cluster> {
    CLUSTER.as_ref()
}

fn programs() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = given.into_iter().chain([built]).find(|dir| dir.join("kube-apiserver").exists());
    if found.is_none() {
        let text = "no kube-apiserver: run tools/kubernetes/build or set KUBEBUILDER_ASSETS";
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{text}");
        eprintln!("skipped: {text}");
    }
    found
}

fn start() -> Option<Cluster> {
    let programs = programs()?;
    let folder = folder();
    let (tell, ready) = mpsc::channel();
    let (from, inside) = (programs.clone(), folder.clone());
    // The processes die with the thread that starts them, so it lives as long as the tests.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let _processes = run(&from, &inside).await;
            tell.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    ready.recv().expect("the cluster starts");
    Some(Cluster { programs, folder })
}

/// A folder of this process; those of processes that are gone are removed.
fn folder() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("controllers");
    for old in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        let pid = old.file_name().to_string_lossy().into_owned();
        if !Path::new("/proc").join(pid).exists() {
            std::fs::remove_dir_all(old.path()).unwrap();
        }
    }
    let folder = root.join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(program: &Path, folder: &Path, arguments: &[String]) -> Child {
    let log = |name: &str| std::fs::File::create(folder.join(name)).unwrap();
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log(&format!("{name}.out")))
        .stderr(log(&format!("{name}.log")))
        .spawn()
        .unwrap()
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn run(programs: &Path, folder: &Path) -> [Child; 2] {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    openssl(folder, &["genrsa", "-out", "sa.key", "2048"]);
    openssl(folder, &["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"]);
    std::fs::write(folder.join("tokens.csv"), "TOKEN,admin,1,system:masters\n").unwrap();
    let (etcd, peer, port) = (free_port(), free_port(), free_port());
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let store = spawn(
        &programs.join("etcd"),
        folder,
        &words(format!(
            "--data-dir etcd --unsafe-no-fsync --log-level warn \
             --listen-client-urls http://127.0.0.1:{etcd} \
             --advertise-client-urls http://127.0.0.1:{etcd} \
             --listen-peer-urls http://127.0.0.1:{peer} \
             --initial-advertise-peer-urls http://127.0.0.1:{peer} \
             --initial-cluster default=http://127.0.0.1:{peer}"
        )),
    );
    let server = spawn(
        &programs.join("kube-apiserver"),
        folder,
        &words(format!(
            "--etcd-servers http://127.0.0.1:{etcd} --bind-address 127.0.0.1 \
             --secure-port {port} --cert-dir certs --service-cluster-ip-range 10.11.0.0/16 \
             --service-account-issuer https://kubernetes.default.svc.cluster.local \
             --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
             --token-auth-file tokens.csv --authorization-mode Node,RBAC --allow-privileged \
             --profiling=false"
        )),
    );
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": folder.join("certs/apiserver.crt")}}],
        "users": [{"name": "u", "user": {"token": "TOKEN"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    let client = connect(folder).await;
    let shutdown = Shutdown::default();
    let settings = Settings {
        kubeconfig: folder.join("kubeconfig"),
        only: Vec::new(),
        root_ca_file: None,
        service_account_key: Some(folder.join("sa.key")),
        load_balancer_pool: vec!["172.18.11.0-172.18.11.255".parse().unwrap()],
    };
    controllers::launch(&settings, &shutdown).await.unwrap();
    shutdown.spawn_essential("kubelet", kubelet(client));
    [store, server]
}

/// A client, once the API server answers.
async fn connect(folder: &Path) -> Client {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LIMIT, "the API server does not answer; see {folder:?}");
        if folder.join("certs/apiserver.crt").exists() {
            let kubeconfig = Kubeconfig::read_from(folder.join("kubeconfig")).unwrap();
            let options = KubeConfigOptions::default();
            if let Ok(config) = Config::from_custom_kubeconfig(kubeconfig, &options).await {
                let client = Client::try_from(config).unwrap();
                let namespaces: Api<Namespace> = Api::all(client.clone());
                if namespaces.get("default").await.is_ok() {
                    return client;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says that the node is alive, that pods on it run, and that deleted ones are gone. What a pod
/// does is in its image's name: `ready`, `unready`, `done`.
async fn kubelet(client: Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let mut last_beat: Option<Instant> = None;
    let mut next_address = 1_u32;
    loop {
        if last_beat.is_none_or(|last| last.elapsed() > Duration::from_secs(5)) {
            last_beat = Some(Instant::now());
            let now = Timestamp::now();
            let status = json!({"status": {
                "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}});
            let params = PatchParams::default();
            nodes.patch_status(NODE, &params, &Patch::Strategic(status)).await.unwrap();
        }
        let pods: Api<Pod> = Api::all(client.clone());
        let bound = ListParams::default().fields(&format!("spec.nodeName={NODE}"));
        for pod in pods.list(&bound).await.map(|list| list.items).unwrap_or_default() {
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            if pod.metadata.deletion_timestamp.is_some() {
                let now = DeleteParams::default().grace_period(0);
                drop(api.delete(&pod.name_any(), &now).await);
                continue;
            }
            next_address += 1;
            if let Some(status) = status(&pod, next_address) {
                let patch = Patch::Strategic(json!({"status": status}));
                let params = PatchParams::default();
                // The pod may be gone by now.
                drop(api.patch_status(&pod.name_any(), &params, &patch).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The status that the pod should have next, if it has another one.
fn status(pod: &Pod, number: u32) -> Option<serde_json::Value> {
    let image = pod.spec.as_ref()?.containers.first()?.image.clone()?;
    let held = pod.status.clone().unwrap_or_default();
    let ready = if image == "unready" { "False" } else { "True" };
    let phase = if image == "done" { "Succeeded" } else { "Running" };
    let is_ready =
        held.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == ready);
    if held.phase.as_deref() == Some(phase) && (is_ready || phase == "Succeeded") {
        return None;
    }
    let address =
        held.pod_ip.unwrap_or_else(|| format!("10.10.{}.{}", number / 250, number % 250 + 1));
    let now = Timestamp::now();
    Some(json!({"phase": phase, "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}))
}

impl Cluster {
    /// Runs kubectl; returns what it prints.
    #[track_caller]
    pub(crate) fn kubectl(&self, line: &str) -> String {
        self.kubectl_with(line, "")
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, namespace: &str, manifest: &str) {
        self.kubectl_with(&format!("-n {namespace} apply -f -"), manifest);
    }

    #[track_caller]
    fn kubectl_with(&self, line: &str, input: &str) -> String {
        use std::io::Write;
        let mut child = Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.folder.join("kubeconfig"))
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kubectl {line}: {said}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Waits until kubectl prints `want`.
    #[track_caller]
    pub(crate) fn until(&self, line: &str, want: &str) {
        self.until_it(line, &format!("{want:?}"), |got| got == want);
    }

    /// Waits until what kubectl prints is as wanted.
    #[track_caller]
    pub(crate) fn until_it(&self, line: &str, what: &str, want: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let got = self.kubectl(line);
            if want(&got) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "kubectl {line}: got {got:?}, want {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
