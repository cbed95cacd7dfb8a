//! From a container's spec to the order that starts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, VolumeMount};

use crate::node::Node;
use crate::node::container::order::{Mount, Order, Place, Room};
use crate::node::container::privileges;
use crate::node::images::Image;
use crate::node::pod::environment::{self, Fetched, Sources, expand};
use crate::node::pod::fields::Facts;
use crate::node::pod::process::Folder;
use crate::node::pod::volumes::{Volumes, content, sub_path};

/// Why a container cannot be started for now: what its status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

fn misconfigured(message: impl Into<String>) -> Waiting {
    Waiting { reason: "CreateContainerConfigError", message: message.into() }
}

/// The pod's search path for programs, when neither it nor its image says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that decides how a container starts.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub node: &'a Node,
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub container: &'a Container,
    pub facts: &'a Facts,
    pub volumes: &'a Volumes,
    pub folder: &'a Folder,
}

/// The order that starts the container.
///
/// # Errors
/// The reason and message that its status shows while it waits.
pub(crate) async fn order(request: &Request<'_>) -> Result<Order, Waiting> {
    let Request { node, pod, spec, container, .. } = request;
    let reference = container.image.as_deref().unwrap_or_default();
    let image = node
        .images
        .find(reference)
        .map_err(|message| Waiting { reason: "ErrImageNeverPull", message })?;
    let env = variables(request, image).await?;
    let user = user(spec, container, image)?;
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged) == Some(true);
    let capabilities = match context.and_then(|context| context.capabilities.as_ref()) {
        _ if privileged => privileges::all(),
        None => privileges::capabilities(&[], &[]).map_err(misconfigured)?,
        Some(asked) => {
            let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
            privileges::capabilities(&list(&asked.add), &list(&asked.drop))
                .map_err(|name| misconfigured(format!("there is no capability \"{name}\"")))?
        }
    };
    let host = spec.host_network == Some(true);
    let room = Room {
        netns: None,
        hostname: hostname(node, pod, spec),
        scratch: request.folder.scratch(),
        tombolo: node.program.clone(),
        files: files(request, host),
        mounts: mounts(request, &env)?,
        read_only: context.and_then(|context| context.read_only_root_filesystem) == Some(true),
        privileged,
    };
    Ok(Order {
        argv: command(container, image, &env),
        cwd: container.working_dir.clone().unwrap_or_else(|| "/".into()),
        env: env.into_iter().collect(),
        uid: user.0,
        gid: user.1,
        groups: groups(spec),
        capabilities,
        no_new_privileges: context.and_then(|context| context.allow_privilege_escalation)
            == Some(false),
        stdin: None,
        tty: container.tty == Some(true),
        place: Place::New(Box::new(room)),
    })
}

async fn variables(
    request: &Request<'_>,
    image: &Image,
) -> Result<BTreeMap<String, String>, Waiting> {
    let Request { node, pod, spec, container, facts, .. } = request;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut fetched = Fetched::new();
    for reference in environment::references(container) {
        if let Some(data) =
            content::fetch(node, namespace, &reference).await.map_err(misconfigured)?
        {
            fetched.insert(reference, data);
        }
    }
    let links = spec.enable_service_links != Some(false);
    let known = node.cluster.services.state();
    let services = environment::of_services(known.iter().map(AsRef::as_ref), namespace, links);
    let sources = Sources { pod, container, facts, fetched: &fetched, services };
    let own = environment::build(&sources).map_err(misconfigured)?;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname(node, pod, spec)),
        (
            "HOME".to_owned(),
            if user(spec, container, image)?.0 == 0 { "/root".into() } else { "/".into() },
        ),
    ]);
    if container.tty == Some(true) {
        env.insert("TERM".into(), "xterm".into());
    }
    env.extend(image.env.clone());
    env.extend(own);
    Ok(env)
}

fn command(container: &Container, image: &Image, env: &BTreeMap<String, String>) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|word| expand(word, env)).collect())
    };
    match (given(&container.command), given(&container.args)) {
        (Some(command), args) => command.into_iter().chain(args.unwrap_or_default()).collect(),
        (None, Some(args)) => image.entrypoint.iter().cloned().chain(args).collect(),
        (None, None) => image.entrypoint.iter().chain(&image.command).cloned().collect(),
    }
}

fn id(number: Option<i64>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

fn user(spec: &PodSpec, container: &Container, image: &Image) -> Result<(u32, u32), Waiting> {
    let (own, pod) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let uid = own.and_then(|own| own.run_as_user).or_else(|| pod.and_then(|pod| pod.run_as_user));
    let gid = own.and_then(|own| own.run_as_group).or_else(|| pod.and_then(|pod| pod.run_as_group));
    let non_root =
        own.and_then(|own| own.run_as_non_root).or_else(|| pod.and_then(|pod| pod.run_as_non_root));
    let uid = id(uid).unwrap_or(image.user);
    if non_root == Some(true) && uid == 0 {
        return Err(misconfigured(format!(
            "container has runAsNonRoot and would run as root (container: {})",
            container.name
        )));
    }
    Ok((uid, id(gid).unwrap_or(0)))
}

fn groups(spec: &PodSpec) -> Vec<u32> {
    let Some(context) = &spec.security_context else { return Vec::new() };
    let all = context.fs_group.iter().chain(context.supplemental_groups.iter().flatten());
    all.filter_map(|group| id(Some(*group))).collect::<BTreeSet<u32>>().into_iter().collect()
}

fn hostname(node: &Node, pod: &Pod, spec: &PodSpec) -> String {
    if spec.host_network == Some(true) {
        return node.settings.node_name.clone();
    }
    let name = spec.hostname.clone().or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Files that every container has.
fn files(request: &Request<'_>, host: bool) -> Vec<(String, String)> {
    let Request { node, pod, spec, facts, .. } = request;
    let name = hostname(node, pod, spec);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut hosts = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    let address = if host { &facts.host_ip } else { &facts.pod_ip };
    match spec.subdomain.as_deref().filter(|_| !host) {
        Some(subdomain) => hosts.push_str(&format!(
            "{address}\t{name}.{subdomain}.{namespace}.svc.{}\t{name}\n",
            node.settings.cluster_domain
        )),
        None => hosts.push_str(&format!("{address}\t{name}\n")),
    }
    for alias in spec.host_aliases.iter().flatten() {
        hosts.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        ));
    }
    let machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = resolver(
        spec,
        namespace,
        &node.settings.cluster_dns.to_string(),
        &node.settings.cluster_domain,
        &machine,
    );
    [
        ("/etc/hosts", hosts),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/resolv.conf", resolver),
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\nistio-proxy:x:1337:1337::/:/usr/sbin/nologin\n".into()),
        ("/etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nistio-proxy:x:1337:\n".into()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}

/// Name servers, search list, and options with their values.
type Resolver = (Vec<String>, Vec<String>, Vec<(String, Option<String>)>);

/// `/etc/resolv.conf` of a pod. Pure.
fn resolver(spec: &PodSpec, namespace: &str, dns: &str, domain: &str, machine: &str) -> String {
    let host = spec.host_network == Some(true);
    let (mut servers, mut search, mut options): Resolver = match spec.dns_policy.as_deref() {
        Some("None") => (Vec::new(), Vec::new(), Vec::new()),
        Some("Default") => return machine_resolver(spec, machine),
        Some("ClusterFirst") | None if host => return machine_resolver(spec, machine),
        _ => (
            vec![dns.to_owned()],
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()],
            vec![("ndots".into(), Some("5".into()))],
        ),
    };
    if let Some(config) = &spec.dns_config {
        servers.extend(config.nameservers.clone().unwrap_or_default());
        search.extend(config.searches.clone().unwrap_or_default());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|(known, _)| *known != name);
            options.push((name, option.value.clone()));
        }
    }
    let mut seen = BTreeSet::new();
    servers.retain(|server| seen.insert(server.clone()));
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        let options: Vec<String> = options
            .into_iter()
            .map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}:{value}")))
            .collect();
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn machine_resolver(spec: &PodSpec, machine: &str) -> String {
    let extra =
        spec.dns_config.as_ref().and_then(|config| config.nameservers.clone()).unwrap_or_default();
    let extra: String = extra.iter().map(|server| format!("nameserver {server}\n")).collect();
    format!("{machine}{extra}")
}

fn mounts(request: &Request<'_>, env: &BTreeMap<String, String>) -> Result<Vec<Mount>, Waiting> {
    let mut all = Vec::new();
    for wanted in request.container.volume_mounts.iter().flatten() {
        all.push(volume_mount(request, wanted, env)?);
    }
    // A mount below another one comes after it.
    all.sort_by_key(|mount: &Mount| mount.target.trim_end_matches('/').matches('/').count());
    let message = request
        .container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    all.push(Mount { source: request.folder.termination(), target: message, read_only: false });
    for mount in &mut all {
        // What is missing is told when it is mounted.
        mount.source = fs::canonicalize(&mount.source).unwrap_or_else(|_| mount.source.clone());
    }
    Ok(all)
}

fn volume_mount(
    request: &Request<'_>,
    wanted: &VolumeMount,
    env: &BTreeMap<String, String>,
) -> Result<Mount, Waiting> {
    let volume = request.spec.volumes.iter().flatten().find(|volume| volume.name == wanted.name);
    let volume =
        volume.ok_or_else(|| misconfigured(format!("there is no volume \"{}\"", wanted.name)))?;
    let root = request.volumes.path(volume);
    let below = match (&wanted.sub_path, &wanted.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, env)),
        _ => None,
    };
    let source = match below {
        None => root,
        Some(below) => sub_path::find(&root, &below).map_err(|message| {
            misconfigured(format!(
                "failed to prepare subPath for volumeMount \"{}\": {message}",
                wanted.name
            ))
        })?,
    };
    let made = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    Ok(Mount {
        source,
        target: wanted.mount_path.clone(),
        read_only: made || wanted.read_only == Some(true),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(spec: serde_json::Value) -> String {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        resolver(&spec, "ns", "10.11.0.10", "cluster.local", "nameserver 9.9.9.9\n")
    }

    #[test]
    fn names_are_resolved_as_the_policy_says() {
        let cluster = "nameserver 10.11.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(written(json!({"containers": []})), cluster);
        assert_eq!(written(json!({"containers": [], "hostNetwork": true})), "nameserver 9.9.9.9\n");
        assert_eq!(
            written(
                json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})
            ),
            cluster
        );
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}});
        assert_eq!(written(own), "nameserver 1.1.1.1\nsearch a.b\noptions ndots:2 rotate\n");
    }

    #[test]
    fn a_command_replaces_the_entry_point_and_arguments_only_the_command() {
        let image =
            Image { entrypoint: vec!["e".into()], command: vec!["c".into()], ..Image::default() };
        let env = BTreeMap::from([("X".to_owned(), "1".to_owned())]);
        let all = [
            json!({}),
            json!({"args": ["$(X)"]}),
            json!({"command": ["k"]}),
            json!({"command": ["k"], "args": ["a"]}),
        ]
        .map(|mut container| {
            container["name"] = json!("n");
            command(&serde_json::from_value(container).unwrap(), &image, &env).join(" ")
        });
        assert_eq!(all, ["e c", "e 1", "k", "k a"]);
    }
}
