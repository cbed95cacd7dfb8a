use insta::assert_snapshot;

use super::*;

/// The design's own example, with one line that a case can change.
fn file(change: &[(&str, &str)]) -> String {
    let mut text =
        include_str!("../../../../examples/primary-remote-multi-network.yaml").to_owned();
    for (from, to) in change {
        assert!(text.contains(from), "the example has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    text
}

fn problems(change: &[(&str, &str)]) -> String {
    MeshFile::parse("mesh.yaml", &file(change)).expect_err("the file is wrong").to_string()
}

#[test]
fn the_example_is_read_with_the_primary_of_its_remote_implied() {
    let mesh = MeshFile::parse("mesh.yaml", &file(&[])).unwrap();
    assert_eq!(mesh.name, "mesh1");
    let roles: Vec<_> = mesh.clusters.iter().map(|c| (c.name.as_str(), c.role.clone())).collect();
    assert_eq!(
        roles,
        [
            ("cluster01", Role::Primary),
            ("cluster02", Role::Remote { primary: "cluster01".to_owned() })
        ]
    );
}

#[test]
fn an_unknown_field_is_refused_with_its_line() {
    assert_snapshot!(problems(&[("    network: network1", "    netwerk: network1")]));
}

#[test]
fn a_subnet_that_does_not_parse_is_refused() {
    assert_snapshot!(problems(&[("10.10.0.0/16", "10.10.0.0/160")]));
}

#[test]
fn overlapping_subnets_in_one_network_are_refused_and_in_two_are_not() {
    let same = [("10.20.0.0/16", "10.10.128.0/17"), ("10.21.0.0/16", "10.11.0.0/16")];
    assert!(MeshFile::parse("mesh.yaml", &file(&same)).is_ok());
    let mut flat = same.to_vec();
    flat.push(("network: network2", "network: network1"));
    assert_snapshot!(problems(&flat));
}

#[test]
fn a_remote_without_a_primary_is_refused() {
    assert_snapshot!(problems(&[("controlPlane: Primary", "controlPlane: Remote")]));
}

#[test]
fn a_name_used_twice_is_refused() {
    assert_snapshot!(problems(&[("name: cluster02", "name: cluster01")]));
}

#[test]
fn a_context_used_twice_is_refused() {
    let two = |first: &str, second: &str| {
        let cluster = |name, kubeconfig| {
            format!(
                "  - name: {name}\n    network: network1\n    controlPlane: Primary\n    kubeconfig: {kubeconfig}\n"
            )
        };
        let head = "apiVersion: tombolo.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh1}\nspec:\n  clusters:\n";
        let (first, second) = (cluster("cluster01", first), cluster("cluster02", second));
        MeshFile::parse("mesh.yaml", &format!("{head}{first}{second}"))
    };
    let told = |first, second| two(first, second).expect_err("one cluster twice").to_string();
    assert_eq!(
        told("{context: prod}", "{context: prod}"),
        "mesh.yaml:13:17: spec.clusters[1].kubeconfig: cluster `cluster02` has the same context `prod` as cluster `cluster01` (line 6); give each cluster its own, or remove one of the two"
    );
    let file = "{context: prod, file: a}";
    assert!(told(file, file).contains("the same context `prod` as cluster `cluster01`"));
    assert!(two("{context: prod}", "{context: test}").is_ok());
    assert!(two("{context: admin, file: a}", "{context: admin, file: b}").is_ok());
}

#[test]
fn pools_off_the_bridge_or_overlapping_are_refused() {
    assert_snapshot!(problems(&[("172.18.12.0-172.18.12.255", "172.18.11.128-172.18.12.255")]));
    assert_snapshot!(problems(&[("172.18.12.0-172.18.12.255", "192.168.1.1-192.168.1.9")]));
}

#[test]
fn every_mistake_is_reported_not_only_the_first() {
    let error = MeshFile::parse(
        "mesh.yaml",
        &file(&[
            ("10.10.0.0/16", "10.10.0.0"),
            ("name: cluster02", "name: Cluster_2"),
            ("kind: Mesh", "kind: Mash"),
        ]),
    )
    .expect_err("the file is wrong");
    let fields: Vec<_> = error.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["kind", "spec.clusters[0].lab.podSubnet", "spec.clusters[1].name"]);
}

#[test]
fn paths_are_relative_to_the_mesh_file() {
    let text =
        file(&[("rootCA: SelfSigned", "rootCA: {Files: {certificate: ca.pem, key: /k.pem}}")]);
    let mesh = MeshFile::parse("some/where/mesh.yaml", &text).unwrap();
    assert_eq!(
        mesh.root_ca,
        RootCa::Files { certificate: "some/where/ca.pem".into(), key: "/k.pem".into() }
    );
}
