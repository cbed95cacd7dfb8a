//! Who shows a wrong identity is refused, at every door of a mesh: workloads, gateways, the
//! certificate service and xDS. Each refusal has a twin that differs only in the identity and is
//! let in. Needs root.
//!
//! Both clusters of this mesh have the same pod and service subnets.

#![cfg(test)]

#[path = "lab/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;

#[path = "mesh/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod mesh;

use std::fs::File;
use std::net::SocketAddr;
use std::process::Command;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use mesh::{Mesh, example, own_network};
use nix::sched::CloneFlags;
use serde_json::json;
use support::{eventually, eventually_async};
use tokio_stream::once;
use tombolo_tls::identity::Identity;
use tombolo_tls::key::{KeyKind, PrivateKey};
use tombolo_tls::roots::Roots;
use tombolo_xds::channel::Target;
use tombolo_xds::proto::envoy::config::core::v3::Node;
use tombolo_xds::proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tombolo_xds::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tombolo_xds::proto::google::protobuf::{Struct, Value as Proto, value};
use tombolo_xds::proto::istio::v1::auth::IstioCertificateRequest;
use tombolo_xds::proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::{Code, Request, Status};

/// The name by which a client of one network asks another's gateway for `helloworld`.
const EXPORTED: &str = "outbound_.5000_._.helloworld.sample.svc.cluster.local";

struct Scene {
    mesh: Mesh,
}

#[tokio::test]
async fn wrong_identities_are_refused_at_every_door() {
    own_network();
    let same = example("multi-primary-multi-network")
        .replace("10.20.0.0/16", "10.10.0.0/16")
        .replace("10.21.0.0/16", "10.11.0.0/16");
    // Up and verified: equal addresses on separate networks do not get in each other's way.
    let scene = Scene { mesh: Mesh::up(&same, &[]) };
    for check in scene.mesh.report["checks"].as_array().unwrap() {
        assert_eq!(check["path"], "gateway");
        assert_eq!(check["answers"].as_array().unwrap().len(), 2, "{check:#}");
    }
    scene.make_certificates();
    scene.workloads_refuse().await;
    scene.gateways_refuse().await;
    scene.certificates_are_refused().await;
    scene.configuration_is_refused().await;
    scene.mesh.end();
}

impl Scene {
    /// Two certificates for the same identity: `mesh` of the mesh's root, `other` of another one.
    fn make_certificates(&self) {
        let root = self.mesh.lab.path("state/tombolo/mesh/mesh1");
        let script = "
            set -e
            printf 'basicConstraints=critical,CA:false\\nkeyUsage=critical,digitalSignature\\nextendedKeyUsage=clientAuth,serverAuth\\nsubjectAltName=critical,URI:spiffe://cluster.local/ns/sample/sa/sleep\\n' > ext
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj '/O=Other/CN=Root CA' -keyout other-root.key -out other-root.pem
            for of in mesh other; do
              openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -keyout $of.key -out $of.csr
            done
            openssl x509 -req -days 1 -in other.csr -CA other-root.pem -CAkey other-root.key -CAcreateserial -extfile ext -out other.pem
            openssl x509 -req -days 1 -in mesh.csr -CA \"$0/root-cert.pem\" -CAkey \"$0/root-key.pem\" -CAcreateserial -CAserial serial -extfile ext -out mesh.pem
        ";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(root).current_dir(self.mesh.lab.path(""));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
    }

    /// One HTTP request over TLS from cluster01's node, which is no part of the mesh. `identity`
    /// is a certificate's name, or nothing.
    fn over_tls(&self, to: &str, name: &str, protocol: &str, identity: Option<&str>) -> String {
        let folder = self.mesh.lab.path("").display().to_string();
        let shown =
            identity.map(|name| format!("-cert {folder}{name}.pem -key {folder}{name}.key"));
        let server_name = if name.is_empty() {
            "-noservername".to_owned()
        } else {
            format!("-servername {name}")
        };
        let script = format!(
            "printf 'GET /hello HTTP/1.1\\r\\nHost: helloworld.sample:5000\\r\\nConnection: close\\r\\n\\r\\n' | \
             timeout 5 openssl s_client -quiet -connect {to} {server_name} -alpn {protocol} {}",
            shown.unwrap_or_default()
        );
        self.mesh.on_node("cluster01", &["sh", "-c", &script]).1
    }

    /// One HTTP request without TLS from cluster01's node.
    fn plainly(&self, to: &str) -> (bool, String) {
        let url = format!("http://{to}/hello");
        self.mesh
            .on_node("cluster01", &["curl", "--silent", "--show-error", "--max-time", "5", &url])
    }

    async fn workloads_refuse(&self) {
        let pod = self.mesh.pod("cluster01", "sample", "app=helloworld").await;
        let to = format!("{}:5000", pod.status.unwrap().pod_ip.unwrap());
        // Permissive, as Istio is by default: plain text is answered.
        let (answered, said) = self.plainly(&to);
        assert!(answered && said.contains("Hello version: v1"), "{said}");
        self.mesh
            .apply(
                "cluster01",
                json!({
                    "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                    "metadata": {"name": "default", "namespace": "istio-system"},
                    "spec": {"mtls": {"mode": "STRICT"}},
                }),
            )
            .await;
        eventually("plain text to be refused", || {
            let (answered, said) = self.plainly(&to);
            if answered { Err(said) } else { Ok(()) }
        });
        for (identity, protocol) in [
            (None, "istio-http/1.1"),
            (Some("other"), "istio-http/1.1"),
            (Some("other"), "http/1.1"),
        ] {
            let said = self.over_tls(&to, EXPORTED, protocol, identity);
            assert!(!said.contains("Hello"), "{identity:?} {protocol}: {said}");
        }
        let said = self.over_tls(&to, EXPORTED, "istio-http/1.1", Some("mesh"));
        assert!(said.contains("Hello version: v1"), "{said}");
    }

    async fn gateways_refuse(&self) {
        let address = self.mesh.balancer("cluster02").await;
        let to = format!("{address}:15443");
        let istio = "istio-http/1.1";
        let said = self.over_tls(&to, EXPORTED, istio, Some("mesh"));
        assert!(said.contains("Hello version: v2"), "{said}");
        for (name, protocol, identity) in [
            // The gateway lets it pass without looking inside; the workload behind it refuses.
            (EXPORTED, istio, None),
            (EXPORTED, istio, Some("other")),
            // Not a protocol of the mesh.
            (EXPORTED, "http/1.1", Some("mesh")),
            // Nobody's name, another port, a name that only matches a pattern, and none.
            ("outbound_.5000_._.nobody.sample.svc.cluster.local", istio, Some("mesh")),
            ("outbound_.5001_._.helloworld.sample.svc.cluster.local", istio, Some("mesh")),
            ("helloworld.sample.svc.cluster.local", istio, Some("mesh")),
            (
                "outbound_.15012_._.istiod.istio-system.svc.cluster.local.example.org",
                istio,
                Some("mesh"),
            ),
            ("", istio, Some("mesh")),
        ] {
            let said = self.over_tls(&to, name, protocol, identity);
            assert!(!said.contains("Hello"), "`{name}` {protocol} {identity:?}: {said}");
        }
        let (answered, said) = self.plainly(&to);
        assert!(!answered, "{said}");
        // Of its other ports only the one for health answers.
        let health = format!("http://{address}:15021/healthz/ready");
        let (healthy, said) = self.mesh.on_node("cluster01", &["curl", "-sSf", "-m5", &health]);
        assert!(healthy, "{said}");
        for port in [80, 5000, 15000, 15001, 15006, 15010, 15012, 15014, 15017, 15020, 15090] {
            let (answered, said) = self.plainly(&format!("{address}:{port}"));
            assert!(!answered, "port {port}: {said}");
        }
    }

    async fn token(&self, cluster: &str, account: &str, audience: &str) -> String {
        let client = self.mesh.lab.client(cluster).await;
        let api = Api::<ServiceAccount>::namespaced(client, "sample");
        let spec =
            TokenRequestSpec { audiences: Some(vec![audience.into()]), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let token = api.create_token_request(account, &PostParams::default(), &request).await;
        token.unwrap().status.unwrap().token.unwrap()
    }

    /// Where cluster01's control plane listens, and the roots it is trusted by.
    async fn control_plane(&self) -> (SocketAddr, Roots) {
        let pod = self.mesh.pod("cluster01", "istio-system", "app=istiod").await;
        let address = format!("{}:15012", pod.status.unwrap().pod_ip.unwrap());
        let client = self.mesh.lab.client("cluster01").await;
        let api: Api<ConfigMap> = Api::namespaced(client, "sample");
        let roots =
            eventually_async("the mesh's roots", async || api.get("istio-ca-root-cert").await);
        let roots = roots.await.data.unwrap().remove("root-cert.pem").unwrap();
        (address.parse().unwrap(), Roots::from_pem(&roots).unwrap())
    }

    async fn certificates_are_refused(&self) {
        let good = self.token("cluster01", "sleep", "istio-ca").await;
        let away = self.token("cluster02", "sleep", "istio-ca").await;
        let api = self.token("cluster01", "sleep", "https://kubernetes.default.svc").await;
        let asked = "spiffe://cluster.local/ns/sample/sa/helloworld";
        let own = "spiffe://cluster.local/ns/sample/sa/sleep";
        // Whatever is asked for, it is issued for the account of the token.
        for (token, cluster) in [(&good, "cluster01"), (&away, "cluster02")] {
            let issued = self.certificate(asked, token, cluster).await;
            assert_eq!(issued.as_deref().map_err(Status::message), Ok(own), "{cluster}");
        }
        for (what, token, cluster) in [
            ("another audience", &api, "cluster01"),
            ("a token of another cluster", &away, "cluster01"),
            ("a token for another cluster", &good, "cluster02"),
            ("a cluster that nobody knows", &good, "cluster09"),
            ("a token that was changed", &format!("{good}A"), "cluster01"),
            ("no token", &String::new(), "cluster01"),
        ] {
            let refused = self.certificate(own, token, cluster).await;
            let code = refused.as_ref().map_err(Status::code);
            assert_eq!(code, Err(Code::Unauthenticated), "{what}: {refused:?}");
        }
    }

    async fn configuration_is_refused(&self) {
        let token = self.token("cluster01", "sleep", "istio-ca").await;
        for (what, namespace, account, cluster, want) in [
            ("itself", "sample", "sleep", "cluster01", None),
            (
                "another namespace",
                "istio-system",
                "sleep",
                "cluster01",
                Some(Code::PermissionDenied),
            ),
            ("another account", "sample", "helloworld", "cluster01", Some(Code::PermissionDenied)),
            ("another cluster", "sample", "sleep", "cluster02", Some(Code::PermissionDenied)),
        ] {
            let answer = self.configuration(&token, namespace, account, cluster).await;
            assert_eq!(answer.as_ref().err().map(Status::code), want, "{what}: {answer:?}");
        }
    }

    /// Asks for a certificate, and returns the identity it was issued for.
    async fn certificate(&self, id: &str, token: &str, cluster: &str) -> Result<String, Status> {
        let (address, roots) = self.control_plane().await;
        let key = PrivateKey::generate(KeyKind::P256).unwrap();
        let csr = key.request(&id.parse().unwrap()).unwrap();
        let mut request = Request::new(IstioCertificateRequest { csr, ..Default::default() });
        authorize(&mut request, token, cluster);
        self.on_the_node(move || async move {
            let channel = target(address, &roots).connect().await.unwrap();
            let mut client = IstioCertificateServiceClient::new(channel);
            let mut chain = client.create_certificate(request).await?.into_inner().cert_chain;
            chain.pop();
            Ok(Identity::new(&chain.concat(), key).unwrap().id().to_string())
        })
    }

    /// Asks for upstreams as a sidecar that says who it is, and returns how many came.
    async fn configuration(
        &self,
        token: &str,
        namespace: &str,
        account: &str,
        cluster: &str,
    ) -> Result<usize, Status> {
        let (address, roots) = self.control_plane().await;
        let text = |text: &str| Proto { kind: Some(value::Kind::StringValue(text.to_owned())) };
        let metadata =
            [("CLUSTER_ID", cluster), ("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), text(value)));
        let id = format!("sidecar~10.10.0.99~probe.{namespace}~{namespace}.svc.cluster.local");
        let node =
            Node { id, metadata: Some(Struct { fields: metadata.into() }), ..Node::default() };
        let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        let first = DeltaDiscoveryRequest { node: Some(node), type_url, ..Default::default() };
        let mut request = Request::new(once(first));
        authorize(&mut request, token, "cluster01");
        self.on_the_node(move || async move {
            let channel = target(address, &roots).connect().await.unwrap();
            let mut client = AggregatedDiscoveryServiceClient::new(channel);
            let mut answers = client.delta_aggregated_resources(request).await?.into_inner();
            Ok(answers.message().await?.map_or(0, |answer| answer.resources.len()))
        })
    }

    /// Does something from the network of cluster01's node, from which its pods are reached.
    fn on_the_node<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let agents = self.mesh.lab.processes().into_iter();
        let mut agent =
            agents.filter(|(_, line)| line.contains("--node-name cluster01-control-plane"));
        let (pid, _) = agent.next().expect("the node's agent runs");
        let network = File::open(mesh::network_of(pid)).unwrap();
        let thread = std::thread::spawn(move || {
            nix::sched::setns(&network, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work())
        });
        thread.join().unwrap()
    }
}

fn target(address: SocketAddr, roots: &Roots) -> Target {
    Target {
        address: address.to_string(),
        tls: Some(tombolo_tls::serving::client(roots, None, &[b"h2"]).unwrap()),
        server_name: Some("istiod.istio-system.svc".into()),
    }
}

fn authorize<T>(request: &mut Request<T>, token: &str, cluster: &str) {
    let metadata = request.metadata_mut();
    metadata.insert("clusterid", cluster.parse().unwrap());
    if !token.is_empty() {
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
}
