//! The two templates: a sidecar beside an application, and a gateway that stands alone.

use serde_json::{Value, json};

use crate::inject::container::{Role, init, proxy};
use crate::inject::decide::texts;
use crate::inject::merge::lay_over;
use crate::inject::settings::Interception;
use crate::inject::volumes::volumes;
use crate::inject::{Context, INIT, OVERRIDES, PROXY, STATUS, list, name, object};

/// Adds a sidecar: capture, proxy, volumes, labels.
pub(crate) fn sidecar(context: &Context<'_>, pod: &mut Value) {
    let mut container = overridden(context, proxy(context, Role::Sidecar));
    let captures = context.settings.interception != Interception::None;
    let spec = &mut pod["spec"];
    let mut at = 0;
    if captures {
        list(spec, "initContainers").insert(0, init(context));
        at = 1;
    }
    if context.native {
        container["restartPolicy"] = "Always".into();
        if container.get("lifecycle").is_none() {
            let url = format!("http://127.0.0.1:{}/drain", context.settings.status_port);
            let command = ["tombolo", "proxy", "request", "POST", &url];
            container["lifecycle"] = json!({"preStop": {"exec": {"command": command}}});
        }
        list(spec, "initContainers").insert(at, container);
    } else if holds(context) {
        let url = format!("http://127.0.0.1:{}/healthz/ready", context.settings.status_port);
        let command = ["tombolo", "proxy", "wait", "--url", &url];
        container["lifecycle"]["postStart"] = json!({"exec": {"command": command}});
        list(spec, "containers").insert(0, container);
    } else {
        list(spec, "containers").push(container);
    }
    finish(context, pod, Role::Sidecar, captures);
}

/// Makes the pod a gateway: nothing is captured, low ports may be bound.
pub(crate) fn gateway(context: &Context<'_>, pod: &mut Value) {
    let container = overridden(context, proxy(context, Role::Gateway));
    let spec = &mut pod["spec"];
    list(spec, "containers").push(container);
    let mut security = json!({});
    security["sysctls"] = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]);
    let own = object(spec, "securityContext");
    own.entry("sysctls").or_insert_with(|| security["sysctls"].take());
    finish(context, pod, Role::Gateway, false);
}

/// The proxy with the owner's container laid over it. `image: auto` asks for ours.
fn overridden(context: &Context<'_>, mut container: Value) -> Value {
    let Some(mut over) = context.overrides.clone() else { return container };
    if over
        .get("image")
        .and_then(Value::as_str)
        .is_none_or(|image| image == "auto" || image.is_empty())
        && let Some(fields) = over.as_object_mut()
    {
        fields.remove("image");
    }
    lay_over(&mut container, &over);
    container
}

/// Whether the application waits for the proxy.
fn holds(context: &Context<'_>) -> bool {
    let own =
        context.settings.proxy.get("holdApplicationUntilProxyStarts").and_then(Value::as_bool);
    own.unwrap_or_else(|| context.flag("/global/proxy/holdApplicationUntilProxyStarts"))
}

/// Volumes, labels and annotations, which both templates have.
fn finish(context: &Context<'_>, pod: &mut Value, role: Role, captures: bool) {
    let added = volumes(context);
    let names: Vec<String> = added.iter().map(|volume| name(volume).to_owned()).collect();
    let all = list(&mut pod["spec"], "volumes");
    for volume in added {
        if !all.iter().any(|own| name(own) == name(&volume)) {
            all.push(volume);
        }
    }
    let secrets = pull_secrets(context, pod);
    label(context, pod, role);
    annotate(context, pod, role, captures, &names, &secrets);
}

fn pull_secrets(context: &Context<'_>, pod: &mut Value) -> Vec<String> {
    let wanted = context.value("/global/imagePullSecrets").and_then(Value::as_array);
    let names: Vec<String> =
        wanted.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if names.is_empty() {
        return names;
    }
    let all = list(&mut pod["spec"], "imagePullSecrets");
    for secret in &names {
        if !all.iter().any(|own| name(own) == secret) {
            all.push(json!({"name": secret}));
        }
    }
    names
}

fn label(context: &Context<'_>, pod: &mut Value, role: Role) {
    let own = texts(pod, "labels");
    let first = |names: &[&str]| {
        names.iter().filter_map(|name| own.get(*name)).find(|text| !text.is_empty()).cloned()
    };
    let canonical = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision =
        first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let labels = object(&mut pod["metadata"], "labels");
    let mut set = |name: &str, value: &str| {
        labels.entry(name).or_insert_with(|| value.into());
    };
    if role == Role::Sidecar {
        set("security.istio.io/tlsMode", "istio");
    }
    let canonical = canonical.unwrap_or_else(|| context.owner.name.clone());
    set("service.istio.io/canonical-name", &short(&canonical));
    set("service.istio.io/canonical-revision", &revision.unwrap_or_else(|| "latest".into()));
    if !context.network().is_empty() {
        set("topology.istio.io/network", context.network());
    }
}

/// Label values have at most 63 characters and end with a letter or digit.
fn short(text: &str) -> String {
    let cut: String = text.chars().take(63).collect();
    cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn annotate(
    context: &Context<'_>,
    pod: &mut Value,
    role: Role,
    captures: bool,
    volumes: &[String],
    secrets: &[String],
) {
    let native = role == Role::Sidecar && context.native;
    let mut init: Vec<&str> = Vec::new();
    if captures {
        init.push(INIT);
    }
    if native {
        init.push(PROXY);
    }
    let containers: Vec<&str> = if native { Vec::new() } else { vec![PROXY] };
    let status = json!({
        "initContainers": init,
        "containers": containers,
        "volumes": volumes,
        "imagePullSecrets": secrets,
        "revision": context.revision,
    });
    let main = crate::inject::items(&context.pod, "/spec/containers").first();
    let main = main.map(|container| name(container).to_owned());
    let overrides =
        context.overrides.as_ref().map(|container| json!({"containers": [container]}).to_string());
    let annotations = object(&mut pod["metadata"], "annotations");
    annotations.insert(STATUS.into(), status.to_string().into());
    annotations.insert("istio.io/rev".into(), context.revision.into());
    if let Some(overrides) = overrides {
        annotations.insert(OVERRIDES.into(), overrides.into());
    }
    if let Some(main) = main {
        for key in [
            "kubectl.kubernetes.io/default-container",
            "kubectl.kubernetes.io/default-logs-container",
        ] {
            annotations.entry(key).or_insert_with(|| main.clone().into());
        }
    }
    for (key, value) in &context.config.annotations {
        annotations.entry(key.clone()).or_insert_with(|| value.clone().into());
    }
}
