use super::*;

fn source(text: &str) -> Source {
    Source { name: "cluster01.yaml".to_owned(), text: text.to_owned() }
}

#[test]
fn later_sources_win_over_files_and_files_over_the_profile() {
    let file = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  meshConfig: {accessLogFile: /dev/stdout}\n  values:\n    global: {network: network1, multiCluster: {clusterName: cluster01}}\n";
    let sets = [
        "values.pilot.env.EXTERNAL_ISTIOD=true".to_owned(),
        "values.global.network=network9".to_owned(),
        "components.ingressGateways[0].name=istio-ingressgateway".to_owned(),
        "components.ingressGateways[0].enabled=false".to_owned(),
    ];
    let operator = Operator::merge(&[source(file)], &sets).unwrap();
    assert_eq!(operator.cluster(), "cluster01");
    assert_eq!(operator.text("/global/network"), Some("network9"));
    assert!(operator.flag("/pilot/env/EXTERNAL_ISTIOD"));
    assert_eq!(operator.mesh_config(), json!({"accessLogFile": "/dev/stdout"}));
    assert!(operator.gateways().is_empty());
    assert_eq!(operator.unsupported, [""; 0]);
}

#[test]
fn what_nothing_reads_is_listed_by_full_path() {
    let file = "kind: IstioOperator\nspec:\n  values:\n    cni: {enabled: true}\n    global: {network: n, tracer: {zipkin: {address: a}}}\n  installPackagePath: /x\n";
    let operator = Operator::merge(&[source(file)], &[]).unwrap();
    assert_eq!(
        operator.unsupported,
        [
            "spec.installPackagePath",
            "spec.values.cni.enabled",
            "spec.values.global.tracer.zipkin.address"
        ]
    );
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str, set: &[&str]| {
        let sets: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        Operator::merge(&[source(text)], &sets).unwrap_err().to_string()
    };
    assert_eq!(
        error("kind: ConfigMap\n", &[]),
        "cluster01.yaml is a `ConfigMap`; `install` takes an IstioOperator (install.istio.io/v1alpha1)"
    );
    assert_eq!(
        error("kind: IstioOperator\nspec: {profile: ambient}\n", &[]),
        "profile `ambient` is not known; the profiles are default, demo, minimal, remote and empty"
    );
    assert_eq!(
        error("kind: IstioOperator\n", &["values"]),
        "--set values: write PATH=VALUE, for example values.global.network=network1"
    );
    assert_eq!(
        error("kind: IstioOperator\n", &["components.ingressGateways[x].enabled=true"]),
        "--set components.ingressGateways[x].enabled=true: `ingressGateways[x]` is not a list index; write it like components.ingressGateways[0].enabled=true"
    );
}

#[test]
fn the_dot_in_a_key_is_escaped() {
    let operator =
        Operator::merge(&[], &[r"values.pilot.podAnnotations.example\.org/a=b".to_owned()])
            .unwrap();
    assert_eq!(operator.value("/pilot/podAnnotations"), Some(&json!({"example.org/a": "b"})));
}
