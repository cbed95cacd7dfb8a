//! What people do with kubectl. Every test has its own server.

use serde_json::{Value, json};

use crate::harness::{Cluster, needs};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx:1
        ports: [{containerPort: 80, name: http}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

/// Compares output whose columns are padded.
#[track_caller]
fn assert_table(output: &str, want: &[&str]) {
    let lines: Vec<String> =
        output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, want);
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    assert_eq!(cluster.kubectl("create namespace shop").await, "namespace/shop created\n");
    let made =
        cluster.kubectl("-n shop create configmap c --from-literal=a=1 --from-literal=b=two").await;
    assert_eq!(made, "configmap/c created\n");
    assert_eq!(cluster.kubectl("-n shop get cm c -o jsonpath={.data.b}").await, "two");
    cluster.kubectl("-n shop label cm c tier=back").await;
    cluster.kubectl("-n shop annotate cm c note=x").await;
    assert_eq!(cluster.kubectl("-n shop get cm -l tier=back -o name").await, "configmap/c\n");
    assert_eq!(cluster.kubectl("-n shop get cm -l tier!=back,tier -o name").await, "");
    let json = r#"'{"data":{"a":null,"c":"3"}}'"#;
    cluster.kubectl(&format!("-n shop patch cm c --type=merge -p {json}")).await;
    let data = cluster.kubectl("-n shop get cm c -o jsonpath={.data}").await;
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), json!({"b": "two", "c": "3"}));
    // Newer versions add the namespace.
    let deleted = cluster.kubectl("-n shop delete cm c").await;
    assert!(deleted.starts_with("configmap \"c\" deleted"), "{deleted}");
    let (code, _, err) = cluster.try_kubectl("admin", "-n shop get cm c", "").await;
    assert_eq!(
        (code, err.as_str()),
        (1, "Error from server (NotFound): configmaps \"c\" not found\n")
    );
}

#[tokio::test]
async fn manifests_are_applied_by_client_and_by_server() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let applied = cluster.kubectl_with("apply -f -", DEPLOYMENT).await;
    assert_eq!(applied, "deployment.apps/web created\nservice/web created\n");
    let again = cluster.kubectl_with("apply -f -", DEPLOYMENT).await;
    assert_eq!(again, "deployment.apps/web unchanged\nservice/web unchanged\n");
    let (code, diff, _) = cluster.try_kubectl("admin", "diff -f -", DEPLOYMENT).await;
    assert_eq!((code, diff.as_str()), (0, ""));

    let changed = DEPLOYMENT
        .replace("replicas: 2", "replicas: 3")
        .replace("targetPort: http", "targetPort: 8080");
    let (code, diff, _) = cluster.try_kubectl("admin", "diff -f -", &changed).await;
    assert_eq!(code, 1);
    assert!(diff.contains("+  replicas: 3"), "{diff}");
    let applied = cluster.kubectl_with("apply -f -", &changed).await;
    assert_eq!(applied, "deployment.apps/web configured\nservice/web configured\n");
    let ports = cluster.kubectl("get svc web -o jsonpath={.spec.ports[*].targetPort}").await;
    assert_eq!(ports, "8080");

    let conflict = cluster
        .try_kubectl("admin", "apply --server-side --field-manager=other -f -", DEPLOYMENT)
        .await;
    assert_eq!(conflict.0, 1);
    assert!(conflict.2.contains("conflict with \"kubectl-client-side-apply\""), "{}", conflict.2);
    let forced = cluster
        .kubectl_with(
            "apply --server-side --force-conflicts --field-manager=other -f -",
            DEPLOYMENT,
        )
        .await;
    assert_eq!(forced, "deployment.apps/web serverside-applied\nservice/web serverside-applied\n");
    assert_eq!(cluster.kubectl("get deploy web -o jsonpath={.spec.replicas}").await, "2");
}

#[tokio::test]
async fn unknown_fields_and_wrong_types_are_refused_before_anything_is_stored() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let typo = DEPLOYMENT.replace("replicas:", "replica:");
    let (code, out, err) = cluster.try_kubectl("admin", "apply -f -", &typo).await;
    assert_eq!(code, 1, "{out}");
    assert!(err.contains("unknown field \"spec.replica\""), "{err}");
    let wrong = DEPLOYMENT.replace("replicas: 2", "replicas: many");
    let (code, _, err) = cluster.try_kubectl("admin", "apply -f -", &wrong).await;
    assert_eq!(code, 1);
    assert!(err.contains("replicas"), "{err}");
    let left = cluster.try_kubectl("admin", "get deploy web", "").await;
    assert_eq!(left.2, "Error from server (NotFound): deployments.apps \"web\" not found\n");
}

#[tokio::test]
async fn lists_are_printed_selected_and_sorted() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl_with("apply -f -", DEPLOYMENT).await;
    let table = cluster.kubectl("get deploy web --no-headers -o wide").await;
    let cells: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(
        (&cells[..4], &cells[5..]),
        (&["web", "0/2", "0", "0"][..], &["web", "nginx:1", "app=web"][..])
    );
    cluster.kubectl("create namespace zoo").await;
    cluster.kubectl("create namespace ant").await;
    let names = cluster.kubectl("get ns --sort-by=.metadata.name -o name").await;
    let sorted: Vec<&str> = names.lines().collect();
    let mut want = sorted.clone();
    want.sort_unstable();
    assert_eq!(sorted, want);
    assert!(sorted.contains(&"namespace/ant") && sorted.contains(&"namespace/zoo"));
    let columns = cluster
        .kubectl("get svc web -o custom-columns=N:.metadata.name,P:.spec.ports[0].port")
        .await;
    assert_table(&columns, &["N P", "web 80"]);
    let yaml = cluster.kubectl("get svc web -o yaml").await;
    assert!(yaml.contains("targetPort: http"), "{yaml}");
    let field = cluster.kubectl("get ns --field-selector metadata.name=zoo -o name").await;
    assert_eq!(field, "namespace/zoo\n");
}

#[tokio::test]
async fn deployments_are_scaled_changed_and_waited_for() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl_with("apply -f -", DEPLOYMENT).await;
    let scaled = cluster.kubectl("scale deploy web --replicas=1").await;
    assert_eq!(scaled, "deployment.apps/web scaled\n");
    assert_eq!(cluster.kubectl("get deploy web -o jsonpath={.spec.replicas}").await, "1");
    let set = cluster.kubectl("set image deploy/web web=nginx:2").await;
    assert_eq!(set, "deployment.apps/web image updated\n");
    let image = "get deploy web -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(cluster.kubectl(image).await, "nginx:2");

    let generation = cluster.kubectl("get deploy web -o jsonpath={.metadata.generation}").await;
    let status = json!({"status": {
        "observedGeneration": generation.parse::<i64>().unwrap(), "replicas": 1,
        "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
        "conditions": [{"type": "Available", "status": "True"}],
    }});
    let patch = format!("patch deploy web --subresource=status --type=merge -p '{status}'");
    let (patched, waited, rolled) = tokio::join!(
        cluster.kubectl(&patch),
        cluster.kubectl("wait --for=condition=Available deploy/web --timeout=20s"),
        cluster.kubectl("rollout status deploy/web --timeout=20s"),
    );
    assert_eq!(patched, "deployment.apps/web patched\n");
    assert_eq!(waited, "deployment.apps/web condition met\n");
    assert!(rolled.ends_with("deployment \"web\" successfully rolled out\n"), "{rolled}");
    let described = cluster.kubectl("describe deploy web").await;
    assert!(described.contains("Replicas:               1 desired"), "{described}");
    assert!(described.contains("Events:"), "{described}");
}

#[tokio::test]
async fn kinds_are_listed_and_explained() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    let resources = cluster.kubectl("api-resources --no-headers").await;
    let deployments = resources.lines().find(|line| line.starts_with("deployments")).unwrap();
    assert_table(deployments, &["deployments deploy apps/v1 true Deployment"]);
    let versions = cluster.kubectl("api-versions").await;
    assert!(versions.lines().any(|line| line == "apps/v1"));
    assert!(versions.lines().any(|line| line == "v1"));
    let explained = cluster.kubectl("explain deployment.spec.strategy").await;
    assert!(explained.contains("GROUP:      apps"), "{explained}");
    assert!(explained.contains("rollingUpdate\t<RollingUpdateDeployment>"), "{explained}");
    assert!(explained.contains("replace existing pods with new ones"), "{explained}");
    let recursive = cluster.kubectl("explain svc --recursive").await;
    assert!(recursive.contains("targetPort\t<IntOrString>"), "{recursive}");
}

#[tokio::test]
async fn custom_kinds_are_served_printed_explained_and_validated() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl_with("apply -f -", CRD).await;
    cluster.kubectl("wait --for=condition=Established crd/boats.sea.example --timeout=20s").await;
    let boat = "apiVersion: sea.example/v1\nkind: Boat\nmetadata: {name: b}\nspec: {sails: 2}\n";
    assert_eq!(cluster.kubectl_with("apply -f -", boat).await, "boat.sea.example/b created\n");
    assert_table(&cluster.kubectl("get bt").await, &["NAME SAILS", "b 2"]);
    let explained = cluster.kubectl("explain boat.spec.sails").await;
    assert!(explained.contains("How many sails."), "{explained}");
    let wrong = boat.replace("sails: 2", "sails: two");
    let (code, _, err) = cluster.try_kubectl("admin", "apply -f -", &wrong).await;
    assert_eq!(code, 1);
    assert!(err.contains("spec.sails: Invalid value: \"string\""), "{err}");
}

const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example}
spec:
  group: sea.example
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Sails, type: integer, jsonPath: .spec.sails}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              sails: {type: integer, description: How many sails.}
";

#[tokio::test]
async fn rights_are_asked_for_and_granted() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    assert_eq!(cluster.kubectl("auth can-i '*' '*'").await, "yes\n");
    let (code, out, _) = cluster.try_kubectl("jane", "auth can-i list pods", "").await;
    assert_eq!((code, out.as_str()), (1, "no\n"));
    let (_, _, err) = cluster.try_kubectl("jane", "get pods", "").await;
    assert_eq!(
        err,
        "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list resource \
         \"pods\" in API group \"\" in the namespace \"default\"\n"
    );
    cluster.kubectl("create rolebinding v --clusterrole=view --user=jane").await;
    let (code, out, _) = cluster.try_kubectl("jane", "auth can-i list pods", "").await;
    assert_eq!((code, out.as_str()), (0, "yes\n"));
    let (code, _, err) = cluster
        .try_kubectl("jane", "create rolebinding w --clusterrole=cluster-admin --user=jane", "")
        .await;
    assert_eq!(code, 1);
    assert!(err.contains("cannot create resource \"rolebindings\""), "{err}");
    let (_, who, _) =
        cluster.try_kubectl("jane", "auth whoami -o jsonpath={.status.userInfo.groups}", "").await;
    assert_eq!(who, r#"["dev","system:authenticated"]"#);
    let acting = cluster.kubectl("auth can-i list pods --as=jane -n default").await;
    assert_eq!(acting, "yes\n");
}

#[tokio::test]
async fn a_token_of_a_service_account_is_that_account() {
    if !needs(&["kubectl"]) {
        return;
    }
    let cluster = Cluster::start().await;
    cluster.kubectl("create serviceaccount robot").await;
    let token = cluster.kubectl("create token robot --duration=20m").await;
    cluster.pki.kubeconfig("robot", &cluster.url(), Some(token.trim()));
    let (code, who, err) = cluster
        .try_kubectl("robot", "auth whoami -o jsonpath={.status.userInfo.username}", "")
        .await;
    assert_eq!((code, who.as_str()), (0, "system:serviceaccount:default:robot"), "{err}");
    let (code, _, err) = cluster.try_kubectl("admin", "create token robot --duration=5m", "").await;
    assert_eq!(code, 1);
    assert!(err.contains("may not specify a duration less than 10 minutes"), "{err}");
    cluster.kubectl("delete serviceaccount robot").await;
    let (code, _, err) = cluster.try_kubectl("robot", "get pods", "").await;
    assert_eq!(code, 1);
    assert!(err.contains("Unauthorized"), "{err}");
}
