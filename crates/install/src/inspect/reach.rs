//! Asks control planes and proxies, by the programs `pilot-discovery` and `pilot-agent` in their
//! own containers, as one can by hand with `kubectl exec`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use kube::core::{NamespaceResourceScope, Selector};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::cluster::{CallError, Cluster};
use crate::exec::{self, Container, ExecError};

/// The container of a control plane's pod.
const DISCOVERY: &str = "discovery";
/// The container of a proxy.
const PROXY: &str = "istio-proxy";
/// Where a proxy's admin server is.
pub const ADMIN_PORT: u16 = 15000;

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(
        "cluster {cluster}: unable to find any Istiod instances: no running pod with label {selector} in namespace {namespace}; name the cluster of the control plane by --context, and its namespace by --istioNamespace"
    )]
    NoIstiod { cluster: String, namespace: String, selector: String },
    #[error(
        "`{0}` is not of the form [TYPE/]NAME[.NAMESPACE], where TYPE is pod, deployment, statefulset, daemonset, replicaset, job or service"
    )]
    Name(String),
    #[error("cluster {cluster}: {object} selects no pods by their labels")]
    NoSelector { cluster: String, object: String },
    #[error("cluster {cluster}: the selector of {object} cannot be used")]
    Selector { cluster: String, object: String, source: kube::core::ParseExpressionError },
    #[error("cluster {cluster}: no pods match {object}")]
    NoPods { cluster: String, object: String },
    #[error("cluster {cluster}: pod {pod} has no container {PROXY}: it is not part of the mesh")]
    NoProxy { cluster: String, pod: String },
    #[error("cluster {cluster}: pod {pod} answers {what}, which cannot be read")]
    Answer { cluster: String, pod: String, what: String, source: serde_json::Error },
}

/// One pod of a control plane.
#[derive(Clone, Debug)]
pub struct Istiod {
    pub pod: String,
    pub namespace: String,
    pub revision: String,
    /// Its label `istio`, which names it in lists of versions.
    pub component: String,
    pub ready: bool,
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    pub name: String,
    pub namespace: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

fn labels(pod: &Pod, name: &str) -> String {
    pod.labels().get(name).cloned().unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// The running pods of the control plane, of one revision or all, by name.
///
/// # Errors
/// When there are none, or the API server cannot be asked.
pub async fn istiods(
    cluster: &Cluster,
    namespace: &str,
    revision: Option<&str>,
) -> Result<Vec<Istiod>, ReachError> {
    let mut selector = "app=istiod".to_owned();
    if let Some(revision) = revision {
        selector.push_str(&format!(",istio.io/rev={revision}"));
    }
    let api: Api<Pod> = cluster.namespaced(namespace);
    let params = ListParams::default().labels(&selector).fields("status.phase=Running");
    let listed = api.list(&params).await;
    let pods = listed.map_err(|source| {
        cluster.failed("list", format!("pods with label {selector} in {namespace}"), source)
    })?;
    let mut found: Vec<Istiod> = pods
        .iter()
        .filter(|pod| is_running(pod))
        .map(|pod| Istiod {
            pod: pod.name_any(),
            namespace: namespace.to_owned(),
            revision: labels(pod, "istio.io/rev"),
            component: labels(pod, "istio"),
            ready: is_ready(pod),
        })
        .collect();
    if found.is_empty() {
        let (cluster, namespace) = (cluster.name().to_owned(), namespace.to_owned());
        return Err(ReachError::NoIstiod { cluster, namespace, selector });
    }
    found.sort_by(|a, b| a.pod.cmp(&b.pod));
    Ok(found)
}

/// What a control plane answers to `GET path`, such as `/debug/syncz`.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn ask_istiod(
    cluster: &Cluster,
    istiod: &Istiod,
    path: &str,
) -> Result<String, ReachError> {
    let place = Container {
        namespace: istiod.namespace.clone(),
        pod: istiod.pod.clone(),
        container: DISCOVERY.to_owned(),
    };
    let command = ["pilot-discovery", "request", "GET", path].map(str::to_owned);
    Ok(exec::output(cluster, &place, &command, false).await?)
}

/// The same, read as JSON.
///
/// # Errors
/// As [`ask_istiod`], and when the answer is something else.
pub async fn read_istiod<T: DeserializeOwned>(
    cluster: &Cluster,
    istiod: &Istiod,
    path: &str,
) -> Result<T, ReachError> {
    let text = ask_istiod(cluster, istiod, path).await?;
    serde_json::from_str(&text).map_err(|source| ReachError::Answer {
        cluster: cluster.name().to_owned(),
        pod: istiod.pod.clone(),
        what: path.to_owned(),
        source,
    })
}

/// What a proxy's admin server answers, for example to `GET config_dump`.
///
/// # Errors
/// When the pod has no proxy, or it does not answer.
pub async fn ask_proxy(
    cluster: &Cluster,
    pod: &PodName,
    port: u16,
    method: &str,
    path: &str,
) -> Result<String, ReachError> {
    let api: Api<Pod> = cluster.namespaced(&pod.namespace);
    let found = api.get(&pod.name).await;
    let found = found.map_err(|source| {
        cluster.failed("get", format!("pod {} in namespace {}", pod.name, pod.namespace), source)
    })?;
    // As a native sidecar the proxy is one of the init containers.
    let spec = found.spec.unwrap_or_default();
    let inits = spec.init_containers.iter().flatten();
    if !spec.containers.iter().chain(inits).any(|container| container.name == PROXY) {
        let (cluster, pod) = (cluster.name().to_owned(), pod.to_string());
        return Err(ReachError::NoProxy { cluster, pod });
    }
    let place = Container {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        container: PROXY.to_owned(),
    };
    let mut command = vec!["pilot-agent".to_owned(), "request".to_owned()];
    if port != ADMIN_PORT {
        command.push(format!("--debug-port={port}"));
    }
    command.extend([method.to_owned(), path.to_owned()]);
    Ok(exec::output(cluster, &place, &command, false).await?)
}

/// The namespace in which names without one are looked up: the context's.
pub fn default_namespace(cluster: &Cluster) -> &str {
    cluster.client().default_namespace()
}

/// Takes `[TYPE/]NAME[.NAMESPACE]` apart: type, name and namespace.
///
/// # Errors
/// When a part is empty.
pub fn parse(text: &str, namespace: &str) -> Result<(Option<String>, PodName), ReachError> {
    let bad = || ReachError::Name(text.to_owned());
    let (kind, rest) = match text.rsplit_once('/') {
        Some((kind, rest)) => (Some(kind), rest),
        None => (None, text),
    };
    let (name, namespace) = rest.rsplit_once('.').unwrap_or((rest, namespace));
    if name.is_empty() || namespace.is_empty() || kind == Some("") {
        return Err(bad());
    }
    let pod = PodName { name: name.to_owned(), namespace: namespace.to_owned() };
    Ok((kind.map(str::to_lowercase), pod))
}

/// All pods that `text` names, the most useful first: running, then ready, then longest ready.
///
/// # Errors
/// When the object does not exist or selects no pods.
pub async fn pods(
    cluster: &Cluster,
    text: &str,
    namespace: &str,
) -> Result<Vec<PodName>, ReachError> {
    let (kind, target) = parse(text, namespace)?;
    let Some(kind) = kind else { return Ok(vec![target]) };
    let selector = match kind.split('.').next().unwrap_or_default() {
        "pod" | "pods" | "po" => return Ok(vec![target]),
        "deployment" | "deployments" | "deploy" => {
            let object = get::<Deployment>(cluster, &target).await?;
            object.spec.map(|spec| spec.selector)
        }
        "statefulset" | "statefulsets" | "sts" => {
            let object = get::<StatefulSet>(cluster, &target).await?;
            object.spec.map(|spec| spec.selector)
        }
        "daemonset" | "daemonsets" | "ds" => {
            get::<DaemonSet>(cluster, &target).await?.spec.map(|spec| spec.selector)
        }
        "replicaset" | "replicasets" | "rs" => {
            get::<ReplicaSet>(cluster, &target).await?.spec.map(|spec| spec.selector)
        }
        "job" | "jobs" => get::<Job>(cluster, &target).await?.spec.and_then(|spec| spec.selector),
        "service" | "services" | "svc" => {
            let spec = get::<Service>(cluster, &target).await?.spec;
            spec.and_then(|spec| spec.selector).map(|labels| LabelSelector {
                match_labels: Some(labels),
                ..LabelSelector::default()
            })
        }
        _ => return Err(ReachError::Name(text.to_owned())),
    };
    let object = format!("{kind}/{target}");
    let empty = LabelSelector::default();
    let selector = selector.filter(|selector| *selector != empty).ok_or_else(|| {
        ReachError::NoSelector { cluster: cluster.name().to_owned(), object: object.clone() }
    })?;
    let selector = Selector::try_from(selector).map_err(|source| ReachError::Selector {
        cluster: cluster.name().to_owned(),
        object: object.clone(),
        source,
    })?;
    let params = ListParams::default().labels_from(&selector);
    selected(cluster, &target.namespace, &params, object).await
}

/// The pods with the labels that `selector` wants, such as `app=istiod`.
///
/// # Errors
/// When there are none.
pub async fn labelled(
    cluster: &Cluster,
    selector: &str,
    namespace: &str,
) -> Result<Vec<PodName>, ReachError> {
    let params = ListParams::default().labels(selector);
    selected(cluster, namespace, &params, format!("{selector} in namespace {namespace}")).await
}

/// The most useful pod that `text` names.
///
/// # Errors
/// As [`pods`].
pub async fn pod(cluster: &Cluster, text: &str, namespace: &str) -> Result<PodName, ReachError> {
    let mut found = pods(cluster, text, namespace).await?;
    Ok(found.swap_remove(0))
}

async fn get<K>(cluster: &Cluster, target: &PodName) -> Result<K, ReachError>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = cluster.namespaced(&target.namespace);
    let reference = || {
        let kind = K::kind(&K::DynamicType::default()).into_owned();
        format!("{kind} {} in namespace {}", target.name, target.namespace)
    };
    Ok(api.get(&target.name).await.map_err(|source| cluster.failed("get", reference(), source))?)
}

async fn selected(
    cluster: &Cluster,
    namespace: &str,
    params: &ListParams,
    object: String,
) -> Result<Vec<PodName>, ReachError> {
    let api: Api<Pod> = cluster.namespaced(namespace);
    let listed = api.list(params).await;
    let mut pods =
        listed.map_err(|source| cluster.failed("list", format!("pods of {object}"), source))?.items;
    pods.sort_by_cached_key(|pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|it| it.type_ == "Ready");
        let since = ready.and_then(|it| it.last_transition_time.clone()).map(|time| time.0);
        (!is_running(pod), !is_ready(pod), since, pod.name_any())
    });
    if pods.is_empty() {
        return Err(ReachError::NoPods { cluster: cluster.name().to_owned(), object });
    }
    let name = |pod: &Pod| PodName { name: pod.name_any(), namespace: namespace.to_owned() };
    Ok(pods.iter().map(name).collect())
}

/// The level of proxies' logs that the injection of the mesh asks for, if it says so.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn mesh_log_level(
    cluster: &Cluster,
    namespace: &str,
    revision: Option<&str>,
) -> Result<Option<String>, ReachError> {
    use k8s_openapi::api::core::v1::ConfigMap;
    let name = match revision {
        None | Some("" | "default") => "istio-sidecar-injector".to_owned(),
        Some(revision) => format!("istio-sidecar-injector-{revision}"),
    };
    let api: Api<ConfigMap> = cluster.namespaced(namespace);
    let map = api.get_opt(&name).await;
    let map = map.map_err(|source| cluster.failed("get", format!("ConfigMap {name}"), source))?;
    let data: BTreeMap<String, String> = map.and_then(|map| map.data).unwrap_or_default();
    let values = data.get("values").and_then(|text| serde_saphyr::from_str(text).ok());
    let values: serde_json::Value = values.unwrap_or_default();
    let level = values.pointer("/global/proxy/logLevel").and_then(serde_json::Value::as_str);
    Ok(level.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_istioctl_does() {
        let of = |text: &str| {
            let (kind, pod) = parse(text, "default").unwrap();
            (kind, pod.name, pod.namespace)
        };
        let s = str::to_owned;
        assert_eq!(of("sleep"), (None, s("sleep"), s("default")));
        assert_eq!(of("sleep-1.sample"), (None, s("sleep-1"), s("sample")));
        assert_eq!(of("deploy/sleep.sample"), (Some(s("deploy")), s("sleep"), s("sample")));
        assert_eq!(of("Deployment.apps/a"), (Some(s("deployment.apps")), s("a"), s("default")));
        for bad in ["", "deploy/", "/a", "a.", ".a"] {
            assert!(parse(bad, "default").is_err(), "{bad}");
        }
    }
}
