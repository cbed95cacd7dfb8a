//! The authorizer: roles and bindings of the store, judged at the store's newest revision.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{MASTERS, User};
use crate::quote::go_quote;
use crate::rbac::rules::combined_resource;
use crate::rbac::{Decision, Policy};
use crate::request::RequestInfo;
use crate::status::{Status, qualified};
use crate::store::Store;

const GROUP: &str = "rbac.authorization.k8s.io";
const KINDS: [(&str, &str); 4] = [
    ("clusterroles", "ClusterRole"),
    ("roles", "Role"),
    ("clusterrolebindings", "ClusterRoleBinding"),
    ("rolebindings", "RoleBinding"),
];
/// What the agents of nodes may do.
const NODE_ROLE: &str = "system:node";
/// Paths that everyone may probe, whatever the roles say.
const ALWAYS_ALLOWED: [&str; 3] = ["/healthz", "/readyz", "/livez"];

/// Decides who may do what. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authorizer {
    store: Store,
    cached: Arc<ArcSwap<Cached>>,
}

/// The picture of all roles, and the state of the store that it was taken from.
#[derive(Debug, Default)]
struct Cached {
    revision: u64,
    marks: [Mark; 4],
    policy: Arc<Policy>,
}

/// Number of objects and highest revision of one kind: changes with every write of the kind,
/// because revisions only grow and a removal lowers the number.
type Mark = (usize, u64);

impl Authorizer {
    pub fn new(store: Store) -> Self {
        Self { store, cached: Arc::default() }
    }

    /// The roles and bindings of this moment.
    pub fn policy(&self) -> Arc<Policy> {
        let cached = self.cached.load();
        let revision = self.store.revision();
        if cached.revision == revision && revision != 0 {
            return Arc::clone(&cached.policy);
        }
        let lists =
            KINDS.map(|(plural, kind)| (kind, self.store.list(&format!("{GROUP}/{plural}"), None)));
        let marks = std::array::from_fn(|at| {
            let objects = &lists[at].1.objects;
            (objects.len(), objects.iter().map(|object| object.revision).max().unwrap_or(0))
        });
        let policy = if marks == cached.marks {
            Arc::clone(&cached.policy)
        } else {
            Arc::new(Policy::new(lists.iter().flat_map(|(kind, list)| {
                list.objects.iter().map(move |object| (*kind, &object.value))
            })))
        };
        self.cached.store(Arc::new(Cached { revision, marks, policy: Arc::clone(&policy) }));
        policy
    }

    /// Whether `user` may do what `info` says, and why.
    pub fn decide(&self, user: &User, info: &RequestInfo) -> Decision {
        let always = !info.is_resource && ALWAYS_ALLOWED.contains(&info.path.as_str());
        if always || user.is_in(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        let policy = self.policy();
        let decision = policy.decide(user, info);
        if !decision.allowed && is_node(user) && policy.role_allows(NODE_ROLE, info) {
            return Decision { allowed: true, reason: String::new() };
        }
        decision
    }

    /// Lets a request pass.
    ///
    /// # Errors
    /// 403 when the user may not do this.
    pub fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), Status> {
        let decision = self.decide(user, info);
        if decision.allowed { Ok(()) } else { Err(forbidden(user, info, &decision.reason)) }
    }

    /// Refuses a write of a role or binding that would grant more than `user` holds.
    ///
    /// # Errors
    /// 403 for such a write; 404 when a binding names a role that does not exist.
    pub fn check_grant(
        &self,
        user: &User,
        info: &RequestInfo,
        new: &serde_json::Value,
        old: Option<&serde_json::Value>,
    ) -> Result<(), Status> {
        if user.is_in(MASTERS) {
            return Ok(());
        }
        crate::rbac::escalation::check(&self.policy(), user, info, new, old)
    }
}

/// Whether the user is the agent of a node, which holds its role without being bound to it.
fn is_node(user: &User) -> bool {
    user.name.starts_with("system:node:") && user.is_in("system:nodes")
}

/// The 403 that refuses `info` to `user`, with what the authorizer adds.
pub fn forbidden(user: &User, info: &RequestInfo, reason: &str) -> Status {
    let name = go_quote(&user.name);
    let refusal = if info.is_resource {
        let scope = if info.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", go_quote(&info.namespace))
        };
        format!(
            "User {name} cannot {} resource {} in API group {} {scope}",
            info.verb,
            go_quote(&combined_resource(info)),
            go_quote(&info.group),
        )
    } else {
        format!("User {name} cannot {} path {}", info.verb, go_quote(&info.path))
    };
    let refusal = refusal.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let refusal = if reason.is_empty() { refusal } else { format!("{refusal}: {reason}") };
    if !info.is_resource {
        return Status::new(403, "Forbidden", format!("forbidden: {refusal}")).with_empty_details();
    }
    let resource = qualified(&info.group, &info.resource);
    let message = if info.name.is_empty() {
        format!("{resource} is forbidden: {refusal}")
    } else {
        format!("{resource} {} is forbidden: {refusal}", go_quote(&info.name))
    };
    Status::new(403, "Forbidden", message).about(&info.group, &info.resource, &info.name)
}
