//! The certificate Makefiles and the gateway's script, called as the tutorial calls them: real
//! `make` runs them, real `openssl` judges what they make.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use support::{TestLab, eventually_async, text};
use tempfile::TempDir;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `make`, as from a shell: the tests may run below another one, which would speak into it.
fn make() -> Command {
    let mut make = Command::new("make");
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    make
}

/// A folder in which certificates are made.
struct Certs {
    folder: TempDir,
}

impl Certs {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make(&self, makefile: &str, arguments: &[&str]) -> Output {
        make()
            .arg("-f")
            .arg(repository().join("tools/certs").join(makefile))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("TOMBOLO", env!("CARGO_BIN_EXE_tombolo"))
            .output()
            .expect("make is installed (Debian package make)")
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.make("Makefile.selfsigned.mk", arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        for secret in ["PRIVATE", "BEGIN"] {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout}{stderr}");
        }
        stdout
    }

    #[track_caller]
    fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed (Debian package openssl)");
        assert!(output.status.success(), "openssl {arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Asserts every line about a certificate that Istio's documentation gives.
    #[track_caller]
    fn shows(&self, certificate: &str, lines: &[&str]) -> String {
        let shown = self.openssl(&format!("x509 -noout -text -in {certificate}"));
        let shown: Vec<_> = shown.lines().map(str::trim).collect();
        let shown = shown.join("\n");
        for line in lines {
            assert!(shown.contains(line), "{certificate}: no `{line}` in\n{shown}");
        }
        shown
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap().map(Result::unwrap);
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const AUTHORITY: &str = "X509v3 Key Usage: critical\nDigital Signature, Non Repudiation, Key Encipherment, Certificate Sign\n";

#[test]
fn the_tutorials_commands_make_what_istio_documents() {
    let certs = Certs::new();
    certs.ok(&["root-ca"]);
    assert_eq!(
        certs.names("."),
        ["root-ca.conf", "root-cert.csr", "root-cert.pem", "root-key.pem"]
    );
    certs.ok(&["-j", "cluster01-cacerts", "cluster02-cacerts", "foo-certs"]);
    let root = certs.shows(
        "root-cert.pem",
        &[
            "Signature Algorithm: sha256WithRSAEncryption",
            "Issuer: O = Istio, CN = Root CA\n",
            "Subject: O = Istio, CN = Root CA\n",
            "Public-Key: (4096 bit)",
            "X509v3 Subject Key Identifier:",
            "X509v3 Basic Constraints: critical\nCA:TRUE\n",
            AUTHORITY,
        ],
    );
    assert!(!root.contains("Alternative Name") && !root.contains("Extended"), "{root}");
    for cluster in ["cluster01", "cluster02"] {
        let names = [
            "ca-cert.pem",
            "ca-key.pem",
            "cert-chain.pem",
            "cluster-ca.csr",
            "intermediate.conf",
            "root-cert.pem",
        ];
        assert_eq!(certs.names(cluster), names);
        certs.shows(
            &format!("{cluster}/ca-cert.pem"),
            &[
                "Signature Algorithm: sha256WithRSAEncryption",
                "Issuer: O = Istio, CN = Root CA\n",
                &format!("Subject: O = Istio, CN = Intermediate CA, L = {cluster}\n"),
                "Public-Key: (4096 bit)",
                "X509v3 Basic Constraints: critical\nCA:TRUE, pathlen:0\n",
                AUTHORITY,
                "X509v3 Subject Alternative Name:\nDNS:istiod.istio-system.svc\n",
            ],
        );
    }
    certs.shows(
        "foo/workload-cert.pem",
        &[
            "Signature Algorithm: sha256WithRSAEncryption",
            "Issuer: O = Istio, CN = Intermediate CA, L = foo\n",
            "Subject: O = Istio, CN = Workload, L = foo\n",
            "X509v3 Basic Constraints: critical\nCA:FALSE\n",
            "X509v3 Key Usage:\nDigital Signature, Key Encipherment\n",
            "X509v3 Extended Key Usage:\nTLS Web Server Authentication, TLS Web Client Authentication\n",
            "X509v3 Subject Alternative Name:\nURI:spiffe://cluster.local/ns/foo/sa/default\n",
        ],
    );
    for (certificate, days) in
        [("root-cert.pem", 3650), ("cluster01/ca-cert.pem", 3650), ("foo/workload-cert.pem", 1)]
    {
        let check = |seconds: i64| {
            let status = Command::new("openssl")
                .args(["x509", "-noout", "-checkend", &seconds.to_string(), "-in", certificate])
                .current_dir(certs.folder.path())
                .output()
                .unwrap();
            status.status.success()
        };
        let end = days * 86_400;
        assert!(check(end - 600) && !check(end + 600), "{certificate} counts {days} days");
    }
    for (arguments, certificate) in [
        ("-CAfile root-cert.pem", "root-cert.pem"),
        ("-CAfile cluster01/root-cert.pem", "cluster01/ca-cert.pem"),
        ("-CAfile root-cert.pem", "cluster02/cert-chain.pem"),
        ("-CAfile root-cert.pem -untrusted foo/ca-cert.pem", "foo/workload-cert.pem"),
    ] {
        let verified = certs.openssl(&format!("verify {arguments} {certificate}"));
        assert_eq!(verified, format!("{certificate}: OK\n"));
    }
    for key in ["root-key.pem", "cluster01/ca-key.pem", "foo/ca-key.pem", "foo/key.pem"] {
        let mode = fs::metadata(certs.path(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
        certs.openssl(&format!("rsa -check -noout -in {key}"));
    }
    assert_eq!(
        certs.ok(&["root-ca", "cluster01-cacerts", "foo-certs"]),
        "",
        "nothing is made twice"
    );
    certs.ok(&["clean"]);
    assert_eq!(certs.names("."), ["cluster01", "cluster02", "foo"]);
    certs.ok(&["clean"]);
}

#[test]
fn every_variable_counts() {
    let certs = Certs::new();
    certs.ok(&[
        "vm-cacerts",
        "bar-certs",
        "ROOTCA_DAYS=30",
        "ROOTCA_KEYSZ=2048",
        "ROOTCA_ORG=My Org, Inc.",
        "ROOTCA_CN=My Root",
        "INTERMEDIATE_DAYS=20",
        "INTERMEDIATE_KEYSZ=2048",
        "INTERMEDIATE_ORG=Other",
        "INTERMEDIATE_CN=Middle",
        "INTERMEDIATE_SAN_DNS=istiod.mesh.svc",
        "WORKLOAD_DAYS=3",
        "WORKLOAD_CN=Machine",
        "SERVICE_ACCOUNT=vm",
    ]);
    let size = "Public-Key: (2048 bit)";
    certs.shows("root-cert.pem", &["Subject: O = \"My Org, Inc.\", CN = My Root\n", size]);
    certs.shows(
        "vm/ca-cert.pem",
        &["Subject: O = Other, CN = Middle, L = vm\n", size, "DNS:istiod.mesh.svc\n"],
    );
    certs.shows(
        "bar/workload-cert.pem",
        &[
            "Subject: O = Other, CN = Machine, L = bar\n",
            size,
            "URI:spiffe://cluster.local/ns/bar/sa/vm\n",
        ],
    );
    let refused = |argument: &str, want: &str| {
        let output = certs.make("Makefile.selfsigned.mk", &["baz-certs", argument]);
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains(want), "{argument}: {stderr}");
        assert!(!certs.path("baz").exists(), "{argument}: nothing is left behind");
    };
    refused("INTERMEDIATE_KEYSZ=1024", "2048, 3072 or 4096");
    refused("INTERMEDIATE_DAYS=0", "0 days");
    refused("WORKLOAD_DAYS=x", "--workload-days");
    refused("WORKLOAD_CN=", "1 to 64");
    refused("SERVICE_ACCOUNT=a/b", "service account `a/b`");
    refused("INTERMEDIATE_SAN_DNS=a b", "`a b` is not a DNS name");
}

#[test]
fn a_missing_program_is_named_with_the_ways_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["common.mk", "Makefile.selfsigned.mk"] {
        fs::copy(repository().join("tools/certs").join(name), folder.path().join(name)).unwrap();
    }
    let script = folder.path().join("gen-eastwest-gateway.sh");
    fs::copy(repository().join("samples/multicluster/gen-eastwest-gateway.sh"), &script).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder.path());
        command.env_remove("TOMBOLO").env("PATH", "/usr/bin:/bin");
        command.output().unwrap()
    };
    let make = run("make", &["-f", "Makefile.selfsigned.mk", "root-ca"]);
    let gateway = run("sh", &["gen-eastwest-gateway.sh", "--network", "network1"]);
    for output in [make, gateway] {
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains("TOMBOLO=PATH"), "{stderr}");
    }
    assert!(run("make", &["-f", "Makefile.selfsigned.mk"]).status.success(), "help needs nothing");
}

#[test]
fn the_gateways_script_prints_what_the_command_prints() {
    let script = repository().join("samples/multicluster/gen-eastwest-gateway.sh");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        command.args(arguments).env("TOMBOLO", env!("CARGO_BIN_EXE_tombolo"));
        command.output().unwrap()
    };
    let whole = ["--mesh", "mesh1", "--cluster", "cluster01", "--network", "network1"];
    for arguments in [&whole[..], &["--single-cluster"], &["--network", "n", "--revision", "r"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        let printed = command.arg("eastwest-gateway").args(arguments).output().unwrap();
        let output = run(arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(text(&output.stdout), text(&printed.stdout), "{arguments:?}");
    }
    for arguments in [&["--other"][..], &["--network"], &[], &["--network", "n", "word"]] {
        let output = run(arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_root_of_a_cluster_is_fetched_and_signs() {
    let lab = TestLab::new();
    lab.create("c1", "", "embedded");
    let client = lab.client("c1").await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"metadata": {"name": "mesh"}});
    let namespace = serde_json::from_value(namespace).unwrap();
    eventually_async("the namespace", async || {
        namespaces.create(&PostParams::default(), &namespace).await
    })
    .await;
    let certs = Certs::new();
    let run = |target: &str, namespace: &str| {
        let mut command = make();
        command.arg("-f").arg(repository().join("tools/certs/Makefile.k8s.mk"));
        command.args([target, &format!("ISTIO_NAMESPACE={namespace}"), "INTERMEDIATE_KEYSZ=2048"]);
        command.current_dir(certs.folder.path()).env("TOMBOLO", env!("CARGO_BIN_EXE_tombolo"));
        command.env("KUBECONFIG", lab.path("kubeconfig")).output().unwrap()
    };
    let failed = run("fetch-root-ca", "mesh");
    let stderr = text(&failed.stderr);
    assert!(!failed.status.success(), "{stderr}");
    assert!(
        stderr.contains("Secret/mesh/istio-ca-secret") && stderr.contains("kind-c1"),
        "{stderr}"
    );

    // As `cacerts` holds a plugged-in root, and as a control plane keeps one that it made itself.
    let secrets: Api<Secret> = Api::namespaced(client, "mesh");
    for (secret, name) in [("cacerts", "Plugged"), ("istio-ca-secret", "Own")] {
        certs.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca-cert.pem -days 10 -subj /O={name} -addext keyUsage=critical,keyCertSign"
        ));
        let read = |name: &str| fs::read_to_string(certs.path(name)).unwrap();
        let object = json!({
            "metadata": {"name": secret},
            "stringData": {"ca-cert.pem": read("ca-cert.pem"), "ca-key.pem": read("ca-key.pem")},
        });
        let object = serde_json::from_value(object).unwrap();
        secrets.create(&PostParams::default(), &object).await.unwrap();
        let output = run("fetch-root-ca", "mesh");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{stderr}");
        assert!(stdout.contains(&format!("Secret/mesh/{secret}")), "{stdout}");
        assert!(!stdout.contains("BEGIN"), "{stdout}");
        assert_eq!(read("kind-c1/k8s-root-cert.pem"), read("ca-cert.pem"));
        assert_eq!(read("kind-c1/k8s-root-key.pem"), read("ca-key.pem"));
        let key = fs::metadata(certs.path("kind-c1/k8s-root-key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
    // A root that is not there is fetched on the way.
    fs::remove_dir_all(certs.path("kind-c1")).unwrap();
    for target in ["cluster02-cacerts", "vm-certs"] {
        let output = run(target, "mesh");
        assert!(output.status.success(), "{target}: {}", text(&output.stderr));
    }
    certs.shows("cluster02/ca-cert.pem", &["Issuer: O = Own\n", "L = cluster02\n"]);
    let verified = certs
        .openssl("verify -CAfile k8s-root-cert.pem -untrusted vm/ca-cert.pem vm/workload-cert.pem");
    assert_eq!(verified, "vm/workload-cert.pem: OK\n");
}
