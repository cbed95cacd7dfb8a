//! Per code: one set of objects that brings its message, one that does not.

use super::*;
use crate::analyze::world::ClusterObjects;
use crate::object::read_manifest;

/// A mesh in order, which every case changes a little.
const GOOD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: sample, labels: {istio-injection: enabled}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}
---
apiVersion: v1
kind: Service
metadata: {name: helloworld, namespace: sample}
spec: {clusterIP: 10.11.0.9, selector: {app: helloworld}, ports: [{name: http, port: 5000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: helloworld-v1, namespace: sample, labels: {app: helloworld, version: v1}}
spec: {containers: [{name: helloworld}, {name: istio-proxy}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gateway-1, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: istio-proxy, image: tombolo}]}
---
apiVersion: v1
kind: Service
metadata: {name: gateway, namespace: istio-system}
spec: {selector: {istio: ingressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]}
---
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system}
spec: {ports: [{name: https-webhook, port: 443}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: sample}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['hello.example.org']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello, namespace: sample}
spec:
  hosts: [hello.example.org]
  gateways: [edge]
  http:
  - {match: [{uri: {prefix: /v1}}], route: [{destination: {host: helloworld, subset: v1}}]}
  - {route: [{destination: {host: helloworld}}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello, namespace: sample}
spec: {host: helloworld, subsets: [{name: v1, labels: {version: v1}}]}
";

fn cluster(name: &str, text: &str) -> ClusterObjects {
    ClusterObjects {
        name: name.to_owned(),
        objects: read_manifest(text).unwrap(),
        unread: Vec::new(),
    }
}

fn world(clusters: Vec<ClusterObjects>) -> World {
    World { clusters, system: "istio-system".to_owned(), ..World::default() }
}

fn lines(world: &World) -> Vec<String> {
    analyze(world).iter().map(ToString::to_string).collect()
}

/// Adds objects to the good mesh; what has the same name is replaced.
fn with(more: &str) -> Vec<String> {
    let mut world = world(vec![cluster("cluster01", GOOD)]);
    let more = read_manifest(more).unwrap();
    let more = more.into_iter().map(|object| (object, String::new())).collect();
    collect::lay_over(&mut world, more, "sample");
    lines(&world)
}

#[track_caller]
fn only(found: &[String], code: &str, object: &str) {
    assert!(!found.is_empty(), "nothing found");
    for line in found {
        assert!(line.contains(&format!("[{code}] ({object})")), "{line}");
    }
}

#[test]
fn a_mesh_in_order_has_no_messages() {
    assert_eq!(with(""), [""; 0]);
}

#[test]
fn every_code_is_listed_once_per_analyzer_and_tested_here() {
    let tests = include_str!("tests.rs");
    for analyzer in ANALYZERS {
        for code in analyzer.codes {
            assert!(tests.contains(&format!("\"{code}\"")), "{code} has no test");
        }
    }
}

#[test]
fn namespaces_and_pods_that_are_not_injected() {
    let bare = "{apiVersion: v1, kind: Namespace, metadata: {name: sample}}";
    only(&with(bare), "IST0102", "Namespace sample");
    let off = "{apiVersion: v1, kind: Namespace, metadata: {name: sample, labels: {istio-injection: disabled}}}";
    assert_eq!(with(off), [""; 0]);
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: bare, labels: {app: x}}, spec: {containers: [{name: a}]}}";
    only(&with(pod), "IST0103", "Pod sample/bare");
    let out = "{apiVersion: v1, kind: Pod, metadata: {name: bare, labels: {sidecar.istio.io/inject: 'false'}}, spec: {containers: [{name: a}]}}";
    assert_eq!(with(out), [""; 0]);
    let both = "{apiVersion: v1, kind: Namespace, metadata: {name: sample, labels: {istio-injection: enabled, istio.io/rev: canary}}}";
    only(&with(both), "IST0123", "Namespace sample");
}

#[test]
fn images_that_only_injection_replaces() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: gw}, spec: {containers: [{name: istio-proxy, image: auto}]}}";
    only(&with(pod), "IST0147", "Pod sample/gw");
    let deployment = |namespace: &str, labels: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: gw, namespace: {namespace}}}, spec: {{template: {{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: istio-proxy, image: auto}}]}}}}}}}}"
        )
    };
    only(&with(&deployment("istio-system", "{}")), "IST0146", "Deployment istio-system/gw");
    assert_eq!(with(&deployment("istio-system", "{sidecar.istio.io/inject: 'true'}")), [""; 0]);
    assert_eq!(with(&deployment("sample", "{}")), [""; 0]);
}

#[test]
fn services_and_their_ports() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: odd}, spec: {ports: [{name: odd, port: 80}]}}";
    only(&with(service), "IST0118", "Service sample/odd");
    let known = "{apiVersion: v1, kind: Service, metadata: {name: odd}, spec: {ports: [{name: odd, port: 80, appProtocol: http}, {name: http-x, port: 81}]}}";
    assert_eq!(with(known), [""; 0]);
    let twice = |protocol: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a}}, spec: {{template: {{metadata: {{labels: {{app: helloworld}}}}}}}}}}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: other}}, spec: {{selector: {{app: helloworld}}, ports: [{{name: {protocol}, port: 5000}}]}}}}"
        )
    };
    only(&with(&twice("tcp")), "IST0116", "Deployment sample/a");
    assert_eq!(with(&twice("http")), [""; 0]);
    let entry = |spec: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e}}, spec: {{hosts: [e.example.org], {spec}}}}}"
        )
    };
    let tcp = "ports: [{number: 9000, name: tcp, protocol: TCP}], resolution: NONE";
    only(&with(&entry(tcp)), "IST0134", "ServiceEntry sample/e");
    assert_eq!(with(&entry(&format!("addresses: [10.9.0.0/16], {tcp}"))), [""; 0]);
}

#[test]
fn gateways_that_nothing_leads_to() {
    let gateway = |selector: &str, port: u16, tls: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: second}}, spec: {{selector: {selector}, servers: [{{port: {{number: {port}, name: p, protocol: HTTPS}}, hosts: [x.example.org]{tls}}}]}}}}"
        )
    };
    let passthrough = ", tls: {mode: PASSTHROUGH}";
    let good = gateway("{istio: ingressgateway}", 443, passthrough);
    assert_eq!(with(&good), [""; 0]);
    only(&with(&gateway("{istio: none}", 443, passthrough)), "IST0101", "Gateway sample/second");
    let closed = gateway("{istio: ingressgateway}", 9443, passthrough);
    only(&with(&closed), "IST0162", "Gateway sample/second");
    let secret =
        gateway("{istio: ingressgateway}", 443, ", tls: {mode: ISTIO_MUTUAL, credentialName: c}");
    let found = with(&secret);
    assert!(
        found.iter().any(|it| it.contains("[IST0101]") && it.contains("secret c")),
        "{found:?}"
    );
    let same = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: second}, spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [hello.example.org]}]}}";
    let found = with(same);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|line| line.contains("IST0145")), "{found:?}");
    assert!(include_str!("tests.rs").contains("\"IST0145\""));
}

fn virtual_service(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: second}}, spec: {spec}}}"
    )
}

#[test]
fn virtual_services_that_lead_nowhere() {
    let route = |destination: &str| {
        with(&virtual_service(&format!(
            "{{hosts: [a.example.org], http: [{{route: [{{destination: {destination}}}]}}]}}"
        )))
    };
    let object = "VirtualService sample/second";
    assert_eq!(route("{host: helloworld}"), [""; 0]);
    assert_eq!(route("{host: helloworld.sample.svc.cluster.local, subset: v1}"), [""; 0]);
    only(&route("{host: nobody}"), "IST0101", object);
    only(&route("{host: helloworld, subset: v9}"), "IST0101", object);
    only(&route("{host: gateway.istio-system.svc.cluster.local}"), "IST0112", object);
    assert_eq!(
        route("{host: gateway.istio-system.svc.cluster.local, port: {number: 80}}"),
        [""; 0]
    );
    let named = |gateways: &str, host: &str| {
        with(&virtual_service(&format!(
            "{{hosts: [{host}], gateways: {gateways}, http: [{{route: [{{destination: {{host: helloworld}}}}]}}]}}"
        )))
    };
    only(&named("[nobody]", "b.example.org"), "IST0101", object);
    only(&named("[sample/edge]", "b.example.org"), "IST0132", object);
    assert_eq!(named("[sample/edge]", "hello.example.org"), [""; 0]);
}

#[test]
fn virtual_services_that_are_not_reached() {
    let object = "VirtualService sample/second";
    let to = "route: [{destination: {host: helloworld}}]";
    let routes =
        |list: &str| with(&virtual_service(&format!("{{hosts: [a.example.org], http: [{list}]}}")));
    assert_eq!(routes(&format!("{{match: [{{uri: {{exact: /a}}}}], {to}}}, {{{to}}}")), [""; 0]);
    only(
        &routes(&format!("{{{to}}}, {{match: [{{uri: {{exact: /a}}}}], {to}}}")),
        "IST0130",
        object,
    );
    let twice = format!(
        "{{match: [{{uri: {{exact: /a}}}}], {to}}}, {{match: [{{uri: {{exact: /a}}}}, {{uri: {{exact: /b}}}}], {to}}}"
    );
    only(&routes(&twice), "IST0131", object);
    let third = virtual_service(&format!("{{hosts: [a.example.org], http: [{{{to}}}]}}"));
    let found = with(&format!("{third}\n---\n{}", third.replace("second", "third")));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|line| line.contains("[IST0109]")), "{found:?}");
    let apart = third
        .replace("hosts:", "exportTo: ['.'], hosts:")
        .replace("second", "third, namespace: other");
    let found =
        with(&format!("{}\n---\n{apart}", third.replace("hosts:", "exportTo: ['.'], hosts:")));
    assert!(!found.iter().any(|line| line.contains("IST0109")), "{found:?}");
    assert!(include_str!("tests.rs").contains("\"IST0109\""));
}

#[test]
fn destination_rules_without_effect_or_verification() {
    let rule = |spec: &str| {
        with(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: second}}, spec: {spec}}}"
        ))
    };
    let object = "DestinationRule sample/second";
    only(&rule("{host: helloworld, trafficPolicy: {tls: {mode: SIMPLE}}}"), "IST0128", object);
    only(
        &rule(
            "{host: helloworld, trafficPolicy: {portLevelSettings: [{port: {number: 1}, tls: {mode: MUTUAL, clientCertificate: /a, privateKey: /b}}]}}",
        ),
        "IST0129",
        object,
    );
    let good = "{host: helloworld, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /a}}}";
    assert_eq!(rule(good), [""; 0]);
    assert_eq!(rule("{host: helloworld, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"), [""; 0]);
    only(
        &rule("{host: helloworld, subsets: [{name: v9, labels: {version: v9}}]}"),
        "IST0173",
        object,
    );
    only(&rule("{host: nobody}"), "IST0174", object);
}

#[test]
fn selectors_that_overlap_or_select_nothing() {
    let sidecar = |name: &str, selector: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {{name: {name}}}, spec: {{egress: [{{hosts: ['./*']}}]{selector}}}}}"
        )
    };
    let selecting = ", workloadSelector: {labels: {app: helloworld}}";
    let two = |selector: &str| {
        with(&format!("{}\n---\n{}", sidecar("a", selector), sidecar("b", selector)))
    };
    let found = two(selecting);
    assert_eq!(found.len(), 2, "{found:?}");
    only(&found[..1], "IST0110", "Sidecar sample/a");
    let found = two("");
    assert_eq!(found.len(), 2, "{found:?}");
    only(&found[..1], "IST0111", "Sidecar sample/a");
    assert_eq!(with(&format!("{}\n---\n{}", sidecar("a", selecting), sidecar("b", ""))), [""; 0]);
    let policy = |app: &str| {
        with(&format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {{selector: {{matchLabels: {{app: {app}}}}}}}}}"
        ))
    };
    only(&policy("nobody"), "IST0127", "AuthorizationPolicy sample/p");
    assert_eq!(policy("helloworld"), [""; 0]);
}

#[test]
fn objects_that_cannot_be_read_and_fields_without_effect() {
    let broken = virtual_service("{hosts: 7}");
    only(&with(&broken), "IST0106", "VirtualService sample/second");
    let unknown = virtual_service(
        "{hosts: [a.example.org], nonsense: 1, http: [{route: [{destination: {host: helloworld}}]}]}",
    );
    let found = with(&unknown);
    only(&found, "IST0133", "VirtualService sample/second");
    assert!(found[0].contains("spec.nonsense has no effect"), "{found:?}");
    let filter = "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: f}, spec: {}}";
    only(&with(filter), "IST0133", "EnvoyFilter sample/f");
}

#[test]
fn the_meshs_configuration_is_read_too() {
    let mesh = |mesh: serde_json::Value| {
        let mut world = world(vec![cluster("cluster01", GOOD)]);
        world.mesh = mesh;
        lines(&world)
    };
    let object = "MeshConfig istio-system/istio";
    assert_eq!(mesh(serde_json::json!({"accessLogFile": "/dev/stdout"})), [""; 0]);
    only(&mesh(serde_json::json!({"extensionProviders": [{"name": "a"}]})), "IST0133", object);
    only(&mesh(serde_json::json!({"accessLogEncoding": "XML"})), "IST0106", object);
}

fn webhook(name: &str, revision: &str, service: &str) -> String {
    format!(
        "{{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {{name: {name}, labels: {{istio.io/rev: {revision}}}}}, webhooks: [{{name: namespace.sidecar-injector.istio.io, clientConfig: {{service: {{name: {service}, namespace: istio-system}}}}, namespaceSelector: {{matchLabels: {{istio-injection: enabled}}}}}}]}}"
    )
}

#[test]
fn webhooks_that_overlap_or_lead_nowhere() {
    let one = webhook("istio-sidecar-injector", "default", "istiod");
    assert_eq!(with(&one), [""; 0]);
    let object = "MutatingWebhookConfiguration istio-sidecar-injector";
    only(&with(&webhook("istio-sidecar-injector", "default", "gone")), "IST0139", object);
    let two =
        format!("{one}\n---\n{}", webhook("istio-sidecar-injector-canary", "canary", "istiod"));
    only(&with(&two), "IST0139", object);
    let apart = two.replacen("istio-injection: enabled", "istio.io/rev: canary", 1);
    assert_eq!(with(&apart), [""; 0]);
}

#[test]
fn webhooks_of_a_control_plane_elsewhere() {
    let at =
        |url: &str| {
            with(&webhook("istio-sidecar-injector", "default", "istiod").replace(
                "service: {name: istiod, namespace: istio-system}",
                &format!("url: '{url}'"),
            ))
        };
    let object = "MutatingWebhookConfiguration istio-sidecar-injector";
    assert_eq!(at("https://istiod.example.org:15017/inject"), [""; 0]);
    only(&at("https://172.18.11.1:15017/inject"), "IST0164", object);
    only(&at("http://istiod.example.org/inject"), "IST0163", object);
}

#[test]
fn clusters_that_disagree_about_a_service() {
    let second = |service: &str| {
        let away = cluster(
            "cluster02",
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: helloworld, namespace: sample}}, spec: {service}}}"
            ),
        );
        lines(&world(vec![cluster("cluster01", GOOD), away]))
    };
    assert_eq!(
        second("{clusterIP: 10.21.0.9, ports: [{name: http, port: 5000, protocol: TCP}]}"),
        [""; 0]
    );
    let object = "Service sample/helloworld";
    for (service, why) in [
        ("{clusterIP: None, ports: [{name: http, port: 5000}]}", "headless"),
        ("{type: NodePort, clusterIP: 10.21.0.9, ports: [{name: http, port: 5000}]}", "type"),
        ("{clusterIP: 10.21.0.9, ports: [{name: http, port: 80}]}", "ports"),
    ] {
        let found = second(service);
        only(&found, "IST0170", object);
        assert!(found[0].contains(why), "{found:?}");
    }
}

#[test]
fn networks_of_clusters_that_nobody_links() {
    let networks = |linked: &[&str]| {
        let mut world = world(vec![cluster("cluster01", GOOD)]);
        world.networks = serde_json::json!({"networks": {"network2": {"endpoints": [{"fromRegistry": "cluster02"}]}}});
        world.linked = linked.iter().map(|it| (*it).to_owned()).collect();
        lines(&world)
    };
    assert_eq!(networks(&["cluster02"]), [""; 0]);
    only(&networks(&[]), "IST0126", "MeshNetworks istio-system/istio");
}

#[test]
fn the_order_of_clusters_objects_does_not_show() {
    let mut objects = cluster("cluster01", GOOD);
    objects.objects.extend(read_manifest(&virtual_service("{hosts: 7}")).unwrap());
    let forwards = lines(&world(vec![objects.clone()]));
    objects.objects.reverse();
    assert_eq!(lines(&world(vec![objects])), forwards);
}
