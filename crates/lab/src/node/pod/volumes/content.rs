//! What is in a volume that is made from objects of the cluster.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;

use crate::node::Node;
use crate::node::pod::environment::Reference;
use crate::node::pod::fields::{self, Facts};
use crate::node::pod::record;

/// Files by path, with their mode.
pub(crate) type Content = BTreeMap<String, (Vec<u8>, u32)>;

/// Tokens that are still good, by what they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: BTreeMap<(String, i64), Token>,
}

struct Token {
    text: String,
    renew: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("renew", &self.renew).finish_non_exhaustive()
    }
}

const MODE: u32 = 0o644;

/// The files of a volume.
///
/// # Errors
/// A text that names what is missing or not implemented.
pub(crate) async fn of(
    node: &Node,
    pod: &Pod,
    facts: &Facts,
    volume: &Volume,
    tokens: &mut Tokens,
) -> Result<Content, String> {
    if let Some(config) = &volume.config_map {
        let reference = Reference::ConfigMap(config.name.clone());
        return keys(
            node,
            pod,
            &reference,
            config.items.as_deref(),
            config.optional,
            mode(config.default_mode),
        )
        .await;
    }
    if let Some(secret) = &volume.secret {
        let reference = Reference::Secret(secret.secret_name.clone().unwrap_or_default());
        return keys(
            node,
            pod,
            &reference,
            secret.items.as_deref(),
            secret.optional,
            mode(secret.default_mode),
        )
        .await;
    }
    if let Some(downward) = &volume.downward_api {
        return downward_files(pod, facts, downward.items.as_deref(), mode(downward.default_mode));
    }
    if let Some(projected) = &volume.projected {
        let mut all = Content::new();
        for source in projected.sources.iter().flatten() {
            all.extend(
                projection(node, pod, facts, source, mode(projected.default_mode), tokens).await?,
            );
        }
        return Ok(all);
    }
    Err("this kind of volume is not implemented in lab clusters (there are emptyDir, configMap, secret, projected, downwardAPI and hostPath)".into())
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(MODE)
}

async fn projection(
    node: &Node,
    pod: &Pod,
    facts: &Facts,
    source: &VolumeProjection,
    mode: u32,
    tokens: &mut Tokens,
) -> Result<Content, String> {
    if let Some(token) = &source.service_account_token {
        let text = tokens.get(node, pod, token).await?;
        return Ok(Content::from([(token.path.clone(), (text.into_bytes(), mode))]));
    }
    if let Some(config) = &source.config_map {
        let reference = Reference::ConfigMap(config.name.clone());
        return keys(node, pod, &reference, config.items.as_deref(), config.optional, mode).await;
    }
    if let Some(secret) = &source.secret {
        let reference = Reference::Secret(secret.name.clone());
        return keys(node, pod, &reference, secret.items.as_deref(), secret.optional, mode).await;
    }
    if let Some(downward) = &source.downward_api {
        return downward_files(pod, facts, downward.items.as_deref(), mode);
    }
    let kind =
        if source.cluster_trust_bundle.is_some() { "clusterTrustBundle" } else { "podCertificate" };
    Err(format!("the projection {kind} is not implemented in lab clusters"))
}

/// The data of a ConfigMap or Secret; none when it does not exist.
///
/// # Errors
/// When the API server cannot say.
pub(crate) async fn fetch(
    node: &Node,
    namespace: &str,
    reference: &Reference,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let failed = |what: &str, name: &str, error: &kube::Error| {
        format!("get {what} \"{name}\": {}", tombolo_runtime::errors::chain(error))
    };
    match reference {
        Reference::ConfigMap(name) => {
            let found =
                Api::<ConfigMap>::namespaced(node.client.clone(), namespace).get_opt(name).await;
            let found = found.map_err(|error| failed("configmap", name, &error))?;
            Ok(found.map(|map| {
                let text =
                    map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
                text.chain(map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0)))
                    .collect()
            }))
        }
        Reference::Secret(name) => {
            let found =
                Api::<Secret>::namespaced(node.client.clone(), namespace).get_opt(name).await;
            let found = found.map_err(|error| failed("secret", name, &error))?;
            Ok(found.map(|secret| {
                secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
            }))
        }
    }
}

async fn keys(
    node: &Node,
    pod: &Pod,
    reference: &Reference,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: u32,
) -> Result<Content, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let data = fetch(node, namespace, reference).await?;
    choose(reference, data, items, optional == Some(true), mode)
}

/// The files that `items` make of an object's data.
fn choose(
    reference: &Reference,
    data: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
) -> Result<Content, String> {
    let (kind, name) = match reference {
        Reference::ConfigMap(name) => ("configmap", name),
        Reference::Secret(name) => ("secret", name),
    };
    let Some(mut data) = data else {
        return if optional {
            Ok(Content::new())
        } else {
            Err(format!("{kind} \"{name}\" not found"))
        };
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, value)| (key, (value, mode))).collect());
    };
    let mut files = Content::new();
    for item in items {
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        match data.remove(&item.key) {
            Some(value) => drop(files.insert(item.path.clone(), (value, mode))),
            None if optional => (),
            None => return Err(format!("{kind} \"{name}\" has no key \"{}\"", item.key)),
        }
    }
    Ok(files)
}

fn downward_files(
    pod: &Pod,
    facts: &Facts,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
) -> Result<Content, String> {
    let mut files = Content::new();
    for item in items.unwrap_or_default() {
        let text = if let Some(selector) = &item.field_ref {
            fields::field(pod, facts, &selector.field_path)
                .ok_or_else(|| format!("field `{}` is not readable", selector.field_path))?
        } else if let Some(selector) = &item.resource_field_ref {
            let wanted = selector.container_name.as_deref().unwrap_or_default();
            let container = (0..)
                .map_while(|index| record::container(pod, index))
                .find(|container| container.name == wanted);
            fields::resource(
                container.ok_or_else(|| format!("there is no container `{wanted}`"))?,
                facts,
                selector,
            )?
        } else {
            return Err(format!("the file `{}` names no field", item.path));
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        files.insert(item.path.clone(), (text.into_bytes(), mode));
    }
    Ok(files)
}

impl Tokens {
    /// A token of the pod's service account, fresh or still good for a fifth of its life.
    async fn get(
        &mut self,
        node: &Node,
        pod: &Pod,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<String, String> {
        let now = Timestamp::now();
        let audience = wanted.audience.clone().unwrap_or_default();
        let key = (audience.clone(), wanted.expiration_seconds.unwrap_or(3600));
        if let Some(token) = self.held.get(&key).filter(|token| token.renew > now) {
            return Ok(token.text.clone());
        }
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience]),
                expiration_seconds: Some(key.1),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".into());
        let api = Api::<ServiceAccount>::namespaced(
            node.client.clone(),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let failed = |error: &dyn std::fmt::Display| {
            format!("get a token for service account \"{account}\": {error}")
        };
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
        let status = match answer {
            Ok(answer) => answer.status.ok_or_else(|| failed(&"the answer holds none"))?,
            // An old token is better than none as long as it is good.
            Err(error) => match self.held.get(&key) {
                Some(token) => {
                    tracing::warn!(error = %tombolo_runtime::errors::chain(&error), "token could not be renewed, trying again");
                    return Ok(token.text.clone());
                }
                None => return Err(failed(&tombolo_runtime::errors::chain(&error))),
            },
        };
        let text = status.token.ok_or_else(|| failed(&"the answer holds none"))?;
        // As kubelet: after four fifths of its life, or a day.
        let life = status
            .expiration_timestamp
            .map_or(SignedDuration::from_secs(key.1), |end| end.0.duration_since(now));
        let renew = now + (life * 4 / 5).min(SignedDuration::from_hours(24));
        self.held.insert(key, Token { text: text.clone(), renew });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Option<BTreeMap<String, Vec<u8>>> {
        Some(BTreeMap::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]))
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode }
    }

    #[test]
    fn items_choose_and_place_keys() {
        let map = Reference::ConfigMap("c".into());
        let files = choose(&map, data(), Some(&[item("b", "x/y", Some(0o600))]), false, MODE);
        assert_eq!(files, Ok(Content::from([("x/y".into(), (b"2".to_vec(), 0o600))])));
        let missing = choose(&map, data(), Some(&[item("z", "z", None)]), false, MODE);
        assert_eq!(missing, Err("configmap \"c\" has no key \"z\"".into()));
        assert_eq!(
            choose(&map, data(), Some(&[item("z", "z", None)]), true, MODE),
            Ok(Content::new())
        );
    }

    #[test]
    fn a_missing_object_is_fine_only_when_it_is_optional() {
        let secret = Reference::Secret("s".into());
        assert_eq!(choose(&secret, None, None, true, MODE), Ok(Content::new()));
        assert_eq!(choose(&secret, None, None, false, MODE), Err("secret \"s\" not found".into()));
    }
}
