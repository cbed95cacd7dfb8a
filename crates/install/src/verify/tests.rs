use super::*;

fn pods() -> Pods {
    let pod = |name: &str, cluster: &str, network: &str, address: &str| {
        let pod = probe::Pod {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            network: network.to_owned(),
            address: address.to_owned(),
        };
        (name.to_owned(), pod)
    };
    Pods::from([
        pod("a", "cluster01", "network1", "10.10.0.9"),
        pod("b", "cluster02", "network2", "10.10.0.9"),
    ])
}

#[test]
fn shares_are_by_cluster_and_strangers_are_reported() {
    let mut answers = Answers { sent: 201, ..Answers::default() };
    answers.by_pod.insert(("v1".to_owned(), "a".to_owned()), 103);
    answers.by_pod.insert(("v2".to_owned(), "b".to_owned()), 97);
    answers.by_pod.insert(("v3".to_owned(), "c".to_owned()), 1);
    let (listed, strangers) = shares(&pods(), &answers);
    let counts: Vec<_> =
        listed.iter().map(|answer| (answer.cluster.as_str(), answer.count)).collect();
    assert_eq!(counts, [("cluster01", 103), ("cluster02", 97)]);
    assert_eq!(strangers, ["1 answers came from `c`, which is no ready pod of the service"]);
    assert!(balance("network1", &pods(), &listed).holds);
    assert!(!balance("network1", &pods(), &listed[..1]).holds);
}

#[test]
fn clusters_behind_the_same_gateways_share_their_part_as_they_like() {
    let mut pods = pods();
    let (name, cluster) = ("c".to_owned(), "cluster03".to_owned());
    pods.insert(name.clone(), probe::Pod { name, cluster, ..pods["b"].clone() });
    let answered = |counts: [u32; 3]| -> Vec<Answer> {
        let name = |(pod, count): (&str, u32)| Answer {
            cluster: pods[pod].cluster.clone(),
            version: "v1".to_owned(),
            pod: pod.to_owned(),
            count,
        };
        ["a", "b", "c"].into_iter().zip(counts).map(name).collect()
    };
    // Seen from network1, `b` and `c` lie behind gateways; on their own network they do not.
    let uneven = answered([70, 10, 120]);
    assert!(balance("network1", &pods, &uneven).holds);
    assert!(!balance("network2", &pods, &uneven).holds);
    assert!(!balance("network1", &pods, &answered([130, 35, 35])).holds);
}
