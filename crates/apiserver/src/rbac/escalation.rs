//! Nobody grants what they do not hold, unless they may `escalate` roles or `bind` them.

use serde_json::Value;

use super::rules::{self, Rule};
use super::{Policy, RoleRef, part, text};
use crate::quote::{go_quote, go_quote_list};
use crate::request::RequestInfo;
use crate::status::Status;
use crate::user::User;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Judges a write of a role or binding. `old` is the stored object on updates.
///
/// # Errors
/// 403 when the write grants what `user` does not hold; 404 when a binding's role does not exist.
pub fn check(
    policy: &Policy,
    user: &User,
    info: &RequestInfo,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if info.group != GROUP || !info.subresource.is_empty() {
        return Ok(());
    }
    match info.resource.as_str() {
        "roles" | "clusterroles" => role(policy, user, info, new, old),
        "rolebindings" | "clusterrolebindings" => binding(policy, user, info, new, old),
        _ => Ok(()),
    }
}

fn role(
    policy: &Policy,
    user: &User,
    info: &RequestInfo,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let same = |pointer: &str| {
        old.is_some_and(|old| {
            old.pointer(pointer).filter(|v| !v.is_null())
                == new.pointer(pointer).filter(|v| !v.is_null())
        })
    };
    if same("/rules") && same("/aggregationRule") {
        return Ok(());
    }
    let name = text(new, "/metadata/name");
    if permits(policy, user, info, "escalate", &info.resource, &name) {
        return Ok(());
    }
    let wanted: Vec<Rule> = part(new, "/rules");
    confirm(policy, user, info, &name, &wanted)?;
    if new.get("aggregationRule").is_some_and(|rule| !rule.is_null()) && !same("/aggregationRule") {
        let everything = |part: &str| vec![part.to_owned()];
        let all = [
            Rule {
                verbs: everything("*"),
                api_groups: everything("*"),
                resources: everything("*"),
                ..Rule::default()
            },
            Rule { verbs: everything("*"), non_resource_urls: everything("*"), ..Rule::default() },
        ];
        confirm(policy, user, info, &name, &all)?;
    }
    Ok(())
}

fn binding(
    policy: &Policy,
    user: &User,
    info: &RequestInfo,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    if old.is_some_and(|old| {
        old.get("subjects") == new.get("subjects") && old.get("roleRef") == new.get("roleRef")
    }) {
        return Ok(());
    }
    let wanted: RoleRef = part(new, "/roleRef");
    let resource = if wanted.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if permits(policy, user, info, "bind", resource, &wanted.name) {
        return Ok(());
    }
    let rules = policy
        .role_rules(&wanted, &info.namespace)
        .map_err(|_| Status::not_found(GROUP, &info.resource, &wanted.name))?;
    confirm(policy, user, info, &text(new, "/metadata/name"), &rules)
}

fn permits(
    policy: &Policy,
    user: &User,
    info: &RequestInfo,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let question = RequestInfo {
        is_resource: true,
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        namespace: info.namespace.clone(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    policy.decide(user, &question).allowed
}

fn confirm(
    policy: &Policy,
    user: &User,
    info: &RequestInfo,
    name: &str,
    wanted: &[Rule],
) -> Result<(), Status> {
    let (owned, problems) = policy.rules_for(user, &info.namespace);
    let missing = rules::compact(&rules::missing(&owned, wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let mut texts: Vec<String> = missing.iter().map(Rule::compact).collect();
    texts.sort();
    texts.dedup();
    let mut why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        go_quote_list(&user.groups),
        texts.join("\n"),
    );
    if !problems.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", problems.join(" ")));
    }
    Err(Status::forbidden(GROUP, &info.resource, name, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let objects = [
            json!({"kind": "ClusterRole", "metadata": {"name": "editor"}, "rules": [
                {"verbs": ["create", "update"], "apiGroups": [GROUP], "resources": ["*"]},
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
            json!({"kind": "ClusterRole", "metadata": {"name": "root"}, "rules": [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "e"},
                "roleRef": {"kind": "ClusterRole", "name": "editor"},
                "subjects": [{"kind": "User", "name": "jane"}]}),
        ];
        Policy::new(objects.iter().map(|o| (o["kind"].as_str().unwrap(), o)))
    }

    fn attempt(resource: &str, new: &Value) -> Result<(), String> {
        let user = User {
            name: "jane".to_owned(),
            groups: vec!["system:authenticated".to_owned()],
            ..User::default()
        };
        let info = RequestInfo {
            is_resource: true,
            verb: "create".to_owned(),
            group: GROUP.to_owned(),
            resource: resource.to_owned(),
            ..RequestInfo::default()
        };
        check(&policy(), &user, &info, new, None).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_role_with_more_than_its_author_holds_is_refused_with_what_is_missing() {
        let held = json!({"metadata": {"name": "a"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(attempt("clusterroles", &held), Ok(()));
        let more = json!({"metadata": {"name": "a"}, "rules": [
            {"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(
            attempt("clusterroles", &more),
            Err("clusterroles.rbac.authorization.k8s.io \"a\" is forbidden: user \"jane\" \
                 (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
                 currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
                .to_owned())
        );
    }

    #[test]
    fn a_binding_grants_only_roles_that_its_author_covers() {
        let to = |role: &str| {
            json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": "jane"}]})
        };
        assert_eq!(attempt("clusterrolebindings", &to("editor")), Ok(()));
        assert!(attempt("clusterrolebindings", &to("root")).is_err());
        assert_eq!(
            attempt("clusterrolebindings", &to("none")),
            Err("clusterrolebindings.rbac.authorization.k8s.io \"none\" not found".to_owned())
        );
    }
}
