//! The lab's controllers against a real kube-apiserver that has no controllers of its own, driven
//! by a real kubectl.

#![cfg(test)]

mod cluster;

use cluster::cluster;

fn deployment(name: &str, image: &str, replicas: u32) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{
          replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, template: {{
            metadata: {{labels: {{app: {name}}}}},
            spec: {{terminationGracePeriodSeconds: 1,
              containers: [{{name: c, image: {image}}}]}}}}}}}}"
    )
}

#[test]
fn a_deployment_rolls_out_and_back_with_kubectl() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace rollout");
    cluster.apply("rollout", &deployment("web", "ready", 3));
    let wait = "-n rollout rollout status deployment/web --timeout=90s";
    cluster.kubectl(wait);
    cluster.kubectl("-n rollout set image deployment/web c=ready:2");
    cluster.kubectl(wait);
    let image = "-n rollout get pods -o jsonpath={.items[*].spec.containers[0].image}";
    cluster.until(image, "ready:2 ready:2 ready:2");
    cluster.kubectl("-n rollout rollout undo deployment/web");
    cluster.kubectl(wait);
    cluster.until(image, "ready ready ready");
    let revisions = "-n rollout get replicasets --sort-by=.metadata.name -o \
                     jsonpath={range.items[*]}{.metadata.annotations}{end}";
    let held = cluster.kubectl(revisions);
    assert!(held.contains("\"deployment.kubernetes.io/revision\":\"2\""), "{held}");
    assert!(held.contains("\"deployment.kubernetes.io/revision\":\"3\""), "{held}");
    assert!(held.contains("\"deployment.kubernetes.io/revision-history\":\"1\""), "{held}");
    cluster.kubectl("-n rollout scale deployment/web --replicas=5");
    cluster.kubectl(wait);
    cluster.kubectl("-n rollout wait deployment/web --for=condition=Available --timeout=90s");
    let counts = "-n rollout get deployment web -o jsonpath={.status.replicas}/{.status.updatedReplicas}/{.status.readyReplicas}/{.status.availableReplicas}";
    cluster.until(counts, "5/5/5/5");
}

#[test]
fn a_rollout_that_cannot_progress_says_so_and_keeps_the_old_pods() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace stuck");
    let manifest =
        deployment("web", "ready", 2).replace("replicas:", "progressDeadlineSeconds: 3, replicas:");
    cluster.apply("stuck", &manifest);
    cluster.kubectl("-n stuck rollout status deployment/web --timeout=90s");
    cluster.kubectl("-n stuck set image deployment/web c=unready");
    let reason = "-n stuck get deployment web -o \
                  jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}";
    cluster.until(reason, "ProgressDeadlineExceeded");
    let available = "-n stuck get deployment web -o jsonpath={.status.availableReplicas}";
    assert_eq!(cluster.kubectl(available), "2");
}

#[test]
fn endpoint_slices_follow_the_readiness_of_pods() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace slices");
    cluster.apply("slices", &deployment("web", "unready", 2));
    cluster.kubectl("-n slices expose deployment web --port=80 --target-port=8080");
    let ready = "-n slices get endpointslices -l kubernetes.io/service-name=web -o \
                 jsonpath={.items[*].endpoints[*].conditions.ready}";
    cluster.until(ready, "false false");
    cluster.kubectl("-n slices set image deployment/web c=ready");
    cluster.until(ready, "true true");
    let slices = "-n slices get endpointslices -l kubernetes.io/service-name=web -o \
                  jsonpath={.items[*].ports[*].port}/{.items[*].metadata.labels.endpointslice\\.kubernetes\\.io/managed-by}";
    cluster.until(slices, "8080/endpointslice-controller.k8s.io");
    let legacy =
        "-n slices get endpoints web -o jsonpath={.subsets[*].addresses[*].targetRef.kind}";
    cluster.until(legacy, "Pod Pod");
    cluster.kubectl("-n slices delete service web");
    cluster.until("-n slices get endpointslices,endpoints -o name", "");
}

#[test]
fn a_deleted_namespace_goes_with_everything_in_it() {
    let Some(cluster) = cluster() else { return };
    let definition = "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition,
        metadata: {name: things.example.com}, spec: {group: example.com, scope: Namespaced,
        names: {plural: things, singular: thing, kind: Thing, listKind: ThingList},
        versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {
        type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}";
    cluster.apply("default", definition);
    cluster.kubectl("wait crd/things.example.com --for=condition=Established --timeout=90s");
    cluster.kubectl("create namespace doomed");
    cluster.until(
        "-n doomed get serviceaccount,configmap -o name",
        "serviceaccount/default\nconfigmap/kube-root-ca.crt\n",
    );
    cluster.apply("doomed", &deployment("web", "ready", 1));
    cluster.apply(
        "doomed",
        "{apiVersion: example.com/v1, kind: Thing, metadata: {name: held, finalizers: [example.com/hold]}}",
    );
    cluster.kubectl("delete namespace doomed --wait=false");
    let why = "get namespace doomed -o \
               jsonpath={.status.conditions[?(@.type==\"NamespaceFinalizersRemaining\")].message}";
    let text = "Some content in the namespace has finalizers remaining: example.com/hold in 1 \
                resource instances";
    cluster.until(why, text);
    cluster.kubectl("-n doomed patch thing held --type=json -p=[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]");
    cluster.kubectl("wait namespace/doomed --for=delete --timeout=90s");
}

#[test]
fn dependents_go_in_the_background_go_first_in_the_foreground_or_live_on_as_orphans() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace garbage");
    let everything = "-n garbage get deployments,replicasets,pods -o name";
    let make = |name: &str| {
        cluster.apply("garbage", &deployment(name, "ready", 2));
        cluster.kubectl(&format!("-n garbage rollout status deployment/{name} --timeout=90s"));
    };
    make("background");
    cluster.kubectl("-n garbage delete deployment background --cascade=background");
    cluster.until(everything, "");

    make("foreground");
    cluster.kubectl("-n garbage delete deployment foreground --cascade=foreground --timeout=90s");
    // kubectl waited for the owner, which went last.
    assert_eq!(cluster.kubectl("-n garbage get replicasets,pods -o name"), "");

    make("orphan");
    cluster.kubectl("-n garbage delete deployment orphan --cascade=orphan");
    cluster
        .until("-n garbage get replicasets -o jsonpath={.items[*].metadata.ownerReferences}", "");
    let pods = "-n garbage get pods -o jsonpath={.items[*].status.phase}";
    assert_eq!(cluster.kubectl(pods), "Running Running");
    // The same Deployment takes its ReplicaSet back.
    make("orphan");
    let owners =
        "-n garbage get replicasets -o jsonpath={.items[*].metadata.ownerReferences[0].kind}";
    cluster.until(owners, "Deployment");
}

#[test]
fn load_balancer_addresses_come_from_the_clusters_pool_and_then_from_metallbs_objects() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace lb");
    for name in ["one", "two"] {
        cluster.kubectl(&format!("-n lb create service loadbalancer {name} --tcp=80"));
    }
    let address = |name: &str| {
        format!("-n lb get service {name} -o jsonpath={{.status.loadBalancer.ingress[*].ip}}")
    };
    let both = "-n lb get services -o jsonpath={.items[*].status.loadBalancer.ingress[0].ip}";
    let pool = |got: &str| {
        let mut got: Vec<_> = got.split(' ').collect();
        got.sort_unstable();
        got == ["172.18.11.1", "172.18.11.2"]
    };
    cluster.until_it(both, "the first two addresses", pool);
    cluster.kubectl("-n lb patch service one -p={\"spec\":{\"type\":\"ClusterIP\"}}");
    cluster.until(&address("one"), "");

    let manifest = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../samples/metallb/metallb-native.yaml"),
    )
    .unwrap();
    // Only the definitions: what runs in pods is not here.
    for document in manifest.split("\n---\n").filter(|d| d.contains("CustomResourceDefinition")) {
        cluster.apply("default", document);
    }
    let established =
        "wait crd/ipaddresspools.metallb.io --for=condition=Established --timeout=90s";
    cluster.kubectl(established);
    cluster.apply(
        "default",
        "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: small},
          spec: {addresses: [172.18.12.0-172.18.12.0]}}",
    );
    cluster.until(&address("two"), "172.18.12.0");
    cluster.kubectl("-n lb create service loadbalancer three --tcp=80");
    let events = "-n lb get events --field-selector reason=AllocationFailed -o \
                  jsonpath={.items[?(@.involvedObject.name==\"three\")].message}";
    cluster.until(events, "Failed to allocate IP for \"lb/three\": no available IPs");
    cluster.kubectl("-n lb delete service two");
    cluster.until(&address("three"), "172.18.12.0");
}

#[test]
fn daemon_sets_stateful_sets_and_jobs_run_to_where_kubectl_waits_for_them() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace sets");
    let set = |kind: &str, more: &str| {
        deployment("x", "ready", 2)
            .replace("kind: Deployment", &format!("kind: {kind}"))
            .replace("replicas: 2,", more)
    };
    cluster.apply("sets", &set("DaemonSet", "").replace("app: x", "app: d"));
    cluster.apply("sets", &set("StatefulSet", "replicas: 2, serviceName: x,"));
    cluster.kubectl("-n sets rollout status daemonset/x --timeout=90s");
    cluster.kubectl("-n sets rollout status statefulset/x --timeout=90s");
    let names = "-n sets get pods -l app=x -o jsonpath={.items[*].metadata.name}";
    assert_eq!(cluster.kubectl(names), "x-0 x-1");
    cluster.kubectl("-n sets set image statefulset/x c=ready:2");
    cluster.kubectl("-n sets set image daemonset/x c=ready:2");
    cluster.kubectl("-n sets rollout status statefulset/x --timeout=90s");
    cluster.kubectl("-n sets rollout status daemonset/x --timeout=90s");
    let images = "-n sets get pods -o jsonpath={.items[*].spec.containers[0].image}";
    cluster.until(images, "ready:2 ready:2 ready:2");
    cluster.apply(
        "sets",
        "{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {completions: 3,
          parallelism: 2, template: {spec: {restartPolicy: Never,
          containers: [{name: c, image: done}]}}}}",
    );
    cluster.kubectl("-n sets wait job/j --for=condition=Complete --timeout=90s");
    cluster.until("-n sets get job j -o jsonpath={.status.succeeded}", "3");
}

#[test]
fn a_long_lived_token_is_filled_in_and_goes_with_its_account() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace tokens");
    cluster.kubectl("-n tokens create serviceaccount reader");
    cluster.apply(
        "tokens",
        "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token,
          metadata: {name: reader-token,
          annotations: {kubernetes.io/service-account.name: reader}}}",
    );
    let token = "-n tokens get secret reader-token -o go-template={{.data.token|base64decode}}";
    cluster.until_it(token, "a token", |got| got.starts_with("ey"));
    let token = cluster.kubectl(token);
    let who = cluster
        .kubectl(&format!("--token={token} auth whoami -o jsonpath={{.status.userInfo.username}}"));
    assert_eq!(who, "system:serviceaccount:tokens:reader");
    cluster.kubectl("-n tokens delete serviceaccount reader");
    cluster.until("-n tokens get secrets -o name", "");
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let Some(cluster) = cluster() else { return };
    cluster.kubectl("create namespace nowhere");
    cluster.until("-n nowhere get serviceaccounts -o name", "serviceaccount/default\n");
    cluster.apply(
        "nowhere",
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeSelector: {disk: ssd},
          containers: [{name: c, image: ready}]}}",
    );
    let why = "-n nowhere get pod p -o \
               jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    let text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    cluster.until(why, text);
    cluster.kubectl(&format!("label node {} disk=ssd", cluster::NODE));
    cluster.kubectl("-n nowhere wait pod/p --for=condition=Ready --timeout=90s");
}
