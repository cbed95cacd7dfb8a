//! Lab clusters as a user makes and breaks them. Needs root, `ip` and `nft`; every test has a lab
//! of its own in namespaces of its own, so all can run at once.

#![cfg(test)]

#[path = "lab/support.rs"]
mod support;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use support::{TestLab, api_servers, eventually, eventually_async, markers, text, write_marker};

#[tokio::test]
async fn a_cluster_comes_and_goes_and_leaves_nothing() {
    for api_server in api_servers() {
        let lab = TestLab::new();
        lab.create("c1", "nodes:\n- role: control-plane\n- role: worker\n", api_server);
        let nodes: Api<Node> = Api::all(lab.client("c1").await);
        let nodes = nodes.list(&ListParams::default()).await.unwrap();
        let names: Vec<_> = nodes.items.into_iter().filter_map(|n| n.metadata.name).collect();
        assert_eq!(names, ["c1-control-plane", "c1-worker"]);
        assert_eq!(lab.ok(&["lab", "get", "clusters"]), "c1\n");
        assert_eq!(
            lab.ok(&["lab", "get", "nodes", "--name", "c1"]),
            "c1-control-plane\nc1-worker\n"
        );
        assert!(lab.kubeconfig().contains("current-context: kind-c1"), "{}", lab.kubeconfig());
        let internal = lab.ok(&["lab", "get", "kubeconfig", "--name", "c1", "--internal"]);
        assert!(
            internal.contains("server: \"https://172.18.0.2:6443\"")
                || internal.contains("server: https://172.18.0.2:6443"),
            "{internal}"
        );

        let network = lab.network();
        lab.ok(&["lab", "delete", "--name", "c1"]);
        eventually("nothing of the lab", || match lab.traces(&network) {
            traces if traces.is_empty() => Ok(()),
            traces => Err(traces.join("\n")),
        });
        assert!(!lab.kubeconfig().contains("c1"), "{}", lab.kubeconfig());
        assert!(!lab.lab_folder().join("clusters/c1").exists());
    }
}

#[tokio::test]
async fn a_killed_lab_leaves_nothing_and_the_next_one_cleans_its_files() {
    let lab = TestLab::new();
    lab.create("c1", "", "embedded");
    let (network, (pid, attached)) = (lab.network(), lab.supervisor().unwrap());
    let host_link = || std::fs::read_to_string("/sys/class/net/tombolo0/ifindex").ok();
    let link = host_link();
    assert!(!attached || link.is_some());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    eventually("nothing of the lab", || match lab.traces(&network) {
        traces if traces.is_empty() => Ok(()),
        traces => Err(traces.join("\n")),
    });
    if attached {
        // Another lab may have made a link of that name since, which is another link.
        eventually("no link of the lab", || match host_link() {
            now if now == link => Err("tombolo0 is still there".to_owned()),
            _ => Ok(()),
        });
    }
    assert!(lab.kubeconfig().contains("kind-c1"));
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "");
    lab.create("c2", "", "embedded");
    assert!(!lab.kubeconfig().contains("kind-c1"), "{}", lab.kubeconfig());
    assert!(!lab.lab_folder().join("clusters/c1").exists());
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "c2\n");
}

#[test]
fn a_deletion_that_failed_is_finished_by_the_next_one() {
    let lab = TestLab::new();
    lab.create("c1", "", "embedded");
    let entries = lab.kubeconfig();
    let write = |text: &str| std::fs::write(lab.path("kubeconfig"), text).unwrap();
    write("- not a kubeconfig\n");
    let said = lab.fails(&["lab", "delete", "--name", "c1"]);
    assert!(said.contains("is not valid; mend it or name another with --kubeconfig"), "{said}");
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "c1\n");
    write(&entries);
    lab.ok(&["lab", "delete", "--name", "c1"]);
    assert!(!lab.kubeconfig().contains("c1"), "{}", lab.kubeconfig());
    // Entries of a cluster that is no more go, too: in a lab that has ended and in one that runs.
    write(&entries);
    lab.ok(&["lab", "delete", "--name", "c1"]);
    assert!(!lab.kubeconfig().contains("c1"), "{}", lab.kubeconfig());
    lab.create("c2", "", "embedded");
    let with_c2 = lab.kubeconfig();
    write(&with_c2.replace("kind-c2", "kind-c1"));
    lab.ok(&["lab", "delete", "--name", "c1"]);
    assert!(!lab.kubeconfig().contains("c1"), "{}", lab.kubeconfig());
    assert_eq!(lab.ok(&["lab", "get", "clusters"]), "c2\n");
}

#[tokio::test]
async fn killed_processes_come_back_and_the_api_keeps_its_data() {
    for api_server in api_servers() {
        let lab = TestLab::new();
        lab.create("c1", "", api_server);
        let client = lab.client("c1").await;
        write_marker(&client, "before").await;
        let mut wanted = vec!["api-server", "controllers", "node"];
        if api_server == "kubernetes" {
            wanted.extend(["etcd", "controller-manager"]);
        }
        for process in &wanted {
            lab.ok(&["lab", "kill", process, "c1"]);
        }
        eventually("every process again", || {
            let listed: serde_json::Value =
                serde_json::from_str(&lab.ok(&["lab", "list", "-o", "json"])).unwrap();
            let processes = listed[0]["processes"].as_array().unwrap();
            let back =
                |p: &&serde_json::Value| p["restarts"].as_u64() >= Some(1) && p["pid"].is_number();
            let down: Vec<_> = processes.iter().filter(|p| !back(p)).collect();
            if down.is_empty() { Ok(()) } else { Err(format!("{down:?}")) }
        });
        let kept =
            eventually_async("the API", async || markers(&lab.client("c1").await).await).await;
        assert_eq!(kept, ["before"]);
    }
}

#[tokio::test]
async fn clusters_with_the_same_subnets_live_beside_each_other() {
    let lab = TestLab::new();
    let same = "networking:\n  podSubnet: 10.10.0.0/16\n  serviceSubnet: 10.11.0.0/16\n";
    lab.create("a", same, "embedded");
    lab.create("b", same, "embedded");
    write_marker(&lab.client("a").await, "only-in-a").await;
    assert_eq!(markers(&lab.client("a").await).await.unwrap(), ["only-in-a"]);
    assert_eq!(markers(&lab.client("b").await).await.unwrap(), Vec::<String>::new());
    let error = lab.fails(&["lab", "route", "add", "a", "b"]);
    assert_eq!(
        error,
        "error: clusters `a` and `b` cannot share a network: 10.10.0.0/16 and 10.10.0.0/16 overlap. \
         Give them other subnets, or keep them on separate networks\n"
    );
    // The address of a node is what other clusters reach its API by.
    let template = "{{.NetworkSettings.Networks.kind.IPAddress}}";
    assert_eq!(lab.ok(&["lab", "inspect", "-f", template, "b-control-plane"]), "172.18.0.3\n");
}

#[tokio::test]
async fn clusters_are_joined_parted_cut_and_healed() {
    let lab = TestLab::new();
    lab.create(
        "a",
        "networking: {podSubnet: 10.10.0.0/16, serviceSubnet: 10.11.0.0/16}\n",
        "embedded",
    );
    lab.create(
        "b",
        "networking: {podSubnet: 10.20.0.0/16, serviceSubnet: 10.21.0.0/16}\n",
        "embedded",
    );
    let on_a = |command: &[&str]| {
        lab.run(&[&["lab", "container", "exec", "a-control-plane"], command].concat())
    };
    let routes = || {
        let routes = text(&on_a(&["ip", "route"]).stdout);
        let to_b =
            routes.lines().filter(|line| line.contains("10.2")).map(|line| line.trim().to_owned());
        to_b.collect::<Vec<_>>()
    };
    assert_eq!(routes(), Vec::<String>::new());
    lab.ok(&["lab", "route", "add", "a", "b"]);
    let joined = ["10.20.0.0/16 via 172.18.0.3 dev eth0", "10.21.0.0/16 via 172.18.0.3 dev eth0"];
    assert_eq!(routes(), joined);
    lab.ok(&["lab", "route", "delete", "a", "b"]);
    assert_eq!(routes(), Vec::<String>::new());
    // The tutorial's own line.
    on_a(&["ip", "route", "add", "10.20.0.0/16", "via", "172.18.0.3", "dev", "eth0"]);
    assert_eq!(routes(), &joined[..1]);

    let reaches = || {
        let url = "https://172.18.0.3:6443/readyz";
        on_a(&["curl", "--silent", "--insecure", "--max-time", "2", url]).status.success()
    };
    assert!(reaches());
    lab.ok(&["lab", "partition", "a", "b"]);
    assert!(!reaches());
    lab.ok(&["lab", "heal"]);
    assert!(reaches());

    // A connection takes one round trip, half of which is slow now.
    let connect = || {
        let format = "%{time_connect}";
        let url = "https://172.18.0.3:6443/readyz";
        let output =
            on_a(&["curl", "--silent", "--insecure", "-o", "/dev/null", "-w", format, url]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).parse::<f64>().unwrap()
    };
    lab.ok(&["lab", "delay", "b", "--latency", "300"]);
    let slow = connect();
    assert!(slow >= 0.3, "{slow}");
    lab.ok(&["lab", "heal"]);
    eventually("a fast connection", || match connect() {
        fast if fast < 0.3 => Ok(()),
        slow => Err(slow.to_string()),
    });
}

#[test]
fn a_lab_without_root_lives_in_a_user_namespace() {
    let lab = TestLab::new();
    let (home, program) = (lab.path("home"), lab.path("tombolo"));
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_tombolo"), &program).unwrap();
    // The machine's own files stay as they are: a mount namespace of the test's own has others.
    let unprivileged = |ranges: &str, arguments: &[&str]| {
        let file = lab.path("ranges");
        std::fs::write(&file, ranges).unwrap();
        let script = "mount --bind \"$0\" /etc/subuid && mount --bind \"$0\" /etc/subgid && \
             exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&file).arg(&program).args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home).current_dir("/");
        command.process_group(0).output().unwrap()
    };
    let refused = unprivileged("", &["lab", "create", "--name", "c1"]);
    let said = text(&refused.stderr);
    assert!(!refused.status.success());
    assert!(said.contains("/etc/subuid gives user `nobody` no range of subordinate ids"), "{said}");
    assert!(said.contains("usermod --add-subuids"), "{said}");

    let ranges = "nobody:100000:65536\n";
    let created = unprivileged(ranges, &["lab", "create", "--name", "c1", "--wait", "60s"]);
    let said = text(&created.stderr);
    assert!(created.status.success(), "{said}");
    assert!(said.contains("without root this host cannot reach node"), "{said}");
    let ids = "grep -h Uid: /proc/self/status; cat /proc/self/uid_map | wc -l";
    let seen =
        unprivileged(ranges, &["lab", "container", "exec", "c1-control-plane", "sh", "-c", ids]);
    assert_eq!(
        text(&seen.stdout).split_whitespace().collect::<Vec<_>>(),
        ["Uid:", "0", "0", "0", "0", "2"]
    );
    let deleted = unprivileged(ranges, &["lab", "delete", "--name", "c1"]);
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
    eventually("nothing of the lab", || match lab.processes() {
        processes if processes.is_empty() => Ok(()),
        processes => Err(format!("{processes:?}")),
    });
}

#[test]
fn bad_input_is_refused_before_anything_is_made() {
    let lab = TestLab::new();
    let bad_subnet = lab.config("c1", "networking:\n  podSubnet: 10.10.0.0/33\n");
    let unknown = lab.config("c2", "nodez: []\n");
    let fine = lab.config("c3", "");
    let missing = lab.path("missing.yaml").display().to_string();
    let cases: [&[&str]; 7] = [
        &["lab", "create", "--config", &bad_subnet],
        &["lab", "create", "--config", &unknown],
        &["lab", "create", "--config", &missing],
        &["lab", "create", "--config", &fine, "--load-balancer-pool", "10.0.0.0/24"],
        &["lab", "create", "--config", &fine, "--api-server", "real"],
        &["lab", "inspect", "no-such-node"],
        &["lab", "get", "kubeconfig", "--name", "none"],
    ];
    let folder = lab.path("").display().to_string();
    let told: String = cases.iter().map(|case| lab.fails(case).replace(&folder, "DIR/")).collect();
    insta::assert_snapshot!(told);
    // Neither a supervisor nor a cluster came of it.
    assert_eq!(lab.supervisor(), None);
    assert!(!lab.lab_folder().join("clusters").exists());
}

#[test]
fn a_machine_without_nft_or_real_kubernetes_is_told_what_to_install() {
    let lab = TestLab::new();
    let nowhere = lab.path("empty");
    std::fs::create_dir(&nowhere).unwrap();
    let mut command = lab.command(&["lab", "create", "--name", "c1", "--api-server", "kubernetes"]);
    command.env("KUBEBUILDER_ASSETS", &nowhere).env("PATH", &nowhere).current_dir(&nowhere);
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("are not together in any of"), "{said}");
    assert!(said.contains("set KUBEBUILDER_ASSETS"), "{said}");
    // Without the tools of the system: a root file system that has none of them.
    let script = "mount -t tmpfs none /usr/sbin && mount -t tmpfs none /sbin && exec \"$0\" lab create --name c1";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_tombolo")])
        .env("TOMBOLO_LAB_DIR", lab.lab_folder())
        .env("KUBECONFIG", lab.path("kubeconfig"))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains(
            "program `nft` is not installed: install it, on Debian with `apt-get install nftables`"
        ),
        "{said}"
    );
    assert_eq!(lab.supervisor(), None);
}

#[tokio::test]
async fn called_as_kind_it_has_kinds_grammar() {
    let lab = TestLab::new();
    let kind = |arguments: &[&str]| {
        let mut command = lab.command(arguments);
        command.arg0("kind");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let config = lab.config("from-file", "");
    let (_, said) = kind(&["create", "cluster", "--config", &config, "--name", "k1"]);
    assert!(said.starts_with("Creating cluster \"k1\" ...\n"), "{said}");
    assert!(said.contains(" ✓ Preparing nodes 📦\n"), "{said}");
    assert!(said.contains("Set kubectl context to \"kind-k1\"\n"), "{said}");
    kind(&["create", "cluster", "--quiet", "--name", "k2"]);
    assert_eq!(kind(&["get", "clusters"]).0, "k1\nk2\n");
    assert_eq!(kind(&["get", "nodes", "--name", "k2"]).0, "k2-control-plane\n");
    let other = lab.path("other").display().to_string();
    kind(&["export", "kubeconfig", "--name", "k1", "--kubeconfig", &other]);
    let logs = lab.path("logs").display().to_string();
    assert_eq!(kind(&["export", "logs", "--name", "k1", &logs]).0, format!("{logs}\n"));
    assert!(lab.path("logs/api-server.log").exists());
    kind(&["delete", "cluster", "--name", "no-such"]);
    let (_, said) = kind(&["delete", "clusters", "--all"]);
    assert!(said.ends_with("Deleted clusters: [\"k1\", \"k2\"]\n"), "{said}");
    let (_, said) = kind(&["get", "clusters"]);
    assert_eq!(said, "No kind clusters found.\n");
    // Both files that held the first cluster's entries are clean.
    assert!(!std::fs::read_to_string(other).unwrap().contains("k1"));
    assert!(!lab.kubeconfig().contains("k1"));
}
