//! What a lab's node does with pods: order, streams, addresses, names, restarts, volumes, and
//! that nothing is left. Needs root, `ip`, `nft` and `perl`; each test has a lab of its own.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "the lab's own tests use more of it")]
mod support;

use std::collections::BTreeSet;

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Service};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams,
};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use support::{TestLab, api_servers, eventually, eventually_async, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A cluster with one node, and a way to talk about its pods.
struct Cluster {
    lab: TestLab,
    client: Client,
    pods: Api<Pod>,
}

impl Cluster {
    async fn new(api_server: &str) -> Self {
        let lab = TestLab::new();
        lab.create("c1", "", api_server);
        let client = lab.client("c1").await;
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(client.clone(), "default");
        eventually_async("the default service account", async || accounts.get("default").await)
            .await;
        Self { pods: Api::namespaced(client.clone(), "default"), lab, client }
    }

    /// Makes a pod of the given spec.
    async fn run(&self, name: &str, spec: Value) {
        let pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
        let pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Makes a pod with one shell and waits until it is ready.
    async fn shell(&self, name: &str, script: &str) -> Pod {
        let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", script]});
        self.run(name, json!({"containers": [container], "terminationGracePeriodSeconds": 1}))
            .await;
        self.ready(name).await
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        eventually_async(&format!("{name} to be {what}"), async || {
            let pod = self.pods.get(name).await.map_err(|error| error.to_string())?;
            let seen = serde_json::to_string(&pod.status).unwrap();
            if holds(&pod) { Ok(pod) } else { Err(seen) }
        })
        .await
    }

    async fn ready(&self, name: &str) -> Pod {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True").await
    }

    async fn log(&self, pod: &str, container: &str) -> String {
        let params = LogParams { container: Some(container.into()), ..LogParams::default() };
        self.pods.logs(pod, &params).await.unwrap()
    }

    /// Runs a command in a pod: what it wrote, and its exit code.
    async fn exec(&self, pod: &str, script: &str) -> (String, i32) {
        let params = AttachParams::default().stdout(true).stderr(false).container("c");
        let mut process = self.pods.exec(pod, ["sh", "-c", script], &params).await.unwrap();
        let status = process.take_status().unwrap();
        let mut out = String::new();
        process.stdout().unwrap().read_to_string(&mut out).await.unwrap();
        (out, exit_code(status.await.unwrap()))
    }

    /// Deletes a pod and waits until it is gone.
    async fn delete(&self, name: &str) {
        self.pods.delete(name, &DeleteParams::default()).await.unwrap();
        eventually_async("the pod's end", async || match self.pods.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(pod)) => Err(serde_json::to_string(&pod.status).unwrap()),
            Err(error) => Err(error.to_string()),
        })
        .await;
    }

    /// A command in the node's own network.
    fn on_node(&self, command: &[&str]) -> String {
        self.lab.ok(&[&["lab", "container", "exec", "c1-control-plane"], command].concat())
    }
}

fn exit_code(status: k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> i32 {
    if status.status.as_deref() == Some("Success") {
        return 0;
    }
    let causes = status.details.clone().and_then(|details| details.causes).unwrap_or_default();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message?.parse().ok());
    code.unwrap_or_else(|| panic!("no exit code in {status:?}"))
}

fn condition(pod: &Pod, kind: &str) -> String {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let found = conditions.into_iter().find(|condition| condition.type_ == kind);
    found.map(|condition| condition.status.clone()).unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The status of the pod's only own container.
fn container(pod: &Pod) -> &k8s_openapi::api::core::v1::ContainerStatus {
    &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0]
}

#[tokio::test]
async fn containers_run_in_order_and_leave_nothing() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let links = cluster.on_node(&["ip", "-br", "link"]).lines().count();
        let shell = |name: &str, script: &str| json!({"name": name, "image": "busybox", "command": ["sh", "-c", script]});
        let mut sidecar = shell(
            "sidecar",
            "trap 'ls /seen > /seen/at-the-end; exit 0' TERM; touch /seen/sidecar; while :; do sleep 0.1; done",
        );
        sidecar["restartPolicy"] = json!("Always");
        sidecar["startupProbe"] = json!({"exec": {"command": ["test", "-e", "/seen/sidecar"]}, "periodSeconds": 1, "failureThreshold": 60});
        let mut all = [
            shell("init", "ls /seen; touch /seen/init"),
            sidecar,
            shell("main", "ls /seen; id -u; id -g; touch /seen/main; sleep 1; ls /seen"),
        ];
        for container in &mut all {
            container["volumeMounts"] = json!([{"name": "seen", "mountPath": "/seen"}]);
        }
        let [init, sidecar, mut main] = all;
        main["securityContext"] = json!({"runAsUser": 1337, "runAsGroup": 1337});
        cluster.run("p", json!({"restartPolicy": "Never", "volumes": [{"name": "seen", "emptyDir": {}}], "initContainers": [init, sidecar], "containers": [main]})).await;
        let pod = cluster.until("p", "finished", |pod| phase(pod) == "Succeeded").await;
        assert_eq!(cluster.log("p", "init").await, "");
        assert_eq!(
            cluster.log("p", "main").await,
            "init\nsidecar\n1337\n1337\ninit\nmain\nsidecar\n"
        );
        let sidecar = &pod.status.as_ref().unwrap().init_container_statuses.as_ref().unwrap()[1];
        let ended = sidecar.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));
        cluster.delete("p").await;
        eventually("no link of the pod", || match cluster.on_node(&["ip", "-br", "link"]) {
            now if now.lines().count() == links => Ok(()),
            now => Err(now),
        });
        let state = cluster.lab.lab_folder().join("clusters/c1/nodes/c1-control-plane/pods");
        eventually("no folder of the pod", || {
            let left: Vec<_> =
                std::fs::read_dir(&state).unwrap().flatten().map(|entry| entry.path()).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

#[tokio::test]
async fn logs_and_commands_reach_the_user() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        cluster.shell("p", "echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo three; exec sleep 1000").await;
        let follow = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
        let mut lines = cluster.pods.log_stream("p", &follow).await.unwrap().lines();
        assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("two"));
        assert_eq!(cluster.exec("p", "touch /tmp/go; echo out; exit 7").await, ("out\n".into(), 7));
        assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("three"));
        let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
        let mut cat = cluster.pods.exec("p", ["head", "-n", "1"], &params).await.unwrap();
        let status = cat.take_status().unwrap();
        cat.stdin().unwrap().write_all(b"typed\n").await.unwrap();
        let mut out = String::new();
        cat.stdout().unwrap().read_to_string(&mut out).await.unwrap();
        assert_eq!((out.as_str(), exit_code(status.await.unwrap())), ("typed\n", 0));
        let tty = AttachParams::interactive_tty();
        let mut shell = cluster
            .pods
            .exec("p", ["sh", "-c", "test -t 0 && test -t 1 && echo terminal"], &tty)
            .await
            .unwrap();
        let mut out = String::new();
        shell.stdout().unwrap().read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "terminal\r\n");
        cluster.pods.delete("p", &DeleteParams::default()).await.unwrap();
        assert_eq!(lines.try_next().await.unwrap(), None);
    }
}

/// A server that answers each TCP connection and each UDP packet with its host name.
const SERVER: &str = r#"exec perl -MIO::Socket::INET -e '
my $name = `hostname`; my $udp = IO::Socket::INET->new(LocalPort => 9000, Proto => "udp") or die;
if (!fork) { while (defined $udp->recv(my $in, 100)) { $udp->send($name) } exit }
my $tcp = IO::Socket::INET->new(LocalPort => 8080, Listen => 50, ReuseAddr => 1) or die;
while (my $peer = $tcp->accept) { print $peer $name; close $peer }'"#;

/// Asks a server by TCP and by UDP, several times each.
const ASK: &str = r#"perl -MIO::Socket::INET -e '
for (1 .. 20) {
  my $tcp = IO::Socket::INET->new(PeerAddr => "HOST:80", Timeout => 3) or die "tcp: $!"; print "tcp ", <$tcp>;
  my $udp = IO::Socket::INET->new(PeerAddr => "HOST:9000", Proto => "udp") or die "udp: $!"; $udp->send("x"); alarm 3; $udp->recv(my $in, 100); print "udp $in" }' 2>&1"#;

async fn two_servers(cluster: &Cluster) -> Service {
    for name in ["s1", "s2"] {
        let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", SERVER], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
        let pod = json!({"metadata": {"name": name, "labels": {"serves": "web"}}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}});
        cluster
            .pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }
    let service = json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "selector": {"serves": "web"}, "ports": [
        {"name": "tcp", "port": 80, "targetPort": 8080}, {"name": "udp", "port": 9000, "protocol": "UDP"}]}});
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let service = services
        .create(&PostParams::default(), &serde_json::from_value(service).unwrap())
        .await
        .unwrap();
    for name in ["s1", "s2"] {
        cluster.ready(name).await;
    }
    service
}

#[tokio::test]
async fn services_are_reached_by_address_and_by_name() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let service = two_servers(&cluster).await;
        cluster.shell("client", "exec sleep 1000").await;
        let spec = service.spec.unwrap();
        let ip = spec.cluster_ip.unwrap();
        let want = BTreeSet::from(["tcp s1", "tcp s2", "udp s1", "udp s2"]);
        // The name, the address, and from a server itself, which may find itself.
        for (from, host) in [("client", "web"), ("client", ip.as_str()), ("s1", ip.as_str())] {
            eventually_async("answers of both servers", async || {
                let (out, _) = cluster.exec(from, &ASK.replace("HOST", host)).await;
                let seen: BTreeSet<&str> = out.lines().collect();
                if seen == want { Ok(()) } else { Err(format!("{from} saw {seen:?}")) }
            })
            .await;
        }
        let port = spec.ports.unwrap()[0].node_port.unwrap();
        let (out, code) =
            cluster.exec("client", &format!("curl -s --http0.9 172.18.0.2:{port}")).await;
        assert!(matches!(out.as_str(), "s1\n" | "s2\n"), "{out} {code}");
        let (out, _) = cluster
            .exec(
                "client",
                &format!("curl -sS -m 5 {ip}:81 2>&1; curl -sS -m 5 10.96.255.254 2>&1"),
            )
            .await;
        assert_eq!(out.matches("Couldn't connect").count(), 2, "{out}");

        let ask = |question: &str| {
            format!(
                "dig +noall +comments +answer +authority {question} | grep -v '^;; flags\\|Got answer\\|WARNING\\|mDNS\\|SECTION\\|^$' | sed 's/, id.*//; s/[\\t ]\\+/ /g'"
            )
        };
        let names = [
            ("web.default.svc.cluster.local", format!(";; ->>HEADER<<- opcode: QUERY, status: NOERROR\nweb.default.svc.cluster.local. 5 IN A {ip}\n")),
            ("+tcp web.default.svc.cluster.local AAAA", ";; ->>HEADER<<- opcode: QUERY, status: NOERROR\ncluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\n".into()),
            ("nothing.default.svc.cluster.local", ";; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN\ncluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\n".into()),
        ];
        for (question, want) in names {
            assert_eq!(cluster.exec("client", &ask(question)).await.0, want, "{question}");
        }
    }
}

#[tokio::test]
async fn a_pod_has_a_port_of_its_node_for_as_long_as_it_lives() {
    let cluster = Cluster::new("embedded").await;
    let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", SERVER], "ports": [{"containerPort": 8080, "hostPort": 18080}], "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    cluster.run("s", json!({"containers": [container], "terminationGracePeriodSeconds": 1})).await;
    cluster.shell("client", "exec sleep 1000").await;
    cluster.ready("s").await;
    let ask = async |from: &str| {
        // The server does not read the request, so the connection may end with a reset.
        let command = "curl -s -m 5 --http0.9 172.18.0.2:18080; [ $? = 7 ] && echo refused; :";
        match from {
            "node" => cluster.on_node(&["sh", "-c", command]),
            pod => cluster.exec(pod, command).await.0,
        }
    };
    for from in ["client", "s", "node"] {
        eventually_async("the pod's answer", async || match ask(from).await {
            answer if answer == "s\n" => Ok(()),
            answer => Err(format!("{from} got {answer}")),
        })
        .await;
    }
    cluster.delete("s").await;
    eventually_async("a closed port", async || match ask("client").await {
        answer if answer == "refused\n" => Ok(()),
        answer => Err(answer),
    })
    .await;
}

#[tokio::test]
async fn crashes_are_restarted_and_explained() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let crash = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", "echo run >> /runs/all; wc -l < /runs/all; echo why > /dev/termination-log; exit 7"], "volumeMounts": [{"name": "runs", "mountPath": "/runs"}]});
        cluster
            .run(
                "crash",
                json!({"volumes": [{"name": "runs", "emptyDir": {}}], "containers": [crash]}),
            )
            .await;
        let pod = cluster
            .until("crash", "in back-off", |pod| {
                let waiting = pod.status.as_ref().and_then(|status| {
                    status
                        .container_statuses
                        .as_ref()?
                        .first()?
                        .state
                        .as_ref()?
                        .waiting
                        .as_ref()?
                        .reason
                        .clone()
                });
                waiting.as_deref() == Some("CrashLoopBackOff")
            })
            .await;
        let ended = container(&pod).last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!(
            (ended.exit_code, ended.message.as_deref(), container(&pod).restart_count),
            (7, Some("why\n"), 1)
        );
        // Between two runs the previous one is the one that has just ended, as `lastState` tells.
        let previous = LogParams { previous: true, ..LogParams::default() };
        assert_eq!(cluster.pods.logs("crash", &previous).await.unwrap(), "2\n");

        let sick = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", "exec sleep 1000"], "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}});
        cluster.run("sick", json!({"containers": [sick]})).await;
        cluster
            .until("sick", "restarted", |pod| {
                pod.status
                    .as_ref()
                    .and_then(|status| status.container_statuses.as_ref())
                    .is_some_and(|all| all[0].restart_count > 0)
            })
            .await;

        cluster
            .run(
                "unknown",
                json!({"containers": [{"name": "c", "image": "example.com/not/there:1"}]}),
            )
            .await;
        let pod = cluster
            .until("unknown", "refused", |pod| {
                pod.status
                    .as_ref()
                    .and_then(|status| status.container_statuses.as_ref())
                    .is_some_and(|all| {
                        all[0].state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref()
                            == Some("ErrImageNeverPull")
                    })
            })
            .await;
        let message = container(&pod).state.clone().unwrap().waiting.unwrap().message.unwrap();
        assert!(
            message.starts_with(
                "image \"example.com/not/there:1\" is not in the lab's table of images; it knows "
            ),
            "{message}"
        );

        let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
        eventually_async("the events", async || {
            let all =
                events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let all: BTreeSet<String> = all
                .items
                .into_iter()
                .map(|event| {
                    format!(
                        "{} {}",
                        event.involved_object.name.unwrap_or_default(),
                        event.reason.unwrap_or_default()
                    )
                })
                .collect();
            let want = [
                "crash Started",
                "crash BackOff",
                "sick Unhealthy",
                "sick Killing",
                "unknown Failed",
            ];
            if want.iter().all(|event| all.contains(*event)) {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        })
        .await;
    }
}

/// Tries, in a container's shell, what would reach the machine: prints what worked.
const REACH: &str = "for file in bus fs irq sys/kernel/core_pattern sys/net/ipv4/ip_forward sysrq-trigger; do
[ -w /proc/$file ] && echo writes $file; done
mknod /tmp/device c 1 3 2>/dev/null && echo makes a device
for folder in /tmp /dev /dev/shm /volume; do
mknod $folder/null c 1 3 2>/dev/null && { echo x > $folder/null; } 2>/dev/null && echo opens $folder/null; done; :";

#[tokio::test]
async fn root_in_a_pod_is_not_root_on_the_machine() {
    let cluster = Cluster::new("embedded").await;
    let pods = [
        ("plain", json!({})),
        ("maker", json!({"capabilities": {"add": ["MKNOD"]}})),
        ("privileged", json!({"privileged": true})),
    ];
    for (name, context) in &pods {
        let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", format!("{REACH}\necho end; exec sleep 1000")], "securityContext": context, "volumeMounts": [{"name": "volume", "mountPath": "/volume"}]});
        cluster.run(name, json!({"volumes": [{"name": "volume", "emptyDir": {}}], "containers": [container], "terminationGracePeriodSeconds": 1})).await;
    }
    for ((name, _), want) in pods.iter().zip(["", "makes a device\n", "writes sys/kernel/core_pattern\nwrites sys/net/ipv4/ip_forward\nmakes a device\nopens /volume/null\n"]) {
        cluster.ready(name).await;
        let said = eventually_async("the end of the log", async || match cluster.log(name, "c").await {
            said if said.ends_with("end\n") => Ok(said),
            said => Err(said),
        })
        .await;
        // Not every kernel has these, but an ordinary container may write none.
        let some = ["bus", "fs", "irq", "sysrq-trigger"].map(|file| format!("writes {file}"));
        let kept = said.lines().filter(|line| *name != "privileged" || !some.contains(&(*line).to_owned()));
        let said: String = kept.map(|line| format!("{line}\n")).collect();
        assert_eq!(said, format!("{want}end\n"), "{name}");
    }
    // A command that joins the container sees what the container sees.
    assert_eq!(cluster.exec("plain", REACH).await, (String::new(), 0));
}

#[tokio::test]
async fn links_in_a_volume_lead_nowhere_outside_it() {
    let cluster = Cluster::new("embedded").await;
    let mount = |mount: Value| json!([{"name": "v", "mountPath": "/v"}, mount]);
    let made = cluster.lab.path("made");
    let folder = cluster.lab.path("").display().to_string();
    let links = format!("ln -s {folder} /v/up; ln -s /.machine{folder} /v/machine");
    let link = json!({"name": "link", "image": "busybox", "command": ["sh", "-c", links], "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let shell = |mounts: Value| json!({"name": "c", "image": "busybox", "command": ["sleep", "1000"], "env": [{"name": "WHERE", "value": made.display().to_string()}], "volumeMounts": mounts});
    for (name, mounts, why) in [
        (
            "linked",
            mount(json!({"name": "v", "mountPath": "/x", "subPath": "up/made"})),
            "a link of the volume leads out of it",
        ),
        (
            "absolute",
            mount(json!({"name": "v", "mountPath": "/x", "subPathExpr": "$(WHERE)"})),
            "is not a path below the volume; write it without a leading `/` and without `..`",
        ),
        (
            "point",
            mount(json!({"name": "w", "mountPath": "/v/machine/made"})),
            "a link of a volume leads out of the container",
        ),
    ] {
        cluster.run(name, json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}], "initContainers": [link], "containers": [shell(mounts)], "terminationGracePeriodSeconds": 1})).await;
        cluster
            .until(name, "refused", |pod| serde_json::to_string(&pod.status).unwrap().contains(why))
            .await;
        assert!(!made.exists(), "{name} made {}", made.display());
    }
}

#[tokio::test]
async fn volumes_follow_their_objects() {
    for api_server in api_servers() {
        let cluster = Cluster::new(api_server).await;
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
        let container = json!({"name": "c", "image": "busybox", "command": ["sleep", "1000"], "volumeMounts": [
            {"name": "map", "mountPath": "/map"}, {"name": "pod", "mountPath": "/pod"}, {"name": "token", "mountPath": "/var/run/secrets/tokens"}]});
        let volumes = json!([
            {"name": "map", "configMap": {"name": "m"}},
            {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 3600, "path": "istio-token"}}]}},
        ]);
        cluster.run("p", json!({"volumes": volumes, "containers": [container], "terminationGracePeriodSeconds": 1})).await;
        // Without its ConfigMap the pod waits; with it, it starts.
        let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
        eventually_async("the reason", async || {
            let all =
                events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let found = all
                .items
                .into_iter()
                .filter(|event| event.reason.as_deref() == Some("FailedMount"))
                .filter_map(|event| event.message);
            let found: Vec<String> = found.collect();
            if found.iter().any(|message| message.ends_with("configmap \"m\" not found")) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
        let map = json!({"metadata": {"name": "m"}, "data": {"key": "old"}});
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        cluster.ready("p").await;
        let read = "cat /map/key; echo; cat /pod/labels; echo; cut -d. -f2 /var/run/secrets/tokens/istio-token | base64 -d 2>/dev/null | grep -o istio-ca";
        assert_eq!(cluster.exec("p", read).await.0, "old\napp=\"p\"\nistio-ca\n");
        maps.patch("m", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": "new"}})))
            .await
            .unwrap();
        cluster
            .pods
            .patch(
                "p",
                &PatchParams::default(),
                &Patch::Merge(json!({"metadata": {"labels": {"app": "q"}}})),
            )
            .await
            .unwrap();
        eventually_async("the new files", async || match cluster.exec("p", read).await.0 {
            now if now == "new\napp=\"q\"\nistio-ca\n" => Ok(()),
            now => Err(now),
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_node_agent_takes_its_containers_along_and_starts_them_again() {
    let cluster = Cluster::new("embedded").await;
    let before = cluster.shell("p", "exec sleep 987654").await;
    let sleeping = || {
        let all =
            std::process::Command::new("pgrep").args(["-fc", "^sleep 987654$"]).output().unwrap();
        text(&all.stdout).trim().to_owned()
    };
    assert_eq!(sleeping(), "1");
    cluster.lab.ok(&["lab", "kill", "node", "c1"]);
    let pod = cluster
        .until("p", "restarted", |pod| {
            condition(pod, "Ready") == "True" && container(pod).restart_count == 1
        })
        .await;
    assert_eq!((pod.uid(), sleeping()), (before.uid(), "1".to_owned()));
    cluster.delete("p").await;
    eventually(
        "the end of its process",
        || if sleeping() == "0" { Ok(()) } else { Err(sleeping()) },
    );
}
