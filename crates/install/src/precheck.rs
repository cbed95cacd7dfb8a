//! Whether a cluster can be installed into: `x precheck`. Reads, and asks what it may do.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::analyze::collect;
use crate::analyze::message::{Level, Message};
use crate::analyze::world::World;
use crate::cluster::{CallError, Cluster};
use crate::object::Object;
use crate::operator::Operator;
use crate::render::render;

/// The oldest Kubernetes that is supported: 1.32, as Istio's.
const OLDEST: (u32, u32) = (1, 32);

/// What was found.
#[derive(Debug)]
pub struct Precheck {
    pub messages: Vec<Message>,
    /// What is good to know and no problem: the installations that are there.
    pub notes: Vec<String>,
}

/// Checks a cluster for an installation of a revision in `namespace`.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn check(
    cluster: &Cluster,
    namespace: &str,
    revision: &str,
) -> Result<Precheck, CallError> {
    let mut messages = Vec::new();
    let version = cluster.client().apiserver_version().await;
    let version = version.map_err(|error| cluster.failed("get", "the server's version", error))?;
    if let Some(text) = too_old(&version.major, &version.minor) {
        messages.push(about_cluster(cluster, "IST0142", text));
    }
    messages.extend(permissions(cluster, namespace).await?);
    let objects = collect::objects(cluster, cluster.name()).await?;
    let links = collect::links(cluster, namespace).await.unwrap_or_default();
    let world = World {
        clusters: vec![objects],
        system: namespace.to_owned(),
        revision: revision.to_owned(),
        linked: links.into_iter().map(|link| link.cluster).collect(),
        ..World::default()
    };
    let webhooks = ["IST0139", "IST0163", "IST0164"];
    messages.extend(
        crate::analyze::analyze(&world).into_iter().filter(|it| webhooks.contains(&it.code)),
    );
    messages.extend(other_definitions(cluster).await?);
    messages.sort();
    Ok(Precheck { notes: installations(&world), messages })
}

fn about_cluster(cluster: &Cluster, code: &'static str, text: String) -> Message {
    Message {
        level: Level::Error,
        code,
        kind: "Cluster".to_owned(),
        namespace: None,
        name: cluster.name().to_owned(),
        reference: String::new(),
        text,
    }
}

fn too_old(major: &str, minor: &str) -> Option<String> {
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().unwrap_or(0)
    };
    let found = (number(major), number(minor));
    (found < OLDEST).then(|| {
        let (major, minor) = OLDEST;
        format!("Kubernetes is {}.{}, but {major}.{minor} is needed", found.0, found.1)
    })
}

/// IST0141: what installing writes and this user may not.
async fn permissions(cluster: &Cluster, namespace: &str) -> Result<Vec<Message>, CallError> {
    let spec = json!({"values": {"global": {"istioNamespace": namespace}}});
    let Ok(operator) = Operator::from_spec("installed-state".to_owned(), spec) else {
        return Ok(Vec::new());
    };
    let mut wanted: BTreeSet<(String, String, String, &str)> = BTreeSet::new();
    let namespaces = Object::new(json!({"apiVersion": "v1", "kind": "Namespace"}));
    let rendered = render(&operator).into_iter().flat_map(|component| component.objects);
    for object in rendered.chain([namespaces]) {
        let resource = object.resource();
        let inside = if object.is_namespaced() { namespace } else { "" };
        for verb in ["create", "patch", "delete"] {
            let one = (resource.group.clone(), resource.plural.clone(), inside.to_owned(), verb);
            wanted.insert(one);
        }
    }
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client().clone());
    let asked = wanted.into_iter().map(|(group, resource, inside, verb)| {
        let reviews = reviews.clone();
        async move {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.clone()),
                        resource: Some(resource.clone()),
                        namespace: Some(inside.clone()),
                        verb: Some(verb.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = reviews.create(&PostParams::default(), &review).await;
            let answer = answer
                .map_err(|error| cluster.failed("create", "SelfSubjectAccessReview", error))?;
            let allowed = answer.status.is_some_and(|status| status.allowed);
            let place = if inside.is_empty() {
                "in the cluster".to_owned()
            } else {
                format!("in namespace {inside}")
            };
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            Ok::<_, CallError>((!allowed).then(|| format!("{verb} {resource}{group} {place}")))
        }
    });
    let denied: Vec<String> = try_join_all(asked).await?.into_iter().flatten().collect();
    let say = |what: String| {
        let text = format!("you may not {what}, which installing needs");
        about_cluster(cluster, "IST0141", text)
    };
    Ok(denied.into_iter().map(say).collect())
}

/// Definitions of Istio's kinds that somebody else manages and that lack versions we serve.
async fn other_definitions(cluster: &Cluster) -> Result<Vec<Message>, CallError> {
    let spec = json!({"profile": "empty", "components": {"base": {"enabled": true}}});
    let operator = Operator::from_spec("installed-state".to_owned(), spec);
    let rendered = operator.map(|operator| render(&operator)).unwrap_or_default();
    let definitions: Vec<Object> = rendered
        .into_iter()
        .flat_map(|component| component.objects)
        .filter(|object| object.kind() == "CustomResourceDefinition")
        .collect();
    let mut messages = Vec::new();
    for definition in definitions {
        let Some(live) = cluster.get(&definition).await? else { continue };
        let stored = live.data.pointer("/status/storedVersions");
        let versions = definition.value().pointer("/spec/versions").and_then(|it| it.as_array());
        let served: Vec<&str> =
            versions.into_iter().flatten().filter_map(|it| it.get("name")?.as_str()).collect();
        let gone: Vec<&str> = stored
            .and_then(|it| it.as_array())
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str())
            .filter(|version| !served.contains(version))
            .collect();
        if !gone.is_empty() {
            let text = format!(
                "objects are stored as {}, which installing would no longer serve: migrate them \
                 first",
                gone.join(", ")
            );
            messages.push(Message::about(&definition, Level::Error, "IST0169", text));
        }
    }
    Ok(messages)
}

/// The control planes that are there.
fn installations(world: &World) -> Vec<String> {
    let deployments = world.of("Deployment").filter(|it| it.label("app") == Some("istiod"));
    let note = |deployment: &Object| {
        let owner = deployment.label("install.operator.istio.io/owning-resource");
        format!(
            "control plane {} of revision {} is installed (by {}, version {})",
            deployment.reference(),
            deployment.label("istio.io/rev").unwrap_or("default"),
            owner.unwrap_or("somebody else"),
            deployment.label("operator.istio.io/version").unwrap_or("unknown"),
        )
    };
    let mut notes: Vec<String> = deployments.map(note).collect();
    notes.sort();
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kubernetes_is_said() {
        assert_eq!(too_old("1", "36"), None);
        assert_eq!(too_old("1", "32+"), None);
        assert_eq!(too_old("1", "27"), Some("Kubernetes is 1.27, but 1.32 is needed".to_owned()));
    }
}
