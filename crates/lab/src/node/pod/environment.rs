//! A container's environment and command, as its spec, ConfigMaps, Secrets and the cluster's
//! services give them. Pure: what is fetched is an argument.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Service};

use crate::node::pod::fields::{self, Facts};

/// A ConfigMap or Secret that a container refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    ConfigMap(String),
    Secret(String),
}

/// The data of the objects that exist, by reference.
pub(crate) type Fetched = BTreeMap<Reference, BTreeMap<String, Vec<u8>>>;

/// The objects that the environment of `container` is made of.
pub(crate) fn references(container: &Container) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    for source in container.env_from.iter().flatten() {
        all.extend(
            source.config_map_ref.iter().map(|from| Reference::ConfigMap(from.name.clone())),
        );
        all.extend(source.secret_ref.iter().map(|from| Reference::Secret(from.name.clone())));
    }
    for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        all.extend(
            from.config_map_key_ref.iter().map(|key| Reference::ConfigMap(key.name.clone())),
        );
        all.extend(from.secret_key_ref.iter().map(|key| Reference::Secret(key.name.clone())));
    }
    all
}

/// The variables that name the cluster's services, as containers of `namespace` see them.
pub(crate) fn of_services<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let api = home == "default" && name == "kubernetes";
        let linked = links && home == namespace;
        if !(api || linked) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let prefix = name.to_ascii_uppercase().replace('-', "_");
        let ports: Vec<_> = spec.ports.iter().flatten().collect();
        let Some(first) = ports.first() else { continue };
        all.push((format!("{prefix}_SERVICE_HOST"), ip.to_owned()));
        all.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in &ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.to_ascii_uppercase().replace('-', "_");
                all.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
            }
        }
        let protocol = |protocol: &Option<String>| protocol.as_deref().unwrap_or("TCP").to_owned();
        let url = |port: i32, kind: &str| format!("{}://{ip}:{port}", kind.to_ascii_lowercase());
        all.push((format!("{prefix}_PORT"), url(first.port, &protocol(&first.protocol))));
        for port in &ports {
            let kind = protocol(&port.protocol);
            let prefix = format!("{prefix}_PORT_{}_{kind}", port.port);
            all.push((prefix.clone(), url(port.port, &kind)));
            all.push((format!("{prefix}_PROTO"), kind.to_ascii_lowercase()));
            all.push((format!("{prefix}_PORT"), port.port.to_string()));
            all.push((format!("{prefix}_ADDR"), ip.to_owned()));
        }
    }
    all
}

/// What a container's variables are made from.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub facts: &'a Facts,
    pub fetched: &'a Fetched,
    pub services: Vec<(String, String)>,
}

/// The variables of the container itself; later ones win over those of services and images.
///
/// # Errors
/// A text that names the variable and the object or key that is missing.
pub(crate) fn build(sources: &Sources<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for source in sources.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let config = source
            .config_map_ref
            .iter()
            .map(|from| (Reference::ConfigMap(from.name.clone()), from.optional));
        let secret = source
            .secret_ref
            .iter()
            .map(|from| (Reference::Secret(from.name.clone()), from.optional));
        for (reference, optional) in config.chain(secret) {
            match sources.fetched.get(&reference) {
                Some(data) => all.extend(data.iter().map(|(key, value)| {
                    (format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned())
                })),
                None if optional == Some(true) => (),
                None => return Err(missing(&reference)),
            }
        }
    }
    let mut known: BTreeMap<String, String> = sources.services.iter().cloned().collect();
    known.extend(all.clone());
    for var in sources.container.env.iter().flatten() {
        let value = match &var.value_from {
            Some(_) => from_elsewhere(sources, var)?,
            None => Some(expand(var.value.as_deref().unwrap_or_default(), &known)),
        };
        if let Some(value) = value {
            known.insert(var.name.clone(), value.clone());
            all.insert(var.name.clone(), value);
        }
    }
    let services = sources.services.iter().cloned();
    Ok(services.chain(all).collect())
}

fn missing(reference: &Reference) -> String {
    match reference {
        Reference::ConfigMap(name) => format!("configmap \"{name}\" not found"),
        Reference::Secret(name) => format!("secret \"{name}\" not found"),
    }
}

fn from_elsewhere(sources: &Sources<'_>, var: &EnvVar) -> Result<Option<String>, String> {
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(selector) = &from.field_ref {
        let value = fields::field(sources.pod, sources.facts, &selector.field_path);
        return value.map(Some).ok_or_else(|| {
            format!("variable {}: field `{}` is not readable", var.name, selector.field_path)
        });
    }
    if let Some(selector) = &from.resource_field_ref {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let spec = sources.pod.spec.as_ref();
        let all = spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let container = match named {
            None => sources.container,
            Some(name) => all
                .into_iter()
                .find(|container| container.name == name)
                .ok_or_else(|| format!("variable {}: there is no container `{name}`", var.name))?,
        };
        return fields::resource(container, sources.facts, selector).map(Some);
    }
    let (reference, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(key), _) => (Reference::ConfigMap(key.name.clone()), &key.key, key.optional),
        (None, Some(key)) => (Reference::Secret(key.name.clone()), &key.key, key.optional),
        (None, None) => {
            return Err(format!("variable {}: its source is not implemented", var.name));
        }
    };
    let found = sources.fetched.get(&reference);
    match found.and_then(|data| data.get(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional == Some(true) => Ok(None),
        None if found.is_none() => Err(missing(&reference)),
        None => Err(format!(
            "couldn't find key {key} in {}",
            match reference {
                Reference::ConfigMap(name) => format!("ConfigMap {name}"),
                Reference::Secret(name) => format!("Secret {name}"),
            }
        )),
    }
}

/// Replaces `$(NAME)` by known variables; `$$` is a dollar; an unknown name stays as written.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let after = after.get(1..).unwrap_or_default();
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) =
            after.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = next;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        Facts { pod_ip: "10.10.0.5".into(), host_ip: "172.18.0.2".into(), cpus: 2, memory: 1 << 30 }
    }

    fn built(
        container: serde_json::Value,
        fetched: &Fetched,
    ) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"containers": [container], "nodeName": "n1"},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let sources = Sources {
            pod: &pod,
            container,
            facts: &facts(),
            fetched,
            services: vec![("KUBERNETES_SERVICE_HOST".into(), "10.11.0.1".into())],
        };
        build(&sources).map(|all| all.into_iter().collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn references_expand_to_variables_that_came_before() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        let texts = ["$(A)-$(B)", "$$(A)", "$A $", "$(A", "x$(A)$(A)"];
        let expanded: Vec<String> = texts.iter().map(|text| expand(text, &known)).collect();
        assert_eq!(expanded, ["1-$(B)", "$(A)", "$A $", "$(A", "x11"]);
    }

    #[test]
    fn every_source_of_a_variable_is_read() {
        let fetched = Fetched::from([
            (Reference::ConfigMap("c".into()), BTreeMap::from([("k".to_owned(), b"v".to_vec())])),
            (Reference::Secret("s".into()), BTreeMap::from([("p".to_owned(), b"hidden".to_vec())])),
        ]);
        let container = json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}},
        "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "no", "optional": true}}},
            {"name": "URL", "value": "http://$(KUBERNETES_SERVICE_HOST)/$(C_k)/$(POD)"},
        ]});
        assert_eq!(
            built(container, &fetched),
            Ok(pairs(&[
                ("APP", "x"),
                ("CPU", "2"),
                ("C_k", "v"),
                ("IP", "10.10.0.5"),
                ("KUBERNETES_SERVICE_HOST", "10.11.0.1"),
                ("POD", "p"),
                ("S", "hidden"),
                ("URL", "http://10.11.0.1/v/p"),
            ]))
        );
    }

    #[test]
    fn a_missing_object_or_key_is_named() {
        let fetched = Fetched::from([(Reference::Secret("s".into()), BTreeMap::new())]);
        let key = |name| json!({"name": "c", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]});
        assert_eq!(built(key("t"), &fetched), Err("secret \"t\" not found".into()));
        assert_eq!(built(key("s"), &fetched), Err("couldn't find key k in Secret s".into()));
    }

    #[test]
    fn services_of_the_namespace_are_named_only_when_linked() {
        let service = |ns: &str, name: &str| {
            serde_json::from_value::<Service>(json!({
            "metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": "10.11.0.7", "ports": [{"name": "http-web", "port": 80}]},
        })).unwrap()
        };
        let services =
            [service("default", "kubernetes"), service("ns", "my-web"), service("other", "x")];
        let names = |links| -> Vec<String> {
            of_services(services.iter(), "ns", links)
                .into_iter()
                .map(|(key, _)| key)
                .filter(|key| key.ends_with("HOST") || key.ends_with("HTTP_WEB"))
                .collect()
        };
        assert_eq!(names(false), ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT_HTTP_WEB"]);
        assert_eq!(
            names(true),
            [
                "KUBERNETES_SERVICE_HOST",
                "KUBERNETES_SERVICE_PORT_HTTP_WEB",
                "MY_WEB_SERVICE_HOST",
                "MY_WEB_SERVICE_PORT_HTTP_WEB"
            ]
        );
    }
}
