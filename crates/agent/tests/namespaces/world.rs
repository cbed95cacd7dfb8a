//! The namespaces, the links between them, and the processes in them. All of it ends with the
//! value: no namespace and no process stays behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control_plane;

pub const CANARY: &str = "CANARY-5f1d7c";
pub const GATEWAY_SERVER_NAME: &str = "outbound_.5000_._.helloworld.sample.svc.cluster.local";

/// Every pod with its addresses.
const PODS: [(&str, &[&str]); 4] = [
    ("sleep", &["10.10.0.30"]),
    ("helloworld1", &["10.10.0.20"]),
    ("helloworld2", &["10.20.0.20"]),
    ("gateway", &["10.20.0.40", "172.18.12.1"]),
];

pub struct World {
    folder: tempfile::TempDir,
    /// In the names of namespaces, so that runs do not meet.
    tag: String,
    processes: Mutex<Vec<(String, Child)>>,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    /// Makes namespaces and links.
    pub fn new() -> Self {
        let tag = format!("t{}", std::process::id());
        let world = Self { folder: tempfile::tempdir().unwrap(), tag, processes: Mutex::default() };
        run("chmod", &["755", world.folder.path().to_str().unwrap()]);
        let router = world.namespace("router");
        run("ip", &["netns", "add", &router]);
        let inside = |arguments: &str| {
            let arguments: Vec<&str> = arguments.split(' ').collect();
            run("ip", &[&["-n", &router], arguments.as_slice()].concat());
        };
        inside("link set lo up");
        inside("addr add 172.18.0.100/32 dev lo");
        let set = ["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"];
        run("ip", &set);
        for (pod, addresses) in PODS {
            world.pod(pod, addresses);
        }
        // The networks reach each other only by the gateway's outer address.
        let rules = "add table ip filter; \
            add chain ip filter forward { type filter hook forward priority 0; policy accept; }; \
            add rule ip filter forward ip saddr 10.10.0.0/16 ip daddr 10.20.0.0/16 drop; \
            add rule ip filter forward ip saddr 10.20.0.0/16 ip daddr 10.10.0.0/16 ct state new drop";
        run("ip", &["netns", "exec", &router, "nft", rules]);
        world
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    /// A namespace with one link to the router, which knows the way to its addresses.
    fn pod(&self, name: &str, addresses: &[&str]) {
        let (pod, router) = (self.namespace(name), self.namespace("router"));
        let link = format!("v-{name}");
        let link: String = link.chars().take(15).collect();
        run("ip", &["netns", "add", &pod]);
        run(
            "ip",
            &[
                "-n", &router, "link", "add", &link, "type", "veth", "peer", "name", "eth0",
                "netns", &pod,
            ],
        );
        run("ip", &["-n", &router, "addr", "add", "169.254.1.1/32", "dev", &link]);
        run("ip", &["-n", &router, "link", "set", &link, "up"]);
        run("ip", &["-n", &pod, "link", "set", "lo", "up"]);
        run("ip", &["-n", &pod, "link", "set", "eth0", "up"]);
        for address in addresses {
            run("ip", &["-n", &pod, "addr", "add", &format!("{address}/32"), "dev", "eth0"]);
            run("ip", &["-n", &router, "route", "add", &format!("{address}/32"), "dev", &link]);
        }
        run("ip", &["-n", &pod, "route", "add", "169.254.1.1", "dev", "eth0"]);
        let first = addresses[0];
        run("ip", &["-n", &pod, "route", "add", "default", "via", "169.254.1.1", "src", first]);
    }

    /// Starts every process and waits until all proxies are ready.
    pub fn start(&self) {
        control_plane::make_root(self.folder.path());
        let folder = self.folder.path().to_str().unwrap();
        self.spawn("router", "control-plane", 0, "control-plane", &[("WORLD", folder)]);
        self.spawn("helloworld1", "application1", 1000, "application", &[("VERSION", "v1")]);
        self.spawn("helloworld2", "application2", 1000, "application", &[("VERSION", "v2")]);
        for pod in ["sleep", "helloworld1", "helloworld2"] {
            let program = std::env::current_exe().unwrap();
            let program = program.to_str().unwrap();
            run("ip", &["netns", "exec", &self.namespace(pod), program, "capture"]);
        }
        for (pod, addresses) in PODS {
            self.proxy(pod, addresses[0]);
        }
        for (pod, _) in PODS {
            let code = [
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "http://127.0.0.1:15021/healthz/ready",
            ];
            self.eventually(&format!("the proxy of {pod} is ready"), || {
                (self.curl_from(pod, 0, &code) == "200").then_some(())
            });
        }
    }

    fn proxy(&self, pod: &str, ip: &str) {
        let (role, account, namespace) = match pod {
            "gateway" => ("router", "istio-eastwestgateway-service-account", "istio-system"),
            "sleep" => ("sidecar", "sleep", "sample"),
            // The sample has no service account of its own.
            _ => ("sidecar", "default", "sample"),
        };
        let root = self.folder.path().join(pod);
        self.secrets(&root, &format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"));
        self.spawn(pod, pod, 1337, "proxy", &[
            ("ROLE", role),
            ("ROOT", root.to_str().unwrap()),
            ("POD_NAME", pod),
            ("POD_NAMESPACE", namespace),
            ("INSTANCE_IP", ip),
            ("SERVICE_ACCOUNT", account),
            ("CA_ADDR", "172.18.0.100:15012"),
            ("PROXY_CONFIG", "{\"discoveryAddress\":\"172.18.0.100:15012\",\"terminationDrainDuration\":\"3s\"}"),
            ("ISTIO_META_CLUSTER_ID", "cluster01"),
        ]);
    }

    /// What the kubelet would mount: the token and the root.
    fn secrets(&self, root: &Path, token: &str) {
        let secrets = root.join("var/run/secrets");
        std::fs::create_dir_all(secrets.join("tokens")).unwrap();
        std::fs::create_dir_all(secrets.join("istio")).unwrap();
        std::fs::write(secrets.join("tokens/istio-token"), token).unwrap();
        let trusted = self.folder.path().join("root-cert.pem");
        std::fs::copy(trusted, secrets.join("istio/root-cert.pem")).unwrap();
    }

    fn spawn(&self, pod: &str, name: &str, user: u32, actor: &str, variables: &[(&str, &str)]) {
        let log = std::fs::File::create(self.log(name)).unwrap();
        let id = user.to_string();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(pod)])
            .args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .arg(actor)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.lock().push((name.to_owned(), child));
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The answer to a request of the client's application to the service.
    pub fn call(&self, path: &str) -> String {
        let url = format!("http://10.11.0.99:5000{path}");
        self.curl_from(
            "sleep",
            1000,
            &["-s", "-m", "10", "-H", "host: helloworld.sample:5000", &url],
        )
    }

    pub fn call_until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.eventually("the wanted answer", || {
            Some(self.call(path)).filter(|answer| wanted(answer))
        })
    }

    /// What `curl` prints when a user in a pod runs it.
    pub fn curl_from(&self, pod: &str, user: u32, arguments: &[&str]) -> String {
        let id = user.to_string();
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace(pod)])
            .args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "curl"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything readable in the packets between the networks while `act` runs.
    pub fn sniff(&self, act: impl FnOnce()) -> String {
        let file = self.folder.path().join("wan.txt");
        let link = "v-gateway";
        let mut tcpdump = Command::new("ip")
            .args(["netns", "exec", &self.namespace("router"), "tcpdump"])
            .args(["-i", link, "-A", "-s", "0", "-U", "-l", "tcp port 15443"])
            .stdout(std::fs::File::create(&file).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = || std::fs::read_to_string(&file).unwrap_or_default();
        // A request before the capture has begun would prove nothing.
        self.eventually("the capture sees packets", || {
            self.curl_from("sleep", 1337, &["-s", "-m", "1", "http://172.18.12.1:15443/"]);
            (!std::fs::read(&file).unwrap_or_default().is_empty()).then_some(())
        });
        act();
        // Connections are reused; a new one shows the server name in its hello.
        let tls = ["-s", "-k", "-m", "2", "--connect-to", "::172.18.12.1:15443"];
        let url = format!("https://{GATEWAY_SERVER_NAME}/");
        self.eventually("the capture sees a hello", || {
            self.curl_from("sleep", 1337, &[&tls[..], &[&url]].concat());
            let bytes = std::fs::read(&file).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(GATEWAY_SERVER_NAME).then_some(())
        });
        tcpdump.kill().unwrap();
        tcpdump.wait().unwrap();
        let bytes = std::fs::read(&file).unwrap_or_default();
        if bytes.is_empty() { seen() } else { String::from_utf8_lossy(&bytes).into_owned() }
    }

    /// The resident memory of a process in KiB: of its own, and shared with its program's file.
    pub fn resident(&self, name: &str) -> (u64, u64) {
        let processes = self.processes.lock();
        let (_, child) = processes.iter().find(|(known, _)| known == name).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("RssAnon"), field("RssFile"))
    }

    /// Asks a process to stop.
    pub fn terminate(&self, name: &str) {
        let processes = self.processes.lock();
        let (_, child) = processes.iter().find(|(known, _)| known == name).unwrap();
        run("kill", &["-TERM", &child.id().to_string()]);
    }

    pub fn has_ended(&self, name: &str) -> bool {
        let mut processes = self.processes.lock();
        let (_, child) = processes.iter_mut().find(|(known, _)| known == name).unwrap();
        child.try_wait().unwrap().is_some()
    }

    /// Waits until `check` yields something; shows the logs when it does not.
    pub fn eventually<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(value) = check() {
                return value;
            }
            if Instant::now() > end {
                panic!("{what}: not within 60 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (name, child) in self.processes.lock().iter_mut() {
            drop(child.kill());
            drop(child.wait());
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- {name}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        for name in ["sleep", "helloworld1", "helloworld2", "gateway", "router"] {
            drop(Command::new("ip").args(["netns", "del", &self.namespace(name)]).output());
        }
    }
}
