//! What a few objects come to for one proxy: tests of single rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use tombolo_control::compile::resource::ResourceType;
use tombolo_control::compile::{compile, scope_key};
use tombolo_control::index::live::Live;
use tombolo_control::index::picture::Picture;
use tombolo_control::proxy::{Proxy, ProxyKind};
use tombolo_model::endpoint::Locality;
use tombolo_model::id::{ClusterId, NetworkId, ObjectName};

use crate::scenario;

/// The picture of what the only cluster holds.
fn picture(objects: &[&str]) -> Picture {
    let cluster = ClusterId::new("cluster01");
    let mut live = Live::new(cluster.clone(), "cluster.local", "istio-system");
    for event in scenario::events_of(&cluster, &objects.join("\n---\n")) {
        live.apply(event);
    }
    Picture::of(&live)
}

/// A sidecar of that cluster.
fn sidecar(namespace: &str) -> Proxy {
    Proxy {
        id: String::from("sidecar"),
        kind: ProxyKind::Sidecar,
        pod: ObjectName::new(namespace, "client"),
        cluster: ClusterId::new("cluster01"),
        network: NetworkId::new(""),
        requested_network_view: BTreeSet::new(),
        ips: vec![IpAddr::from([10, 0, 0, 9])],
        labels: BTreeMap::new(),
        dns_domain: format!("{namespace}.svc.cluster.local"),
        service_account: String::new(),
        node_name: String::new(),
        locality: Locality::default(),
        version: String::new(),
        is_tombolo: false,
    }
}

/// One resource as JSON; null when there is none.
fn resource(picture: &Picture, proxy: &Proxy, kind: ResourceType, name: &str) -> Value {
    let compiled = compile(picture, proxy, kind);
    let found = compiled.resources.iter().find(|(it, _)| ***it == *name);
    found.map_or(Value::Null, |(_, it)| tombolo_xds::json::any_to_value(&it.body).unwrap())
}

/// What users are told.
fn diagnostics(picture: &Picture, proxy: &Proxy, kind: ResourceType) -> Vec<String> {
    compile(picture, proxy, kind).diagnostics.iter().map(ToString::to_string).collect()
}

/// The virtual hosts for a port: `name: target, target`.
fn virtual_hosts(picture: &Picture, proxy: &Proxy, port: &str) -> Vec<String> {
    let routes = resource(picture, proxy, ResourceType::Route, port);
    let hosts = routes["virtualHosts"].as_array().cloned().unwrap_or_default();
    let target = |route: &Value| match route["route"]["cluster"].as_str() {
        Some(cluster) => cluster.to_owned(),
        None => route["directResponse"]["status"].to_string(),
    };
    let host = |host: &Value| {
        let targets = host["routes"].as_array().into_iter().flatten();
        let targets: Vec<String> = targets.map(target).collect();
        format!("{}: {}", host["name"].as_str().unwrap(), targets.join(", "))
    };
    hosts.iter().map(host).collect()
}

/// The addresses in an assignment.
fn addresses(assignment: &Value) -> Vec<String> {
    let groups = assignment["endpoints"].as_array().into_iter().flatten();
    let endpoints = groups.flat_map(|group| group["lbEndpoints"].as_array().unwrap());
    let address = |endpoint: &Value| {
        let socket = &endpoint["endpoint"]["address"]["socketAddress"];
        format!("{}:{}", socket["address"].as_str().unwrap(), socket["portValue"])
    };
    endpoints.map(address).collect()
}

const HELLOWORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: helloworld, namespace: sample}
spec: {clusterIP: 10.11.0.7, ports: [{name: http, port: 5000}]}
";

const REVIEWS: &str = "
kind: Service
metadata: {name: reviews, namespace: sample}
spec: {clusterIP: 10.1.0.1, ports: [{name: http, port: 80}]}";

#[test]
fn a_rule_of_which_nothing_applies_leaves_the_default_route() {
    for condition in ["port: 8080", "sourceLabels: {app: other}", "gateways: [my-gateway]"] {
        let rule = format!(
            "
kind: VirtualService
metadata: {{name: reviews, namespace: sample}}
spec:
  hosts: [reviews, unknown.example.com]
  http:
  - match: [{{{condition}}}]
    directResponse: {{status: 418}}"
        );
        let picture = picture(&[REVIEWS, &rule]);
        let hosts = virtual_hosts(&picture, &sidecar("sample"), "80");
        let want = [
            "reviews.sample.svc.cluster.local:80: outbound|80||reviews.sample.svc.cluster.local",
            "allow_any: PassthroughCluster",
        ];
        assert_eq!(hosts, want, "{condition}");
    }
}

#[test]
fn proxies_that_rank_endpoints_differently_do_not_share() {
    let policy = "{loadBalancer: {localityLbSetting: {failoverPriority: [tier]}}}";
    let rule = |spec: &str| {
        format!(
            "
kind: DestinationRule
metadata: {{name: reviews, namespace: sample}}
spec: {{host: reviews, {spec}}}"
        )
    };
    let ports = policy.replacen('{', "{port: {number: 80}, ", 1);
    let objects = [
        rule(&format!("trafficPolicy: {policy}")),
        rule(&format!("trafficPolicy: {{portLevelSettings: [{ports}]}}")),
        rule(&format!("subsets: [{{name: v1, trafficPolicy: {policy}}}]")),
        String::from(
            "
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'localityLbSetting: {failoverPriority: [tier]}'}",
        ),
    ];
    let client = |name: &str, value: &str| Proxy {
        labels: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        ..sidecar("sample")
    };
    for object in objects {
        let picture = picture(&[REVIEWS, &object]);
        let key = |name: &str, value: &str| scope_key(&picture, &client(name, value));
        assert_ne!(key("tier", "a"), key("tier", "b"), "{object}");
        assert_eq!(key("other", "a"), key("other", "b"), "{object}");
    }
}

#[test]
fn a_service_entry_selects_only_pods_that_serve() {
    let pod = |name: &str, ip: &str, metadata: &str, phase: &str, ready: &str| {
        format!(
            "
kind: Pod
metadata: {{name: {name}, namespace: sample, labels: {{app: database}}{metadata}}}
spec: {{}}
status: {{phase: {phase}, podIP: {ip}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}"
        )
    };
    let gone = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
    let entry = "
kind: ServiceEntry
metadata: {name: database, namespace: sample}
spec:
  hosts: [database.example.com]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: database}}";
    let picture = picture(&[
        entry,
        &pod("serves", "10.2.0.1", "", "Running", "True"),
        &pod("starts", "10.2.0.2", "", "Running", "False"),
        &pod("waits", "10.2.0.3", "", "Pending", "False"),
        &pod("finished", "10.2.0.4", "", "Succeeded", "False"),
        &pod("ends", "10.2.0.5", gone, "Running", "True"),
    ]);
    let name = "outbound|80||database.example.com";
    let endpoints = resource(&picture, &sidecar("sample"), ResourceType::Endpoint, name);
    assert_eq!(addresses(&endpoints), ["10.2.0.1:80"]);
}

#[test]
fn rules_that_a_sidecar_object_does_not_import_have_no_effect() {
    let reviews = REVIEWS.replace("sample", "other");
    let sidecar_object = |hosts: &str| {
        format!(
            "
kind: Sidecar
metadata: {{name: default, namespace: sample}}
spec: {{egress: [{{hosts: [{hosts}]}}]}}"
        )
    };
    let rule = "
kind: VirtualService
metadata: {name: reviews, namespace: other}
spec:
  hosts: [reviews, unknown.example.com]
  http: [{directResponse: {status: 418}}]";
    let hosts = |imports: &str| {
        let picture = picture(&[REVIEWS, &reviews, &sidecar_object(imports), rule]);
        virtual_hosts(&picture, &sidecar("sample"), "80")
    };
    let own = "reviews.sample.svc.cluster.local:80: outbound|80||reviews.sample.svc.cluster.local";
    assert_eq!(hosts("./*"), [own, "allow_any: PassthroughCluster"]);
    assert_eq!(hosts("./*, '*/elsewhere.example.com'"), [own, "allow_any: PassthroughCluster"]);
    // One host of a rule is enough.
    let all = [
        "reviews.other.svc.cluster.local:80: 418",
        own,
        "unknown.example.com:80: 418",
        "allow_any: PassthroughCluster",
    ];
    assert_eq!(hosts("./*, other/*"), all);
    assert_eq!(hosts("./*, other/reviews.other.svc.cluster.local"), all);
    assert_eq!(hosts("'*/*'"), all);
}

#[test]
fn a_port_of_datagrams_does_not_hide_one_of_bytes() {
    let service = "
kind: Service
metadata: {name: names, namespace: sample}
spec:
  clusterIP: 10.1.0.2
  ports:
  - {name: datagrams, port: 53, protocol: UDP}
  - {name: tcp, port: 53, protocol: TCP}";
    let slice = "
kind: EndpointSlice
addressType: IPv4
metadata: {name: names, namespace: sample, labels: {kubernetes.io/service-name: names}}
endpoints: [{addresses: [10.2.0.1]}]
ports: [{name: datagrams, port: 5301, protocol: UDP}, {name: tcp, port: 5302, protocol: TCP}]";
    let rule = "
kind: VirtualService
metadata: {name: reviews, namespace: sample}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: names}}]}]";
    let picture = picture(&[REVIEWS, service, slice, rule]);
    let name = "outbound|53||names.sample.svc.cluster.local";
    let endpoints = resource(&picture, &sidecar("sample"), ResourceType::Endpoint, name);
    assert_eq!(addresses(&endpoints), ["10.2.0.1:5302"]);
    let want = [
        "reviews.sample.svc.cluster.local:80: outbound|53||names.sample.svc.cluster.local",
        "allow_any: PassthroughCluster",
    ];
    assert_eq!(virtual_hosts(&picture, &sidecar("sample"), "80"), want);
}

#[test]
fn objects_of_another_revision_have_no_effect() {
    let hosts = |label: &str| {
        let rule = format!(
            "
kind: VirtualService
metadata: {{name: reviews, namespace: sample, labels: {{{label}}}}}
spec:
  hosts: [reviews]
  http: [{{directResponse: {{status: 418}}}}]"
        );
        // Neither is there anything to say about them.
        let broken = format!(
            "
kind: AuthorizationPolicy
metadata: {{name: broken, namespace: sample, labels: {{{label}}}}}
spec: {{action: 7}}"
        );
        let picture = picture(&[REVIEWS, &rule, &broken]);
        let hosts = virtual_hosts(&picture, &sidecar("sample"), "80");
        (hosts[0].rsplit(' ').next().unwrap().to_owned(), picture.diagnostics.len())
    };
    let ruled = || (String::from("418"), 1);
    assert_eq!(hosts(""), ruled());
    assert_eq!(hosts("istio.io/rev: default"), ruled());
    let unruled = (String::from("outbound|80||reviews.sample.svc.cluster.local"), 0);
    assert_eq!(hosts("istio.io/rev: canary"), unruled);
}

#[test]
fn a_service_is_called_by_the_names_that_stand_for_it() {
    let alias = |name: &str, target: &str, annotations: &str| {
        format!(
            "
kind: Service
metadata: {{name: {name}, namespace: other, annotations: {{{annotations}}}}}
spec: {{type: ExternalName, externalName: {target}}}"
        )
    };
    let picture = picture(&[
        REVIEWS,
        &alias("old", "reviews.sample.svc.cluster.local", ""),
        &alias("older", "old.other.svc.cluster.local.", ""),
        &alias("outside", "example.com", ""),
        &alias("circle", "circle.other.svc.cluster.local", ""),
        &alias(
            "hidden",
            "reviews.sample.svc.cluster.local",
            "networking.istio.io/exportTo: another",
        ),
    ]);
    let domains = |namespace: &str| -> Vec<String> {
        let routes = resource(&picture, &sidecar(namespace), ResourceType::Route, "80");
        let domains = routes["virtualHosts"][0]["domains"].as_array().unwrap().iter();
        domains.map(|domain| domain.as_str().unwrap().to_owned()).collect()
    };
    let of = |name: &str, namespace: &str, short: bool| {
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let mut domains = vec![host.clone(), format!("{host}.")];
        domains.extend(short.then(|| name.to_owned()));
        domains.extend([format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")]);
        domains
    };
    let all = |own: bool| {
        let mut domains = of("reviews", "sample", own);
        domains.push(String::from("10.1.0.1"));
        domains.extend(of("old", "other", !own));
        domains.extend(of("older", "other", !own));
        domains
    };
    assert_eq!(domains("sample"), all(true));
    assert_eq!(domains("other"), all(false));
}

#[test]
fn named_endpoints_are_chosen_and_told_apart_like_addresses() {
    let entry = |resolution: &str| {
        format!(
            "
kind: ServiceEntry
metadata: {{name: database, namespace: sample}}
spec:
  hosts: [database.example.com]
  resolution: {resolution}
  location: MESH_INTERNAL
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints:
  - {{address: a.example.com, locality: r1/z1, labels: {{version: v1}}, serviceAccount: db}}
  - {{address: b.example.com, locality: r1/z2, labels: {{version: v1}}, weight: 3}}
  - {{address: c.example.com, locality: r1/z1, labels: {{version: v2}}}}"
        )
    };
    let rule = "
kind: DestinationRule
metadata: {name: database, namespace: sample}
spec:
  host: database.example.com
  trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}
  subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]";
    let of = |resolution: &str, subset: &str| {
        let picture = picture(&[&entry(resolution), rule]);
        let client = Proxy { locality: Locality::parse("r1/z2"), ..sidecar("sample") };
        let name = format!("outbound|80|{subset}|database.example.com");
        let cluster = resource(&picture, &client, ResourceType::Cluster, &name);
        let groups = cluster["loadAssignment"]["endpoints"].as_array().cloned();
        let groups = groups.unwrap_or_default();
        let show = |group: &Value| {
            let endpoints = group["lbEndpoints"].as_array().unwrap().iter();
            let endpoints = endpoints.map(|it| {
                let socket = &it["endpoint"]["address"]["socketAddress"];
                let mode = &it["metadata"]["filterMetadata"]["envoy.transport_socket_match"];
                let mode = mode["tlsMode"].as_str().unwrap_or("plain");
                format!("{} {mode}", socket["address"].as_str().unwrap())
            });
            let endpoints: Vec<String> = endpoints.collect();
            let zone = group["locality"]["zone"].as_str().unwrap_or_default();
            let (priority, weight) = (group["priority"].as_u64(), &group["loadBalancingWeight"]);
            format!("{zone} {} {weight}: {}", priority.unwrap_or_default(), endpoints.join(", "))
        };
        let groups: Vec<String> = groups.iter().map(show).collect();
        (cluster["type"].as_str().unwrap_or("STATIC").to_owned(), groups)
    };
    let strict = |groups: &[&str]| {
        (String::from("STRICT_DNS"), groups.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    };
    let all = ["z1 1 2: a.example.com istio, c.example.com plain", "z2 0 3: b.example.com plain"];
    assert_eq!(of("DNS", ""), strict(&all));
    let first = ["z1 1 1: a.example.com istio", "z2 0 3: b.example.com plain"];
    assert_eq!(of("DNS", "v1"), strict(&first));
    assert_eq!(of("DNS", "v3"), strict(&[]));
    // One name only, says Envoy, and at least one.
    let one = vec![String::from("z2 0 3: b.example.com plain")];
    assert_eq!(of("DNS_ROUND_ROBIN", "v1"), (String::from("LOGICAL_DNS"), one));
    assert_eq!(of("DNS_ROUND_ROBIN", "v3"), (String::from("STATIC"), Vec::new()));
}

/// A service entry of `host` with one endpoint on each port.
fn entry(name: &str, namespace: &str, host: &str, ports: &str, address: &str) -> String {
    format!(
        "
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{host}]
  resolution: STATIC
  location: MESH_INTERNAL
  ports: [{ports}]
  endpoints: [{{address: {address}}}]"
    )
}

#[test]
fn each_proxy_has_its_choice_of_services_with_the_same_host() {
    const PORT: &str = "{number: 80, name: http, protocol: HTTP}";
    let host = "shared.example.com";
    let reviews = "reviews.sample.svc.cluster.local";
    let made = |entry: String, day: u8| {
        let at = format!("metadata: {{creationTimestamp: '2026-01-0{day}T00:00:00Z', ");
        entry.replace("metadata: {", &at)
    };
    let private = |entry: String| entry.replace("spec:", "spec:\n  exportTo: [.]");
    let slice = "
kind: EndpointSlice
addressType: IPv4
metadata: {name: reviews, namespace: sample, labels: {kubernetes.io/service-name: reviews}}
endpoints: [{addresses: [10.2.0.9]}]
ports: [{name: http, port: 80, protocol: TCP}]";
    let picture = picture(&[
        &made(private(entry("own", "a", host, PORT, "10.2.0.1")), 1),
        &made(entry("younger", "b", host, PORT, "10.2.0.2"), 3),
        &made(entry("older", "c", host, PORT, "10.2.0.3"), 2),
        &made(entry("reviews", "b", reviews, PORT, "10.2.0.4"), 1),
        REVIEWS,
        slice,
    ]);
    let of = |namespace: &str, host: &str| {
        let name = format!("outbound|80||{host}");
        addresses(&resource(&picture, &sidecar(namespace), ResourceType::Endpoint, &name))
    };
    assert_eq!(of("a", host), ["10.2.0.1:80"], "its own");
    assert_eq!(of("b", host), ["10.2.0.2:80"], "its own, though younger");
    assert_eq!(of("d", host), ["10.2.0.3:80"], "the oldest that it may see");
    assert_eq!(of("b", reviews), ["10.2.0.4:80"], "its own before Kubernetes'");
    assert_eq!(of("d", reviews), ["10.2.0.9:80"], "Kubernetes' before older ones");
    assert_eq!(picture.diagnostics, Vec::new().into());
}

#[test]
fn service_entries_of_one_namespace_add_up() {
    let http = "{number: 80, name: http, protocol: HTTP}";
    let more = "{number: 80, name: http, protocol: HTTP}, {number: 81, name: admin, protocol: TCP}";
    let taken = "{number: 80, name: tcp, protocol: TCP}, {number: 82, name: http, protocol: HTTP}";
    let entry = |name, ports, address| entry(name, "sample", "shared.example.com", ports, address);
    let picture = picture(&[
        &entry("a", http, "10.2.0.1"),
        &entry("b", more, "10.2.0.2"),
        &entry("c", taken, "10.2.0.3"),
        &entry("d", http, "10.2.0.4").replace("MESH_INTERNAL", "MESH_EXTERNAL"),
    ]);
    let of = |port: u16| {
        let name = format!("outbound|{port}||shared.example.com");
        addresses(&resource(&picture, &sidecar("sample"), ResourceType::Endpoint, &name))
    };
    assert_eq!(of(80), ["10.2.0.1:80", "10.2.0.2:80"]);
    assert_eq!(of(81), ["10.2.0.2:81"]);
    assert_eq!(of(82), Vec::<String>::new());
    let messages: Vec<&str> = picture.diagnostics.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "port 80 (tcp) of host `shared.example.com` is already declared by sample/a, which wins",
            "port 82 (http) of host `shared.example.com` is already declared by sample/a, which wins",
            "host `shared.example.com` is already declared by ServiceEntry sample/a, which wins where \
             both can be seen",
        ]
    );
}

#[test]
fn our_own_proxy_is_told_nothing_that_it_cannot_do() {
    let picture = picture(&[
        HELLOWORLD,
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: sample}
spec:
  host: helloworld
  trafficPolicy:
    tls: {mode: SIMPLE, sni: example.com}
    loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s}}
",
    ]);
    let name = "outbound|5000||helloworld.sample.svc.cluster.local";
    let of = |is_tombolo| Proxy { is_tombolo, ..sidecar("sample") };
    let envoys = resource(&picture, &of(false), ResourceType::Cluster, name);
    assert_eq!(envoys["type"], "EDS");
    assert_eq!(envoys["transportSocket"]["typedConfig"]["sni"], "example.com");
    assert!(envoys["roundRobinLbConfig"]["slowStartConfig"].is_object(), "{envoys:#}");
    let ours = resource(&picture, &of(true), ResourceType::Cluster, name);
    assert_eq!(ours["type"], "STATIC");
    assert_eq!(ours["loadAssignment"]["endpoints"], Value::Null);
    assert_eq!(ours["roundRobinLbConfig"], Value::Null);
    let said = diagnostics(&picture, &of(true), ResourceType::Cluster);
    assert!(said.iter().any(|it| it.contains("does not start TLS")), "{said:?}");
    assert!(said.iter().any(|it| it.contains("warmup is not carried out")), "{said:?}");
}

#[test]
fn a_broken_expression_takes_nothing_with_it() {
    let picture = picture(&[
        HELLOWORLD,
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hello, namespace: sample}
spec:
  hosts: [helloworld]
  http:
  - match: [{uri: {regex: 'a('}}, {uri: {prefix: /b}}]
    route: [{destination: {host: helloworld}}]
  - match: [{uri: {prefix: /c}}]
    rewrite: {uriRegexRewrite: {match: '[', rewrite: x}}
    route: [{destination: {host: helloworld}}]
",
    ]);
    let proxy = sidecar("sample");
    let routes = resource(&picture, &proxy, ResourceType::Route, "5000");
    let matches: Vec<String> = routes["virtualHosts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|host| host["name"].as_str().unwrap().starts_with("helloworld"))
        .flat_map(|host| host["routes"].as_array().unwrap())
        .map(|route| route["match"].to_string())
        .collect();
    assert_eq!(matches, [r#"{"prefix":"/b"}"#]);
    let said = diagnostics(&picture, &proxy, ResourceType::Route);
    assert!(said.iter().any(|it| it.contains("a match is left out: `a(` is no")), "{said:?}");
    assert!(said.iter().any(|it| it.contains("a route is left out: `[` is no")), "{said:?}");
}
