//! A real etcd and kube-apiserver on loopback, with keys like ours. Killed when dropped.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::harness::{Pki, client, eventually, program};

/// The real thing.
pub struct Real {
    pki: Pki,
    _children: Vec<Child>,
}

impl Real {
    /// Starts both programs and waits until the API is ready.
    pub async fn start() -> Self {
        let pki = Pki::new();
        let [etcd, peer, port] = [free_port(), free_port(), free_port()];
        let local = |port: u16| format!("http://127.0.0.1:{port}");
        let store = spawn(
            &pki,
            "etcd",
            &[
                ("data-dir", pki.path("etcd").display().to_string()),
                ("unsafe-no-fsync", "true".to_owned()),
                ("log-level", "warn".to_owned()),
                ("listen-client-urls", local(etcd)),
                ("advertise-client-urls", local(etcd)),
                ("listen-peer-urls", local(peer)),
                ("initial-advertise-peer-urls", local(peer)),
                ("initial-cluster", format!("default={}", local(peer))),
            ],
        );
        let file = |name: &str| pki.path(name).display().to_string();
        let server = spawn(
            &pki,
            "kube-apiserver",
            &[
                ("etcd-servers", local(etcd)),
                ("bind-address", "127.0.0.1".to_owned()),
                ("advertise-address", "127.0.0.1".to_owned()),
                ("endpoint-reconciler-type", "none".to_owned()),
                ("secure-port", port.to_string()),
                ("tls-cert-file", file("apiserver.crt")),
                ("tls-private-key-file", file("apiserver.key")),
                ("client-ca-file", file("ca.crt")),
                ("service-cluster-ip-range", "10.11.0.0/16".to_owned()),
                (
                    "service-account-issuer",
                    "https://kubernetes.default.svc.cluster.local".to_owned(),
                ),
                ("service-account-key-file", file("sa.pub")),
                ("service-account-signing-key-file", file("sa.key")),
                ("authorization-mode", "Node,RBAC".to_owned()),
                ("allow-privileged", "true".to_owned()),
                ("profiling", "false".to_owned()),
            ],
        );
        let url = format!("https://127.0.0.1:{port}");
        pki.kubeconfig("admin", &url, None);
        pki.kubeconfig("jane", &url, None);
        let real = Self { pki, _children: vec![store, server] };
        let admin = real.client("admin").await;
        eventually("the real API server is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            admin.request_text(request).await.is_ok()
        })
        .await;
        real
    }

    pub async fn client(&self, user: &str) -> kube::Client {
        client(&self.pki.path(&format!("{user}.kubeconfig"))).await
    }
}

fn spawn(pki: &Pki, name: &str, flags: &[(&str, String)]) -> Child {
    let program: PathBuf = program(name).expect("checked by needs");
    let log = std::fs::File::create(pki.path(&format!("{name}.log"))).unwrap();
    Command::new(program)
        .args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A port that was free a moment ago; the programs cannot be told to pick one.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
