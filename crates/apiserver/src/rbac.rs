//! Role-based access control: bindings, roles and rules, judged as Kubernetes judges them.
//!
//! [`Policy`] is a pure picture of all roles and bindings at one revision; it decides requests,
//! lists the rules of a user and refuses grants of what the granting user does not hold.
//! Roles that aggregate others are resolved here, at once, so nothing waits for a controller.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::quote::go_quote;
use crate::request::RequestInfo;
use crate::user::User;
use rules::Rule;

pub mod bootstrap;
pub mod escalation;
pub mod rules;

/// The answer of the authorizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// By which binding, or which roles could not be resolved. May be empty.
    pub reason: String,
}

/// All roles and bindings at one moment.
#[derive(Debug, Default)]
pub struct Policy {
    cluster_roles: HashMap<String, ClusterRole>,
    /// By namespace, then name.
    roles: HashMap<String, HashMap<String, Vec<Rule>>>,
    cluster_bindings: Vec<Binding>,
    bindings: HashMap<String, Vec<Binding>>,
}

#[derive(Debug)]
struct ClusterRole {
    labels: HashMap<String, String>,
    rules: Vec<Rule>,
    /// Label selectors of the roles that this one is made of; `None` for plain roles.
    aggregates: Option<Vec<Value>>,
}

#[derive(Debug)]
struct Binding {
    name: String,
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The role that a binding grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RoleRef {
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Subject {
    fn is(&self, user: &User, binding_namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => user.name == self.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                let namespace = self.namespace_or(binding_namespace);
                !namespace.is_empty()
                    && user
                        .name
                        .strip_prefix("system:serviceaccount:")
                        .and_then(|rest| rest.strip_prefix(namespace))
                        .and_then(|rest| rest.strip_prefix(':'))
                        .is_some_and(|name| name == self.name)
            }
            _ => false,
        }
    }

    fn namespace_or<'a>(&'a self, binding_namespace: &'a str) -> &'a str {
        if self.namespace.is_empty() { binding_namespace } else { &self.namespace }
    }

    fn describe(&self, binding_namespace: &str) -> String {
        if self.kind == "ServiceAccount" {
            let namespace = self.namespace_or(binding_namespace);
            return format!("{} {}", self.kind, go_quote(&format!("{}/{namespace}", self.name)));
        }
        format!("{} {}", self.kind, go_quote(&self.name))
    }
}

impl Binding {
    /// Reads a binding; what has the wrong shape grants nothing.
    fn read(object: &Value) -> Self {
        Self {
            name: text(object, "/metadata/name"),
            namespace: text(object, "/metadata/namespace"),
            role: part(object, "/roleRef"),
            subjects: part(object, "/subjects"),
        }
    }

    fn subject_of(&self, user: &User) -> Option<&Subject> {
        self.subjects.iter().find(|subject| subject.is(user, &self.namespace))
    }

    fn describe(&self, subject: &Subject) -> String {
        let (kind, name) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", go_quote(&self.name))
        } else {
            ("RoleBinding", go_quote(&format!("{}/{}", self.name, self.namespace)))
        };
        format!(
            "{kind} {name} of {} {} to {}",
            self.role.kind,
            go_quote(&self.role.name),
            subject.describe(&self.namespace),
        )
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A part of an object as a value; its default where it is absent or has another shape.
fn part<T: Default + for<'de> Deserialize<'de>>(object: &Value, pointer: &str) -> T {
    object.pointer(pointer).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

impl Policy {
    /// The picture of the given ClusterRoles, Roles, ClusterRoleBindings and RoleBindings.
    pub fn new<'a>(objects: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Self {
        let mut policy = Self::default();
        for (kind, object) in objects {
            let (namespace, name) =
                (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
            match kind {
                "ClusterRole" => {
                    let role = ClusterRole {
                        labels: part(object, "/metadata/labels"),
                        rules: part(object, "/rules"),
                        aggregates: object
                            .pointer("/aggregationRule/clusterRoleSelectors")
                            .and_then(Value::as_array)
                            .cloned(),
                    };
                    policy.cluster_roles.insert(name, role);
                }
                "Role" => {
                    let rules = part(object, "/rules");
                    policy.roles.entry(namespace).or_default().insert(name, rules);
                }
                "ClusterRoleBinding" => policy.cluster_bindings.push(Binding::read(object)),
                "RoleBinding" => {
                    policy.bindings.entry(namespace).or_default().push(Binding::read(object));
                }
                _ => {}
            }
        }
        policy
    }

    /// Whether `user` may do what `info` says, without the shortcut of the masters' group.
    pub fn decide(&self, user: &User, info: &RequestInfo) -> Decision {
        let mut problems = Vec::new();
        for binding in self.bindings_for(&info.namespace) {
            let Some(subject) = binding.subject_of(user) else { continue };
            match self.role_rules(&binding.role, &binding.namespace) {
                Ok(rules) => {
                    if rules.iter().any(|rule| rule.allows(info)) {
                        let reason = format!("RBAC: allowed by {}", binding.describe(subject));
                        return Decision { allowed: true, reason };
                    }
                }
                Err(problem) if problems.contains(&problem) => {}
                Err(problem) => problems.push(problem),
            }
        }
        let reason = match problems.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision { allowed: false, reason }
    }

    /// Every rule that `user` holds in `namespace` (or cluster-wide, if that is empty), and what
    /// could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for binding in self.bindings_for(namespace) {
            if binding.subject_of(user).is_none() {
                continue;
            }
            match self.role_rules(&binding.role, &binding.namespace) {
                Ok(granted) => rules.extend(granted),
                Err(problem) => problems.push(problem),
            }
        }
        (rules, problems)
    }

    /// The rules of a role that a binding in `namespace` names.
    ///
    /// # Errors
    /// The text of Kubernetes' not-found error when there is no such role.
    pub fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String> {
        let found = match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name).map(|own| self.effective(own)),
            "Role" => self.roles.get(namespace).and_then(|roles| roles.get(&role.name)).cloned(),
            other => return Err(format!("unsupported role reference kind: {}", go_quote(other))),
        };
        found.ok_or_else(|| {
            let kind = role.kind.to_lowercase();
            format!("{kind}.rbac.authorization.k8s.io {} not found", go_quote(&role.name))
        })
    }

    /// Whether the ClusterRole of this name allows what `info` says.
    pub fn role_allows(&self, role: &str, info: &RequestInfo) -> bool {
        self.cluster_roles
            .get(role)
            .is_some_and(|role| self.effective(role).iter().any(|rule| rule.allows(info)))
    }

    fn bindings_for(&self, namespace: &str) -> impl Iterator<Item = &Binding> {
        let own = self.bindings.get(namespace).filter(|_| !namespace.is_empty());
        self.cluster_bindings.iter().chain(own.into_iter().flatten())
    }

    /// A role's own rules and those of the roles that it aggregates, however deep.
    fn effective(&self, role: &ClusterRole) -> Vec<Rule> {
        let mut rules = role.rules.clone();
        let mut pending: Vec<&ClusterRole> = vec![role];
        let mut seen: Vec<&String> = Vec::new();
        while let Some(next) = pending.pop() {
            for selector in next.aggregates.iter().flatten() {
                for (name, other) in &self.cluster_roles {
                    if seen.contains(&name) || !selects(selector, &other.labels) {
                        continue;
                    }
                    seen.push(name);
                    pending.push(other);
                    let new: Vec<Rule> =
                        other.rules.iter().filter(|rule| !rules.contains(rule)).cloned().collect();
                    rules.extend(new);
                }
            }
        }
        rules
    }
}

/// Whether a label selector object selects the labels. A selector that cannot be read selects
/// nothing.
fn selects(selector: &Value, labels: &HashMap<String, String>) -> bool {
    let wanted: HashMap<String, String> = part(selector, "/matchLabels");
    if !wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    if wanted.is_empty() && expressions.is_none_or(Vec::is_empty) {
        // The empty selector selects everything.
        return selector.is_object();
    }
    expressions.into_iter().flatten().all(|expression| {
        let key = text(expression, "/key");
        let values: Vec<String> = part(expression, "/values");
        let own = labels.get(&key);
        match expression.get("operator").and_then(Value::as_str) {
            Some("In") => own.is_some_and(|own| values.contains(own)),
            Some("NotIn") => own.is_none_or(|own| !values.contains(own)),
            Some("Exists") => own.is_some(),
            Some("DoesNotExist") => own.is_none(),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Policy {
        let mut objects = bootstrap::objects();
        objects.extend([
            json!({"kind": "Role", "metadata": {"namespace": "shop", "name": "reader"},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
            json!({"kind": "RoleBinding", "metadata": {"namespace": "shop", "name": "r"},
                "roleRef": {"kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "cart"}]}),
            json!({"kind": "RoleBinding", "metadata": {"namespace": "shop", "name": "gone"},
                "roleRef": {"kind": "Role", "name": "gone"},
                "subjects": [{"kind": "User", "name": "jane"}]}),
            json!({"kind": "RoleBinding", "metadata": {"namespace": "shop", "name": "v"},
                "roleRef": {"kind": "ClusterRole", "name": "admin"},
                "subjects": [{"kind": "Group", "name": "owners"}]}),
        ]);
        Policy::new(objects.iter().map(|o| (o["kind"].as_str().unwrap(), o)))
    }

    fn get(namespace: &str, resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "get".to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        }
    }

    fn user(name: &str, groups: &[&str]) -> User {
        User {
            name: name.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..User::default()
        }
    }

    #[test]
    fn a_binding_grants_its_role_in_its_namespace_only() {
        let (policy, cart) = (policy(), user("system:serviceaccount:shop:cart", &[]));
        assert_eq!(
            policy.decide(&cart, &get("shop", "pods")),
            Decision {
                allowed: true,
                reason: r#"RBAC: allowed by RoleBinding "r/shop" of Role "reader" to ServiceAccount "cart/shop""#
                    .to_owned(),
            }
        );
        assert!(!policy.decide(&cart, &get("other", "pods")).allowed);
        assert!(!policy.decide(&cart, &get("shop", "secrets")).allowed);
    }

    #[test]
    fn aggregated_roles_hold_what_their_parts_hold() {
        let (policy, owner) = (policy(), user("sam", &["owners"]));
        // `admin` aggregates `edit`, which aggregates `view`.
        assert!(policy.decide(&owner, &get("shop", "configmaps")).allowed);
        assert!(policy.decide(&owner, &get("shop", "secrets")).allowed);
        assert!(!policy.decide(&owner, &get("", "nodes")).allowed);
    }

    #[test]
    fn a_binding_without_its_role_is_named_in_the_reason() {
        assert_eq!(
            policy().decide(&user("jane", &[]), &get("shop", "pods")),
            Decision {
                allowed: false,
                reason: r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#.to_owned(),
            }
        );
    }

    #[test]
    fn everyone_reads_the_version_and_only_users_discover() {
        let path = |path: &str| RequestInfo {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..RequestInfo::default()
        };
        let policy = policy();
        let anonymous = user("system:anonymous", &["system:unauthenticated"]);
        assert!(policy.decide(&anonymous, &path("/version")).allowed);
        assert!(!policy.decide(&anonymous, &path("/apis")).allowed);
        assert!(policy.decide(&user("jane", &["system:authenticated"]), &path("/apis/x")).allowed);
    }
}
