//! The proxy's container and the init container that sets up capturing.

use serde_json::{Value, json};

use crate::inject::settings::Interception;
use crate::inject::volumes::mounts;
use crate::inject::{Context, INIT, PROXY, items, name};

/// What the container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sidecar,
    Gateway,
}

const UID: i64 = 1337;

pub(crate) fn image(context: &Context<'_>) -> String {
    let asked = context.settings.image.clone();
    let installed = || context.text("/global/tomboloImage").map(str::to_owned);
    asked
        .or_else(installed)
        .unwrap_or_else(|| format!("docker.io/tombolo/tombolo:{}", env!("CARGO_PKG_VERSION")))
}

/// The proxy's container, before the owner's overrides.
pub(crate) fn proxy(context: &Context<'_>, role: Role) -> Value {
    let settings = &context.settings;
    let domain = context.text("/global/proxy/clusterDomain").unwrap_or("cluster.local");
    let kind = if role == Role::Gateway { "router" } else { "sidecar" };
    let mut args = vec![
        "proxy".to_owned(),
        kind.to_owned(),
        "--domain".to_owned(),
        format!("$(POD_NAMESPACE).svc.{domain}"),
        format!("--proxyLogLevel={}", settings.log_level.as_deref().unwrap_or("warning")),
        format!(
            "--proxyComponentLogLevel={}",
            settings.component_log_level.as_deref().unwrap_or("misc:error")
        ),
        format!(
            "--log_output_level={}",
            settings.agent_log_level.as_deref().unwrap_or("default:info")
        ),
    ];
    if context.flag("/global/logAsJson") {
        args.push("--log_as_json".into());
    }
    let mut container = json!({
        "name": PROXY,
        "image": image(context),
        "args": args,
        "ports": [{"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}],
        "env": environment(context, role),
        "resources": settings.resources,
        "securityContext": security(context),
        "volumeMounts": mounts(context),
    });
    if let Some(policy) = context.text("/global/imagePullPolicy") {
        container["imagePullPolicy"] = policy.into();
    }
    if settings.status_port != 0 {
        let get = json!({"path": "/healthz/ready", "port": 15021});
        let startup = context.value("/global/proxy/startupProbe/enabled");
        if startup.and_then(Value::as_bool).unwrap_or(true) {
            let failures = context.value("/global/proxy/startupProbe/failureThreshold");
            container["startupProbe"] = json!({
                "httpGet": get, "initialDelaySeconds": 0, "periodSeconds": 1,
                "timeoutSeconds": 3, "failureThreshold": failures.cloned().unwrap_or(600.into()),
            });
        }
        container["readinessProbe"] = json!({
            "httpGet": get, "initialDelaySeconds": settings.readiness.initial_delay,
            "periodSeconds": settings.readiness.period, "timeoutSeconds": 3,
            "failureThreshold": settings.readiness.failures,
        });
    }
    if let Some(lifecycle) = context.value("/global/proxy/lifecycle") {
        container["lifecycle"] = lifecycle.clone();
    }
    container
}

fn security(context: &Context<'_>) -> Value {
    let privileged = context.flag("/global/proxy/privileged");
    let mut add: Vec<&str> = Vec::new();
    let tproxy = context.settings.interception == Interception::Tproxy;
    if tproxy {
        add.push("NET_ADMIN");
    }
    if context.settings.bind_low_ports {
        add.push("NET_BIND_SERVICE");
    }
    let root = !add.is_empty();
    let mut capabilities = json!({"drop": ["ALL"]});
    if root {
        capabilities["add"] = json!(add);
    }
    json!({
        "allowPrivilegeEscalation": privileged,
        "capabilities": capabilities,
        "privileged": privileged,
        "readOnlyRootFilesystem": true,
        "runAsGroup": UID,
        "runAsNonRoot": !root,
        "runAsUser": if root { 0 } else { UID },
    })
}

fn environment(context: &Context<'_>, role: Role) -> Vec<Value> {
    let mut env: Vec<Value> = Vec::new();
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    let namespace = context.text("/global/istioNamespace").unwrap_or("istio-system");
    let host = match context.revision {
        "" | "default" => format!("istiod.{namespace}.svc"),
        revision => format!("istiod-{revision}.{namespace}.svc"),
    };
    set("PILOT_CERT_PROVIDER", context.text("/global/pilotCertProvider").unwrap_or("istiod"));
    set("CA_ADDR", context.text("/global/caAddress").unwrap_or(&format!("{host}:15012")));
    for (name, path) in [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("INSTANCE_IP", "status.podIP"),
        ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        ("HOST_IP", "status.hostIP"),
    ] {
        env.push(json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
    for (name, resource) in [("ISTIO_CPU_LIMIT", "limits.cpu"), ("GOMEMLIMIT", "limits.memory")] {
        let source = json!({"resourceFieldRef": {"resource": resource}});
        env.push(json!({"name": name, "valueFrom": source}));
    }
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    set("PROXY_CONFIG", &format!("{}\n", context.settings.proxy));
    set("ISTIO_META_POD_PORTS", &pod_ports(&context.pod));
    set("ISTIO_META_APP_CONTAINERS", &app_containers(&context.pod));
    set("ISTIO_META_CLUSTER_ID", context.cluster());
    env.push(json!({"name": "ISTIO_META_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}));
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    set("ISTIO_META_INTERCEPTION_MODE", context.settings.interception.as_str());
    if !context.network().is_empty() {
        set("ISTIO_META_NETWORK", context.network());
    }
    set("ISTIO_META_WORKLOAD_NAME", &context.owner.name);
    set("ISTIO_META_OWNER", &context.owner.uri);
    let trust_domain = &context.mesh.trust_domain;
    let mesh = context.text("/global/meshID").or_else(|| {
        context.settings.proxy.get("meshId").and_then(Value::as_str).filter(|id| !id.is_empty())
    });
    set("ISTIO_META_MESH_ID", mesh.unwrap_or(trust_domain));
    set("TRUST_DOMAIN", trust_domain);
    let metadata = context.settings.proxy.get("proxyMetadata").and_then(Value::as_object);
    for (name, value) in metadata.into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        put(&mut env, name, &text);
    }
    for (name, value) in &context.place.environment {
        put(&mut env, name, value);
    }
    if role == Role::Gateway {
        put(&mut env, "ISTIO_META_UNPRIVILEGED_POD", "true");
    }
    env
}

/// Sets a variable, in place if it is there.
pub(crate) fn put(env: &mut Vec<Value>, variable: &str, value: &str) {
    let fresh = json!({"name": variable, "value": value});
    match env.iter_mut().find(|it| name(it) == variable) {
        Some(old) => *old = fresh,
        None => env.push(fresh),
    }
}

/// The ports of the application's containers as JSON.
fn pod_ports(pod: &Value) -> String {
    let containers = items(pod, "/spec/containers").iter().filter(|it| name(it) != PROXY);
    let ports: Vec<&Value> = containers.flat_map(|it| items(it, "/ports")).collect();
    json!(ports).to_string()
}

fn app_containers(pod: &Value) -> String {
    let names = items(pod, "/spec/containers").iter().map(name).filter(|it| *it != PROXY);
    names.collect::<Vec<_>>().join(",")
}

/// The container that captures the pod's traffic before anything else runs.
pub(crate) fn init(context: &Context<'_>) -> Value {
    let settings = &context.settings;
    let capture = &settings.capture;
    // The proxy's own ports are never captured.
    let mut excluded = format!("15090,15021,{}", settings.status_port);
    if !capture.exclude_inbound.is_empty() {
        excluded = format!("{excluded},{}", capture.exclude_inbound);
    }
    let user = UID.to_string();
    let mut args = vec!["proxy", "init", "-p", "15001", "-z", "15006", "-u", &user];
    args.extend(["-m", settings.interception.as_str()]);
    args.extend(["-i", &capture.include_ips, "-x", &capture.exclude_ips]);
    args.extend(["-b", &capture.include_inbound, "-d", &excluded]);
    for (flag, value) in [
        ("-q", &capture.include_outbound),
        ("-o", &capture.exclude_outbound),
        ("-k", &capture.virtual_interfaces),
        ("-c", &capture.exclude_interfaces),
    ] {
        if !value.is_empty() {
            args.extend([flag, value]);
        }
    }
    let level = settings.agent_log_level.as_deref().unwrap_or("default:info");
    let level = format!("--log_output_level={level}");
    args.push(&level);
    if context.flag("/global/logAsJson") {
        args.push("--log_as_json");
    }
    let mut container = json!({
        "name": INIT,
        "image": image(context),
        "args": args,
        "resources": settings.resources,
        "securityContext": {
            "allowPrivilegeEscalation": context.flag("/global/proxy/privileged"),
            "privileged": context.flag("/global/proxy/privileged"),
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": false,
            "runAsGroup": 0, "runAsNonRoot": false, "runAsUser": 0,
        },
    });
    let metadata = settings.proxy.get("proxyMetadata").and_then(Value::as_object);
    if let Some(metadata) = metadata {
        let mut env = Vec::new();
        for (name, value) in metadata {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            put(&mut env, name, &text);
        }
        container["env"] = env.into();
    }
    container
}
