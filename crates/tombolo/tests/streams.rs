//! Streams to pods as users open them: kubectl's port-forward, exec and attach over WebSockets and
//! over SPDY, and kube's port-forward. Needs root, `ip`, `nft`, `perl`, `curl` and kubectl.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use serde_json::json;
use support::{TestLab, api_servers, eventually, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What kubectl speaks; the settings are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    WebSockets,
    Spdy,
}

const BOTH: [Speaks; 2] = [Speaks::WebSockets, Speaks::Spdy];

/// An HTTP server on the pod's loopback only. `/echo` returns what it gets, `/hang` reads until
/// its client goes and leaves a file, everything else says the host's name.
const SERVER: &str = r#"exec perl -MIO::Socket::INET -e '
$SIG{CHLD} = "IGNORE";
my $all = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8080, Listen => 50, ReuseAddr => 1) or die;
open my $ready, ">", "/tmp/ready"; close $ready;
while (my $c = $all->accept) {
  if (fork) { close $c; next }
  my ($line, $length, $body) = (scalar <$c>, 0, "");
  while (my $h = <$c>) { $length = $1 if $h =~ /^content-length: (\d+)/i; last if $h eq "\r\n" }
  if ($line =~ m{/hang}) {
    open my $f, ">", "/tmp/hangs"; close $f;
    while (sysread $c, my $b, 100) {}
    open $f, ">", "/tmp/gone"; close $f; exit;
  }
  read $c, $body, $length if $length;
  $body = `hostname` unless $line =~ m{/echo};
  print $c "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
  close $c; exit;
}'"#;

/// A cluster with a Deployment, its Service, and a way to call kubectl.
struct Cluster {
    lab: TestLab,
    client: Client,
    pod: String,
}

fn kubectl_program() -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/kubernetes/bin");
    let found = assets.into_iter().chain([built]).map(|folder| folder.join("kubectl"));
    found.into_iter().find(|program| program.exists()).unwrap_or_else(|| "kubectl".into())
}

fn kubectl_is_there() -> bool {
    let found = Command::new(kubectl_program()).args(["version", "--client"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must have kubectl: run tools/kubernetes/build");
    eprintln!("left out: kubectl is not there (see tools/kubernetes)");
    false
}

impl Cluster {
    async fn new(api_server: &str) -> Self {
        let lab = TestLab::new();
        lab.create("c1", "", api_server);
        let client = lab.client("c1").await;
        let mut cluster = Self { lab, client, pod: String::new() };
        let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", SERVER],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}});
        let all = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                    "containers": [container], "terminationGracePeriodSeconds": 1}}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
                "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}},
        ]});
        let mut apply = cluster.kubectl(Speaks::WebSockets, &["apply", "-f", "-"]);
        let applied = with_input(&mut apply, all.to_string().as_bytes());
        assert!(applied.status.success(), "{applied:?}");
        cluster.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let names = cluster.ok(&["get", "pods", "-l", "app=web", "-o", "name"]);
        cluster.pod = names.trim().strip_prefix("pod/").unwrap().to_owned();
        cluster
    }

    fn kubectl(&self, speaks: Speaks, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl_program());
        command
            .arg("--kubeconfig")
            .arg(self.lab.path("kubeconfig"))
            .args(["--context", "kind-c1"])
            .args(arguments)
            .env("HOME", self.lab.path("home"))
            .stdin(Stdio::null());
        if speaks == Speaks::Spdy {
            command
                .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(Speaks::WebSockets, arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.lab.logs());
        text(&output.stdout)
    }

    fn forward(&self, speaks: Speaks, target: &str, port: u16) -> Forward {
        let port = format!(":{port}");
        let mut command =
            self.kubectl(speaks, &["port-forward", "--address=127.0.0.1", target, &port]);
        let errors = self.lab.path(&format!("forward-{}", rand_name()));
        let stderr = std::fs::File::create(&errors).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let local = line.strip_prefix("Forwarding from 127.0.0.1:");
        let local = local.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let said = || std::fs::read_to_string(&errors).unwrap();
        let local = local.unwrap_or_else(|| panic!("{speaks:?} {target} {line:?}: {}", said()));
        // Who does not read what kubectl says makes it wait.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Forward { child, local, errors }
    }
}

fn rand_name() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
}

/// A kubectl that forwards; ends with the value.
struct Forward {
    child: Child,
    local: u16,
    errors: PathBuf,
}

impl Forward {
    fn get(&self, path: &str, more: &[&str]) -> Output {
        let url = format!("http://127.0.0.1:{}{path}", self.local);
        Command::new("curl").args(["-sS", "-m", "50", &url]).args(more).output().unwrap()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Fails when it has ended by itself.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    })
}

/// Bytes that do not repeat, so that a lost or moved piece is seen.
fn payload(length: u32) -> Vec<u8> {
    (0..length / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[tokio::test]
async fn ports_are_forwarded() {
    if !kubectl_is_there() {
        return;
    }
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        for speaks in BOTH {
            for (target, port) in [
                (format!("pod/{}", cluster.pod).as_str(), 8080),
                ("service/web", 80),
                ("deployment/web", 8080),
            ] {
                let forward = cluster.forward(speaks, target, port);
                let answer = forward.get("/", &[]);
                let said = text(&answer.stdout);
                assert_eq!(said.trim(), cluster.pod, "{speaks:?} {target} {answer:?}");
            }
            large_and_at_once(&cluster, speaks);
            refused(&cluster, speaks);
            client_goes(&cluster, speaks);
        }
    }
}

fn large_and_at_once(cluster: &Cluster, speaks: Speaks) {
    let forward = cluster.forward(speaks, &format!("pod/{}", cluster.pod), 8080);
    let sent = payload(8 << 20);
    let file = cluster.lab.path("sent");
    std::fs::write(&file, &sent).unwrap();
    let data = format!("@{}", file.display());
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (forward, data, sent) = (&forward, &data, &sent);
            scope.spawn(move || {
                let answer = forward.get("/echo", &["-H", "Expect:", "--data-binary", data]);
                assert!(
                    answer.stdout == *sent,
                    "{speaks:?} {number}: {} bytes {}",
                    answer.stdout.len(),
                    text(&answer.stderr)
                );
            });
        }
    });
    // A client that goes in the middle harms nobody else.
    let cut = forward.get("/echo", &["-H", "Expect:", "--data-binary", &data, "-m", "0.05"]);
    assert!(!cut.status.success() || cut.stdout == sent, "{cut:?}");
    let answer = forward.get("/", &[]);
    assert_eq!(text(&answer.stdout).trim(), cluster.pod, "{speaks:?} {answer:?}");
}

fn refused(cluster: &Cluster, speaks: Speaks) {
    let forward = cluster.forward(speaks, &format!("pod/{}", cluster.pod), 81);
    assert!(!forward.get("/", &[]).status.success());
    eventually("the reason", || {
        // kubectl quotes what it reports.
        let said = std::fs::read_to_string(&forward.errors).unwrap().replace('\\', "");
        let name = format!("{}_default", cluster.pod);
        let wants = [
            format!("error forwarding port 81 to pod {name}"),
            format!("failed to connect to localhost:81 inside namespace \"{name}\""),
            "dial tcp4 127.0.0.1:81: connect: connection refused".into(),
        ];
        if wants.iter().all(|want| said.contains(want)) { Ok(()) } else { Err(said) }
    });
}

/// The pod sees the end of a connection when its client's kubectl is killed.
fn client_goes(cluster: &Cluster, speaks: Speaks) {
    let pod = cluster.pod.as_str();
    let there = |file: &str| {
        let test = cluster.kubectl(speaks, &["exec", pod, "--", "test", "-e", file]).output();
        let test = test.unwrap();
        if test.status.success() { Ok(()) } else { Err(format!("{test:?}")) }
    };
    cluster.ok(&["exec", pod, "--", "rm", "-f", "/tmp/hangs", "/tmp/gone"]);
    let forward = cluster.forward(speaks, &format!("pod/{pod}"), 8080);
    let mut client = TcpStream::connect(("127.0.0.1", forward.local)).unwrap();
    client.write_all(b"GET /hang HTTP/1.1\r\n\r\n").unwrap();
    eventually("the connection", || there("/tmp/hangs"));
    assert!(there("/tmp/gone").is_err());
    drop(forward);
    eventually("the connection's end", || there("/tmp/gone"));
    let mut rest = Vec::new();
    // An end or a reset: either way it is over.
    let _over = client.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn ports_are_forwarded_to_programs() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
        let mut forward = pods.portforward(&cluster.pod, &[8080, 81]).await.unwrap();
        let mut stream = forward.take_stream(8080).unwrap();
        let refused = forward.take_error(81).unwrap();
        let sent = payload(1 << 20);
        let head = format!("POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n", sent.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&sent));
        let refused = refused.await.unwrap();
        assert!(refused.contains("connection refused"), "{refused}");
    }
}

#[tokio::test]
async fn commands_run_over_both_protocols() {
    if !kubectl_is_there() {
        return;
    }
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let pod = cluster.pod.as_str();
        for speaks in BOTH {
            let script = "echo out; echo err >&2; exit 7";
            let ran = cluster.kubectl(speaks, &["exec", pod, "--", "sh", "-c", script]).output();
            let ran = ran.unwrap();
            let said = (text(&ran.stdout), text(&ran.stderr), ran.status.code());
            let want = "err\ncommand terminated with exit code 7\n";
            assert_eq!(said, ("out\n".into(), want.into(), Some(7)), "{speaks:?}");

            let typed = payload(8 << 20);
            let mut cat = cluster.kubectl(speaks, &["exec", "-i", pod, "--", "cat"]);
            let ran = with_input(&mut cat, &typed);
            assert!(
                ran.status.success() && ran.stdout == typed,
                "{speaks:?}: {} bytes, {}",
                ran.stdout.len(),
                text(&ran.stderr)
            );

            let missing = cluster.kubectl(speaks, &["exec", pod, "--", "/not/there"]).output();
            let missing = missing.unwrap();
            assert!(!missing.status.success(), "{missing:?}");
            assert!(text(&missing.stderr).contains("/not/there"), "{speaks:?} {missing:?}");
            on_a_terminal(&cluster, speaks);
        }
        attaches(&cluster);
    }
}

/// A command on a terminal of a size, under a terminal of this side.
fn on_a_terminal(cluster: &Cluster, speaks: Speaks) {
    let inner = "test -t 0 && test -t 1 && for i in 1 2 3 4 5 6 7 8 9; do stty size; sleep 0.3; done; exit 4";
    let kubectl = cluster.kubectl(speaks, &["exec", "-it", &cluster.pod, "--", "sh", "-c"]);
    let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let line = format!("stty rows 33 cols 77; {} '{inner}'", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    script.envs(kubectl.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ran = script.output().unwrap();
    assert_eq!(ran.status.code(), Some(4), "{speaks:?} {ran:?}");
    assert!(text(&ran.stdout).contains("33 77\r\n"), "{speaks:?} {ran:?}");
}

fn attaches(cluster: &Cluster) {
    for (speaks, name) in [(Speaks::WebSockets, "typed-1"), (Speaks::Spdy, "typed-2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "containers": [
                {"name": "c", "image": "busybox", "stdin": true, "stdinOnce": true, "command": ["head", "-n", "1"]}]}});
        let mut apply = cluster.kubectl(speaks, &["apply", "-f", "-"]);
        let applied = with_input(&mut apply, pod.to_string().as_bytes());
        assert!(applied.status.success(), "{applied:?}");
        cluster.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        let mut attach = cluster.kubectl(speaks, &["attach", "-i", "-q", name]);
        let ran = with_input(&mut attach, b"typed\n");
        assert_eq!(text(&ran.stdout), "typed\n", "{speaks:?} {ran:?}");
        eventually("its end", || {
            let phase = cluster.ok(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]);
            if phase == "Succeeded" { Ok(()) } else { Err(phase) }
        });
    }
}
