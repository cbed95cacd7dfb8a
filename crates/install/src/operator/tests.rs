use super::*;

fn source(text: &str) -> Source {
    Source { name: "cluster01.yaml".to_owned(), text: text.to_owned() }
}

fn merge(text: &str, sets: &[&str]) -> Result<Operator, OperatorError> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Operator::merge(&[source(text)], &sets)
}

#[test]
fn later_sources_win_over_files_and_files_over_the_profile() {
    let file = "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  meshConfig: {accessLogFile: /dev/stdout}\n  values:\n    global: {network: network1, multiCluster: {clusterName: cluster01}}\n";
    let second = "kind: IstioOperator\nspec: {values: {global: {meshID: mesh2}}}\n";
    let sets = [
        "values.pilot.env.EXTERNAL_ISTIOD=true".to_owned(),
        "values.global.network=network9".to_owned(),
        "components.ingressGateways[0].enabled=false".to_owned(),
    ];
    let operator = Operator::merge(&[source(file), source(second)], &sets).unwrap();
    assert_eq!(operator.cluster(), "cluster01");
    assert_eq!(operator.text("/global/network"), Some("network9"));
    assert_eq!(operator.text("/global/meshID"), Some("mesh2"));
    assert_eq!(operator.text("/pilot/env/EXTERNAL_ISTIOD"), Some("true"));
    assert_eq!(operator.mesh_config(), json!({"accessLogFile": "/dev/stdout"}));
    assert!(operator.gateways().is_empty(), "--set reaches the profile's gateway by its index");
    assert_eq!(operator.unsupported, [""; 0]);
}

#[test]
fn what_nothing_reads_is_listed_by_full_path() {
    let file = "kind: IstioOperator\nspec:\n  meshConfig: {extensionProviders: [{name: a}], accessLogFile: /dev/stdout}\n  components:\n    pilot: {k8s: {unknown: 1}}\n    cni: {enabled: true}\n    ingressGateways: [{name: a, enabled: true, tag: b}]\n  values:\n    global: {network: n, tracer: {zipkin: {address: a}}, proxy: {image: x}}\n  installPackagePath: /x\n";
    let sets = [r"values.pilot.extra\.arg=1", "components.ingressGateways[0].hub=h"];
    let mut found = merge(file, &sets).unwrap().unsupported;
    found.sort();
    assert_eq!(
        found,
        [
            "spec.components.cni.enabled",
            "spec.components.ingressGateways[0].hub",
            "spec.components.ingressGateways[0].tag",
            "spec.components.pilot.k8s.unknown",
            "spec.installPackagePath",
            "spec.meshConfig.extensionProviders",
            "spec.values.global.proxy.image",
            "spec.values.global.tracer.zipkin.address",
            r"spec.values.pilot.extra\.arg",
        ]
    );
}

#[test]
fn what_happens_anyway_is_harmless() {
    let file = "kind: IstioOperator\nspec:\n  components: {cni: {enabled: false}}\n  values:\n    telemetry: {enabled: true}\n    global: {jwtPolicy: third-party-jwt}\n";
    let operator = merge(file, &[]).unwrap();
    assert_eq!(operator.unsupported, [""; 0]);
    let mut harmless = operator.harmless;
    harmless.sort();
    assert_eq!(
        harmless,
        [
            "spec.components.cni.enabled",
            "spec.values.global.jwtPolicy",
            "spec.values.telemetry.enabled"
        ]
    );
    let off = "kind: IstioOperator\nspec: {values: {telemetry: {enabled: false}}}\n";
    assert_eq!(merge(off, &[]).unwrap().unsupported, ["spec.values.telemetry.enabled"]);
}

#[test]
fn the_namespace_of_the_spec_decides() {
    let file =
        "kind: IstioOperator\nspec: {namespace: mesh, values: {global: {istioNamespace: other}}}\n";
    let operator = merge(file, &[]).unwrap();
    assert_eq!(operator.namespace(), "mesh");
    assert_eq!(operator.values().pointer("/global/istioNamespace"), Some(&json!("mesh")));
    assert_eq!(merge(file, &["namespace=last"]).unwrap().namespace(), "last");
    assert_eq!(
        merge(file, &["namespace=a/b"]).unwrap_err().to_string(),
        "spec.namespace is set to \"a/b\", but it must be a name of lower-case letters, digits and dashes (RFC 1123)"
    );
}

#[test]
fn values_of_gateways_that_are_not_read_are_listed() {
    let file = "kind: IstioOperator\nspec: {values: {gateways: {own: {type: ClusterIP}, istio-egressgateway: {type: ClusterIP}}}}\n";
    assert_eq!(merge(file, &[]).unwrap().unsupported, ["spec.values.gateways.own.type"]);
}

#[test]
fn what_would_have_to_happen_otherwise_is_not_harmless() {
    let set = |setting: &str, profile: &str| {
        let profile = format!("profile={profile}");
        let Operator { unsupported, harmless, .. } =
            merge("kind: IstioOperator\n", &[&profile, setting]).unwrap();
        match (harmless.as_slice(), unsupported.as_slice()) {
            ([path], []) => (true, path.clone()),
            ([], [path]) => (false, path.clone()),
            both => panic!("{both:?}"),
        }
    };
    for (setting, profile, happens) in [
        ("values.global.multiCluster.enabled=true", "default", true),
        ("values.global.multiCluster.enabled=false", "default", false),
        ("values.gateways.istio-ingressgateway.injectionTemplate=gateway", "default", true),
        ("values.gateways.istio-ingressgateway.injectionTemplate=own", "default", false),
        ("values.global.omitSidecarInjectorConfigMap=true", "remote", true),
        ("values.global.omitSidecarInjectorConfigMap=true", "default", false),
        ("values.global.omitSidecarInjectorConfigMap=false", "default", true),
        ("values.global.omitSidecarInjectorConfigMap=false", "remote", false),
    ] {
        let path = format!("spec.{}", setting.split_once('=').unwrap().0);
        assert_eq!(set(setting, profile), (happens, path), "{setting} with profile {profile}");
    }
}

#[test]
fn texts_stay_texts() {
    let file = "kind: IstioOperator\nspec:\n  tag: 1.0\n  values: {global: {network: 1}, pilot: {env: {A: true}}}\n";
    let sets = ["values.global.multiCluster.clusterName=01", "values.pilot.podAnnotations.a=7"];
    let env = merge(
        "kind: IstioOperator\nspec: {components: {pilot: {k8s: {env: [{name: A, value: 1}]}}}}\n",
        &[],
    );
    assert_eq!(env.unwrap().pilot_k8s().pointer("/env/0/value"), Some(&json!("1")));
    let operator = merge(file, &sets).unwrap();
    assert_eq!(operator.cluster(), "01");
    assert_eq!(operator.text("/global/network"), Some("1"));
    assert_eq!(operator.value("/pilot/env/A"), Some(&json!("true")));
    assert_eq!(operator.value("/pilot/podAnnotations/a"), Some(&json!("7")));
    assert!(operator.image().ends_with(":1.0"), "{}", operator.image());
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str, set: &[&str]| merge(text, set).unwrap_err().to_string();
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
    assert_eq!(
        error("kind: IstioOperator\nspec: {values: {global: {multiCluster: cluster01}}}\n", &[]),
        "spec.values.global.multiCluster is set to \"cluster01\", but it must be a mapping"
    );
    assert_eq!(
        error("kind: IstioOperator\n", &["values.global.logAsJson=maybe"]),
        "spec.values.global.logAsJson is set to \"maybe\", but it must be true or false"
    );
    assert_eq!(
        error("kind: IstioOperator\nspec: {revision: 1.18}\n", &[]),
        "spec.revision is set to \"1.18\", but it must be a name of lower-case letters, digits and dashes (RFC 1123)"
    );
    assert_eq!(
        error("kind: IstioOperator\napiVersion: v1\n", &[]),
        "cluster01.yaml has apiVersion `v1`; IstioOperator documents have install.istio.io/v1alpha1"
    );
    assert_eq!(
        error("kind: IstioOperator\nvalues: {}\n", &[]),
        "cluster01.yaml has a field `values` beside apiVersion, kind, metadata and spec"
    );
    assert_eq!(
        error("kind: IstioOperator\nspec: {meshConfig: {accessLogEncoding: XML}}\n", &[]),
        "spec.meshConfig cannot be read"
    );
}

#[test]
fn the_dot_in_a_key_is_escaped() {
    let operator =
        Operator::merge(&[], &[r"values.pilot.podAnnotations.example\.org/a=b".to_owned()])
            .unwrap();
    assert_eq!(operator.value("/pilot/podAnnotations"), Some(&json!({"example.org/a": "b"})));
}
