//! Who owns whom. Pure.
//!
//! Objects are known by UID. An owner need not be known: whoever refers to it is still found by
//! its UID, so that the order in which kinds are listed does not matter.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// An object, as far as ownership goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// Its kind, as `Served::full_name` writes it.
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) deleting: bool,
    pub(crate) foreground: bool,
    pub(crate) orphan: bool,
}

impl Item {
    pub(crate) fn of(kind: &str, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            kind: kind.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Whether the object stays until its dependents are gone.
    pub(crate) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    fn needs_a_look(&self) -> bool {
        !self.owners.is_empty() || (self.deleting && (self.foreground || self.orphan))
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    items: HashMap<String, Item>,
    /// Owner to dependents.
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// UIDs of the objects that refer to `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The dependents for which a foreground deletion of `uid` waits.
    pub(crate) fn blocking(&self, uid: &str) -> Vec<String> {
        let blocks = |dependent: &String| {
            let owners = self.items.get(dependent).map(|item| item.owners.as_slice());
            let mut owners = owners.unwrap_or_default().iter();
            owners.any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
        };
        self.dependents(uid).into_iter().filter(blocks).collect()
    }

    /// Takes in the state of an object; returns the UIDs that deserve a look because of it.
    pub(crate) fn put(&mut self, uid: &str, item: Item) -> Vec<String> {
        let old = self.items.get(uid).cloned();
        if old.as_ref() == Some(&item) {
            return Vec::new();
        }
        let mut look: Vec<String> = Vec::new();
        let owners = |item: &Item| -> BTreeSet<String> {
            item.owners.iter().map(|owner| owner.uid.clone()).collect()
        };
        let before = old.as_ref().map(owners).unwrap_or_default();
        let after = owners(&item);
        for lost in before.difference(&after) {
            self.unlink(lost, uid);
        }
        for owner in &after {
            self.dependents.entry(owner.clone()).or_default().insert(uid.to_owned());
        }
        // An owner that waits in the foreground may have one less to wait for.
        let waits = |owner: &String| self.items.get(owner).is_some_and(Item::waits_for_dependents);
        look.extend(before.union(&after).filter(|owner| waits(owner)).cloned());
        if item.needs_a_look() {
            look.push(uid.to_owned());
        }
        self.items.insert(uid.to_owned(), item);
        look
    }

    /// Forgets an object that is gone; returns the UIDs that deserve a look because of it.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let mut look = self.dependents(uid);
        for owner in item.owners {
            self.unlink(&owner.uid, uid);
            if self.items.get(&owner.uid).is_some_and(Item::waits_for_dependents) {
                look.push(owner.uid);
            }
        }
        look
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(all) = self.dependents.get_mut(owner) {
            all.remove(dependent);
            if all.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The objects of a kind, by UID.
    pub(crate) fn of_kind(&self, kind: &str) -> BTreeMap<String, Item> {
        let of = self.items.iter().filter(|(_, item)| item.kind == kind);
        of.map(|(uid, item)| (uid.clone(), item.clone())).collect()
    }
}

/// How the owners of an object stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    /// There, and staying.
    pub(crate) solid: Vec<String>,
    /// Gone.
    pub(crate) dangling: Vec<String>,
    /// Being deleted in the foreground: waiting for this very object.
    pub(crate) waiting: Vec<String>,
}

/// What to do with an object that is not being deleted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// Some owners stay: only drop the references to the others.
    Unlink(Vec<String>),
    /// No owner stays.
    Delete {
        foreground: bool,
    },
}

pub(crate) fn verdict(owners: &Owners, has_dependents: bool) -> Verdict {
    let lost: Vec<_> = owners.dangling.iter().chain(&owners.waiting).cloned().collect();
    match (owners.solid.is_empty(), lost.is_empty()) {
        (_, true) => Verdict::Keep,
        (false, false) => Verdict::Unlink(lost),
        (true, false) => {
            Verdict::Delete { foreground: !owners.waiting.is_empty() && has_dependents }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, owners: &[(&str, bool)]) -> Item {
        let owner = |(uid, block): &(&str, bool)| OwnerReference {
            uid: (*uid).into(),
            block_owner_deletion: Some(*block),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            name: Some(name.into()),
            owner_references: Some(owners.iter().map(owner).collect()),
            ..ObjectMeta::default()
        };
        Item::of("pods", &meta)
    }

    #[test]
    fn dependents_are_found_whichever_is_seen_first() {
        let mut graph = Graph::default();
        assert_eq!(graph.put("child", item("c", &[("parent", true)])), ["child"]);
        assert_eq!(graph.put("parent", item("p", &[])), [""; 0]);
        assert_eq!(graph.dependents("parent"), ["child"]);
        assert_eq!(graph.remove("parent"), ["child"]);
    }

    #[test]
    fn a_foreground_deletion_is_looked_at_whenever_a_dependent_goes() {
        let mut graph = Graph::default();
        graph.put("child", item("c", &[("parent", true)]));
        graph.put("free", item("f", &[("parent", false)]));
        let waiting = Item { deleting: true, foreground: true, ..item("p", &[]) };
        assert_eq!(graph.put("parent", waiting), ["parent"]);
        assert_eq!(graph.blocking("parent"), ["child"]);
        assert_eq!(graph.remove("child"), ["parent"]);
        assert_eq!(graph.blocking("parent"), [""; 0]);
    }

    #[test]
    fn an_object_stays_while_one_owner_stays() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let owners = |solid: &[&str], dangling: &[&str], waiting: &[&str]| Owners {
            solid: list(solid),
            dangling: list(dangling),
            waiting: list(waiting),
        };
        assert_eq!(verdict(&owners(&["a"], &[], &[]), true), Verdict::Keep);
        let unlink = Verdict::Unlink(list(&["b", "c"]));
        assert_eq!(verdict(&owners(&["a"], &["b"], &["c"]), true), unlink);
        let delete = |foreground| Verdict::Delete { foreground };
        assert_eq!(verdict(&owners(&[], &["b"], &[]), true), delete(false));
        assert_eq!(verdict(&owners(&[], &[], &["c"]), true), delete(true));
        assert_eq!(verdict(&owners(&[], &[], &["c"]), false), delete(false));
    }
}
