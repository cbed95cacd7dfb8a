use super::*;
use crate::eastwest::EastWest;
use crate::object::write_manifest;
use crate::operator::Source;

/// What the tutorial adds on the command line for a primary that has remotes.
const EXTERNAL: &str = "values.pilot.env.EXTERNAL_ISTIOD=true";

fn merged(file: &str, sets: &[&str]) -> Operator {
    let source = Source { name: "file.yaml".to_owned(), text: file.to_owned() };
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let operator = Operator::merge(&[source], &sets).unwrap();
    assert_eq!(operator.unsupported, [""; 0]);
    assert_eq!(overlay_problems(&operator), []);
    operator
}

/// The objects of a case. Definitions are the same everywhere and have a golden file of their own.
fn rendered(file: &str, sets: &[&str]) -> String {
    render(&merged(file, sets))
        .iter()
        .map(|component| {
            let is_definition = |object: &&Object| object.kind() == "CustomResourceDefinition";
            let rest: Vec<Object> =
                component.objects.iter().filter(|it| !is_definition(it)).cloned().collect();
            format!("# {}\n{}", component.name, write_manifest(&rest).unwrap())
        })
        .collect()
}

macro_rules! tutorial {
    ($name:literal) => {
        include_str!(concat!("tutorial/", $name, ".yaml"))
    };
}

#[test]
fn flat_network_primary_and_remote() {
    let first = tutorial!("flat-primary-remote-cluster01");
    insta::assert_snapshot!("flat_primary_remote_cluster01", rendered(first, &[EXTERNAL]));
    let second = tutorial!("flat-primary-remote-cluster02");
    insta::assert_snapshot!("flat_primary_remote_cluster02", rendered(second, &[]));
}

#[test]
fn flat_network_two_primaries() {
    let first = tutorial!("flat-multi-primary-cluster01");
    insta::assert_snapshot!("flat_multi_primary_cluster01", rendered(first, &[]));
    let second = tutorial!("flat-multi-primary-cluster02");
    insta::assert_snapshot!("flat_multi_primary_cluster02", rendered(second, &[]));
}

#[test]
fn two_networks_primary_and_remote() {
    let first = tutorial!("networks-primary-remote-cluster01");
    insta::assert_snapshot!("networks_primary_remote_cluster01", rendered(first, &[EXTERNAL]));
    let second = tutorial!("networks-primary-remote-cluster02");
    insta::assert_snapshot!("networks_primary_remote_cluster02", rendered(second, &[]));
}

#[test]
fn two_networks_two_primaries() {
    let first = tutorial!("networks-multi-primary-cluster01");
    insta::assert_snapshot!("networks_multi_primary_cluster01", rendered(first, &[]));
    let second = tutorial!("networks-multi-primary-cluster02");
    insta::assert_snapshot!("networks_multi_primary_cluster02", rendered(second, &[]));
}

#[test]
fn east_west_gateways() {
    for (case, network, revision) in [
        ("network1", Some("network1"), None),
        ("network2", Some("network2"), None),
        ("revision", Some("network1"), Some("canary")),
        ("single_cluster", None, None),
    ] {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let gateway = EastWest { network: owned(network), revision: owned(revision) };
        insta::assert_snapshot!(format!("east_west_{case}"), rendered(&gateway.document(), &[]));
    }
}

#[test]
fn profiles() {
    for profile in ["default", "minimal", "remote", "empty", "demo"] {
        let set = format!("profile={profile}");
        let name = format!("profile_{profile}");
        insta::assert_snapshot!(name, rendered("kind: IstioOperator\n", &[&set]));
    }
}

#[test]
fn a_revision_is_part_of_every_name() {
    let file = tutorial!("flat-multi-primary-cluster01");
    insta::assert_snapshot!(
        "revision_canary",
        rendered(file, &["revision=canary", "profile=minimal"])
    );
}

#[test]
fn kubernetes_settings_are_laid_over_the_objects() {
    insta::assert_snapshot!("overlays", rendered(include_str!("tutorial/overlays.yaml"), &[]));
}

#[test]
fn a_remote_primary_behind_a_name_is_an_external_name() {
    let file = tutorial!("networks-primary-remote-cluster02");
    let sets = [
        "values.global.remotePilotAddress=istiod.example.org",
        "values.istiodRemote.injectionURL=https://istiod.example.org:15017/inject/cluster/cluster02/net/network2",
    ];
    insta::assert_snapshot!("remote_by_name", rendered(file, &sets));
}

#[test]
fn the_base_has_fifteen_definitions_and_the_reader() {
    let operator = Operator::merge(&[], &[]).unwrap();
    let base = &render(&operator)[0];
    let kinds: Vec<_> = base.objects.iter().map(Object::kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "CustomResourceDefinition").count(), 15);
    assert_eq!(kinds[15..], ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"]);
    insta::assert_snapshot!("definitions", write_manifest(&base.objects[..15]).unwrap());
}

#[test]
fn rendering_again_gives_the_same_bytes() {
    let file = include_str!("tutorial/overlays.yaml");
    assert_eq!(rendered(file, &[]), rendered(file, &[]));
}

#[test]
fn an_autoscaler_owns_the_number_of_replicas() {
    let replicas = |sets: &[&str]| {
        let components = render(&merged("kind: IstioOperator\n", sets));
        let all = components.iter().flat_map(|component| &component.objects);
        let istiod = all.clone().find(|it| it.kind() == "Deployment" && it.name() == "istiod");
        let budgets = all.clone().filter(|it| it.kind() == "PodDisruptionBudget").count();
        (istiod.unwrap().value().pointer("/spec/replicas").cloned(), budgets)
    };
    let three = "components.pilot.k8s.replicaCount=3";
    assert_eq!(replicas(&[three]), (None, 0));
    assert_eq!(replicas(&[three, "values.pilot.autoscaleEnabled=false"]), (Some(json!(3)), 1));
    assert_eq!(replicas(&["values.pilot.autoscaleMin=2"]), (None, 1));
}

#[test]
fn an_overlay_without_a_place_is_a_problem() {
    let file = "kind: IstioOperator\nspec:\n  components:\n    pilot:\n      k8s:\n        overlays:\n        - {kind: Deployment, name: istiod-x, patches: [{path: spec.replicas, value: 1}]}\n";
    let source = Source { name: "file.yaml".to_owned(), text: file.to_owned() };
    let problems = overlay_problems(&Operator::merge(&[source], &[]).unwrap());
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["no object Deployment/istiod-x is rendered by this component"]
    );
}

#[test]
fn overlays_of_the_base_patch_its_objects() {
    let file = "kind: IstioOperator\nspec:\n  components:\n    base:\n      k8s:\n        overlays:\n        - {kind: ServiceAccount, name: istio-reader-service-account, patches: [{path: metadata.labels.team, value: mesh}]}\n        - {kind: ServiceAccount, name: nobody, patches: [{path: metadata.labels.team, value: mesh}]}\n";
    let source = Source { name: "file.yaml".to_owned(), text: file.to_owned() };
    let operator = Operator::merge(&[source], &[]).unwrap();
    assert_eq!(operator.unsupported, Vec::<String>::new());
    let problems: Vec<_> = overlay_problems(&operator).iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["no object ServiceAccount/nobody is rendered by this component"]);
    let base = render(&operator).swap_remove(0);
    let reader = base.objects.iter().find(|object| object.name() == "istio-reader-service-account");
    assert_eq!(reader.unwrap().label("team"), Some("mesh"));
}
