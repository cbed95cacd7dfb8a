//! An API server on loopback without controllers: the embedded one, or a real one. A stand-in
//! does what the tests need of controllers and of a control plane: Deployments are available,
//! tokens are issued, webhooks get a CA bundle and become strict.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config, ResourceExt};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const PACE: Duration = Duration::from_millis(200);

/// Every kind that an installation makes.
const KINDS: &[(&str, &str)] = &[
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
];

/// A running API server and its stand-in for controllers.
pub struct Server {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    processes: Vec<Child>,
}

/// What a command did.
pub struct Output {
    pub ok: bool,
    pub code: i32,
    pub stdout: String,
    /// Standard output and standard error.
    pub text: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended on its own.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The folder with etcd and kube-apiserver; none where they are missing, which fails under CI.
fn programs() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let found = given.into_iter().chain([built]).find(|it| it.join("kube-apiserver").exists());
    if found.is_none() {
        let text = "no kube-apiserver: run tools/kubernetes/build or set KUBEBUILDER_ASSETS";
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{text}");
        eprintln!("left out: {text}");
    }
    found
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|it| it.local_addr().unwrap().port())
}

impl Server {
    pub fn embedded() -> Self {
        let [port] = free_ports();
        let folder = certificates(port);
        let own = env!("CARGO_BIN_EXE_tombolo");
        let arguments = format!(
            "api-server --bind-address 127.0.0.1 --secure-port {port} --data-dir data \
             --unsafe-no-fsync --tls-cert-file server.crt --tls-private-key-file server.key \
             --client-ca-file ca.crt --service-account-key-file sa.pub \
             --service-account-signing-key-file sa.key"
        );
        let process = start(Path::new(own), &arguments, folder.path());
        Self::ready(folder, vec![process])
    }

    pub fn real() -> Option<Self> {
        let programs = programs()?;
        let [port, client, peer] = free_ports();
        let folder = certificates(port);
        let etcd = format!(
            "--data-dir etcd --unsafe-no-fsync --log-level error \
             --listen-client-urls http://127.0.0.1:{client} \
             --advertise-client-urls http://127.0.0.1:{client} \
             --listen-peer-urls http://127.0.0.1:{peer} \
             --initial-advertise-peer-urls http://127.0.0.1:{peer} \
             --initial-cluster default=http://127.0.0.1:{peer}"
        );
        let server = format!(
            "--etcd-servers http://127.0.0.1:{client} --bind-address 127.0.0.1 \
             --secure-port {port} --tls-cert-file server.crt --tls-private-key-file server.key \
             --client-ca-file ca.crt --service-cluster-ip-range 10.11.0.0/16 \
             --service-account-issuer https://kubernetes.default.svc.cluster.local \
             --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
             --authorization-mode Node,RBAC --allow-privileged --profiling=false \
             --disable-admission-plugins ServiceAccount"
        );
        let processes = vec![
            start(&programs.join("etcd"), &etcd, folder.path()),
            start(&programs.join("kube-apiserver"), &server, folder.path()),
        ];
        Some(Self::ready(folder, processes))
    }

    fn ready(folder: TempDir, processes: Vec<Child>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = Self { folder, runtime, processes };
        server.eventually("the API server answers", || {
            let namespaces = Api::<Namespace>::all(server.client());
            server.runtime.block_on(namespaces.get("default")).is_ok()
        });
        let authority = std::fs::read(server.folder.path().join("ca.crt")).unwrap();
        server.runtime.spawn(stand_in(server.client(), authority));
        server
    }

    fn client(&self) -> Client {
        // A second choice of the same provider only says so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let text = std::fs::read_to_string(self.folder.path().join("kubeconfig")).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        self.runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            Client::try_from(config).unwrap()
        })
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            std::thread::sleep(PACE);
        }
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Runs a command of ours against the server, with a text on its standard input.
    pub fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let out = process.wait_with_output().unwrap();
        let stdout = String::from_utf8(out.stdout).unwrap();
        let text = format!("{arguments:?}\n{stdout}{}", String::from_utf8_lossy(&out.stderr));
        Output { ok: out.status.success(), code: out.status.code().unwrap_or(-1), stdout, text }
    }

    /// The resource version of every object that installations of ours made.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let client = self.client();
        self.runtime.block_on(async {
            let mut versions = BTreeMap::new();
            for (version, kind) in KINDS {
                let (group, short) = version.split_once('/').unwrap_or(("", version));
                let like = ApiResource::from_gvk(&GroupVersionKind::gvk(group, short, kind));
                let api: Api<DynamicObject> = Api::all_with(client.clone(), &like);
                let selector = ListParams::default().labels("operator.istio.io/component");
                for object in api.list(&selector).await.unwrap() {
                    let place = object.namespace().map(|it| format!("{it}/")).unwrap_or_default();
                    let key = format!("{kind}/{place}{}", object.name_any());
                    versions.insert(key, object.resource_version().unwrap());
                }
            }
            versions
        })
    }

    /// Waits until the stand-in has nothing left to do.
    pub fn settle(&self) {
        let client = self.client();
        self.eventually("the validation webhook is strict", || {
            let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
            let all = self.runtime.block_on(api.list(&ListParams::default())).unwrap();
            let strict = |it: &ValidatingWebhookConfiguration| {
                it.webhooks.iter().flatten().all(|it| it.failure_policy.as_deref() == Some("Fail"))
            };
            !all.items.is_empty() && all.items.iter().all(strict)
        });
        let mut last = self.versions();
        self.eventually("versions stand still", || {
            std::thread::sleep(PACE * 5);
            let now = self.versions();
            std::mem::replace(&mut last, now.clone()) == now
        });
    }

    pub fn delete_config_map(&self, name: &str) {
        let maps = Api::<ConfigMap>::namespaced(self.client(), "istio-system");
        self.runtime.block_on(maps.delete(name, &DeleteParams::default())).unwrap();
    }

    /// The path of a kubeconfig whose context `test` is this server's administrator.
    pub fn kubeconfig(&self) -> String {
        self.folder.path().join("kubeconfig").display().to_string()
    }

    /// Makes a Service of the control plane's namespace that a load balancer serves at `address`.
    pub fn balance(&self, name: &str, address: Value) {
        self.namespace("istio-system");
        self.apply(
            "Service",
            &json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "istio-system"},
                "spec": {"type": "LoadBalancer", "ports": [{"name": "tls", "port": 15443}]},
            }),
        );
        let services = Api::<Service>::namespaced(self.client(), "istio-system");
        let status = json!({"status": {"loadBalancer": {"ingress": [address]}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(status));
        self.runtime.block_on(services.patch_status(name, &params, &patch)).unwrap();
    }

    /// Makes a namespace as a user would.
    pub fn namespace(&self, name: &str) {
        let metadata = json!({"name": name});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        self.apply("Namespace", &namespace);
    }

    /// Sets or removes an annotation of a namespace.
    pub fn annotate_namespace(&self, name: &str, key: &str, value: Option<&str>) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
        let (api, params) = (Api::<Namespace>::all(self.client()), PatchParams::default());
        self.runtime.block_on(api.patch(name, &params, &patch)).unwrap();
    }

    /// Applies an object of the core group as a user would.
    pub fn apply(&self, kind: &str, object: &Value) {
        let like = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        let (client, metadata) = (self.client(), &object["metadata"]);
        let api: Api<DynamicObject> = match metadata["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &like),
            None => Api::all_with(client, &like),
        };
        let (name, params) = (metadata["name"].as_str().unwrap(), PatchParams::apply("user"));
        self.runtime.block_on(api.patch(name, &params, &Patch::Apply(object))).unwrap();
    }

    /// Waits until nothing of ours is left.
    pub fn gone(&self) {
        self.eventually("everything is removed", || self.versions().is_empty());
    }
}

fn start(program: &Path, arguments: &str, folder: &Path) -> Child {
    let name = program.file_name().unwrap().to_string_lossy().into_owned();
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    Command::new(program)
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Everything an API server and its administrator need, in a folder.
fn certificates(port: u16) -> TempDir {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let signed = |mut params: CertificateParams, usage| {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    };
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let params = CertificateParams::new(names).unwrap();
    let (server, server_key) = signed(params, ExtendedKeyUsagePurpose::ServerAuth);
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let (admin, admin_key) = signed(params, ExtendedKeyUsagePurpose::ClientAuth);
    let accounts =
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    write("ca.crt", &authority);
    write("server.crt", &server);
    write("server.key", &server_key);
    write("sa.key", &accounts.serialize_pem());
    write("sa.pub", &accounts.public_key_pem());
    let data = |text: &str| serde_json::to_value(ByteString(text.into())).unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": data(&authority),
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate-data": data(&admin), "client-key-data": data(&admin_key),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    write("kubeconfig", &kubeconfig.to_string());
    folder
}

/// Does the work of controllers for ever; writes only where something is missing.
async fn stand_in(client: Client, authority: Vec<u8>) {
    let bundle = serde_json::to_value(ByteString(authority.clone())).unwrap();
    loop {
        // A server that is about to be stopped may refuse; the tests see what is missing.
        let _ = deployments(&client).await;
        let _ = tokens(&client, &authority).await;
        let _ = webhooks(&client, &bundle).await;
        tokio::time::sleep(PACE).await;
    }
}

async fn deployments(client: &Client) -> kube::Result<()> {
    for deployment in Api::<Deployment>::all(client.clone()).list(&ListParams::default()).await? {
        let want = deployment.spec.as_ref().and_then(|it| it.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let seen = status.observed_generation == deployment.metadata.generation;
        if seen && status.available_replicas == Some(want) {
            continue;
        }
        let patch = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": want,
            "updatedReplicas": want, "readyReplicas": want, "availableReplicas": want,
        }});
        let namespace = deployment.namespace().unwrap_or_default();
        let api = Api::<Deployment>::namespaced(client.clone(), &namespace);
        let name = deployment.name_any();
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

async fn tokens(client: &Client, authority: &[u8]) -> kube::Result<()> {
    for secret in Api::<Secret>::all(client.clone()).list(&ListParams::default()).await? {
        let is_token = secret.type_.as_deref() == Some("kubernetes.io/service-account-token");
        if !is_token || secret.data.as_ref().is_some_and(|data| data.contains_key("token")) {
            continue;
        }
        let account = secret.annotations().get("kubernetes.io/service-account.name");
        let token = format!("token-of-{}", account.cloned().unwrap_or_default());
        let data = |bytes: Vec<u8>| serde_json::to_value(ByteString(bytes)).unwrap();
        let patch =
            json!({"data": {"token": data(token.into()), "ca.crt": data(authority.into())}});
        let api =
            Api::<Secret>::namespaced(client.clone(), &secret.namespace().unwrap_or_default());
        api.patch(&secret.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

async fn webhooks(client: &Client, bundle: &Value) -> kube::Result<()> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
    for mut found in mutating.list(&ListParams::default()).await? {
        let all = found.webhooks.iter_mut().flatten();
        let mut missing = false;
        for webhook in all.filter(|it| it.client_config.ca_bundle.is_none()) {
            webhook.client_config.ca_bundle = serde_json::from_value(bundle.clone()).ok();
            missing = true;
        }
        if missing {
            mutating.replace(&found.name_any(), &Default::default(), &found).await?;
        }
    }
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    for mut found in validating.list(&ListParams::default()).await? {
        let mut missing = false;
        for webhook in found.webhooks.iter_mut().flatten() {
            missing |= webhook.failure_policy.as_deref() != Some("Fail");
            webhook.client_config.ca_bundle = serde_json::from_value(bundle.clone()).ok();
            webhook.failure_policy = Some("Fail".to_owned());
        }
        if missing {
            validating.replace(&found.name_any(), &Default::default(), &found).await?;
        }
    }
    Ok(())
}
