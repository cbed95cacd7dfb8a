use super::*;
use crate::eastwest::EastWest;
use crate::object::write_manifest;
use crate::operator::Source;

fn rendered(file: &str, sets: &[&str]) -> String {
    let source = Source { name: "file.yaml".to_owned(), text: file.to_owned() };
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let operator = Operator::merge(&[source], &sets).unwrap();
    assert_eq!(operator.unsupported, [""; 0]);
    render(&operator)
        .iter()
        .filter(|component| component.name != "Base")
        .map(|component| {
            format!("# {}\n{}", component.name, write_manifest(&component.objects).unwrap())
        })
        .collect()
}

/// The tutorial's document for a primary.
const PRIMARY: &str = "apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  meshConfig: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}
  values:
    global:
      meshID: mesh1
      multiCluster: {clusterName: cluster01}
      network: network1
      logAsJson: true
";

/// The tutorial's document for a remote.
const REMOTE: &str = "apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  profile: remote
  values:
    istiodRemote: {injectionPath: /inject/cluster/cluster02/net/network2}
    global:
      meshID: mesh1
      configCluster: true
      multiCluster: {clusterName: cluster02}
      network: network2
      remotePilotAddress: 172.18.11.1
";

#[test]
fn the_tutorials_primary() {
    insta::assert_snapshot!(rendered(PRIMARY, &["values.pilot.env.EXTERNAL_ISTIOD=true"]));
}

#[test]
fn the_tutorials_remote() {
    insta::assert_snapshot!(rendered(REMOTE, &[]));
}

#[test]
fn the_tutorials_east_west_gateway() {
    let document = EastWest { network: Some("network1".to_owned()), revision: None }.document();
    insta::assert_snapshot!(rendered(&document, &[]));
}

#[test]
fn a_revision_is_part_of_every_name() {
    let text = rendered(PRIMARY, &["revision=canary", "profile=minimal"]);
    for name in [
        "istiod-canary",
        "istio-canary",
        "istio-sidecar-injector-canary",
        "istiod-clusterrole-canary-istio-system",
    ] {
        assert!(text.contains(&format!("name: {name}\n")), "{name} is missing");
    }
}

#[test]
fn the_base_has_fifteen_definitions_and_the_reader() {
    let operator = Operator::merge(&[], &[]).unwrap();
    let base = &render(&operator)[0];
    let kinds: Vec<_> = base.objects.iter().map(Object::kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "CustomResourceDefinition").count(), 15);
    assert_eq!(kinds[15..], ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"]);
}
