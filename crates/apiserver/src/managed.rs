//! `metadata.managedFields`: who owns which field. Kept up to date by every write; server-side
//! apply decides by it what to change, what to remove and what is a conflict.

use serde_json::{Value, json};

use crate::object;
use crate::operation::Operation;
use crate::schema::{Schema, decode};
use crate::status::{Cause, Status};

pub mod set;
pub mod typed;

use set::Set;

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";
/// Who owns what was there before anybody was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Who owns what too many updaters owned.
const ANCIENT: &str = "ancient-changes";
const MOST_UPDATERS: usize = 10;
/// Metadata that the server owns.
const SYSTEM: &[&str] = &[
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:clusterName",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// One owner.
#[derive(Debug, Clone, PartialEq)]
struct Owner {
    manager: String,
    operation: String,
    version: String,
    subresource: String,
    time: Value,
    set: Set,
}

impl Owner {
    fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == APPLY || self.version == other.version)
    }

    /// Who it is, as conflicts name it.
    fn shown(&self) -> String {
        let mut text = format!("\"{}\"", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource \"{}\"", self.subresource);
        }
        if self.operation == UPDATE {
            text += &format!(" using {}", self.version);
        }
        text
    }
}

fn read(value: &Value) -> Vec<Owner> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let entries = value["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| Owner {
            manager: text(entry, "manager"),
            operation: text(entry, "operation"),
            version: text(entry, "apiVersion"),
            subresource: text(entry, "subresource"),
            time: entry["time"].clone(),
            set: Set::from_value(&entry["fieldsV1"]),
        })
        .collect()
}

fn write(object: &mut Value, mut owners: Vec<Owner>) {
    owners.sort_by(|a, b| {
        let order = |owner: &Owner| {
            (
                owner.operation != APPLY,
                owner.time.as_str().unwrap_or_default().to_owned(),
                owner.manager.clone(),
                owner.version.clone(),
                owner.subresource.clone(),
            )
        };
        order(a).cmp(&order(b))
    });
    let entries: Vec<Value> = owners
        .into_iter()
        .map(|owner| {
            let mut entry = json!({
                "manager": owner.manager,
                "operation": owner.operation,
                "apiVersion": owner.version,
                "fieldsType": "FieldsV1",
                "fieldsV1": owner.set.to_value(),
            });
            if !owner.time.is_null() {
                entry["time"] = owner.time;
            }
            if !owner.subresource.is_empty() {
                entry["subresource"] = owner.subresource.into();
            }
            entry
        })
        .collect();
    let list = if entries.is_empty() { Value::Null } else { Value::Array(entries) };
    object::set_meta(object, "managedFields", list);
}

/// Forgets what is not tracked: identity, and what the write cannot change.
fn strip(operation: &Operation, set: &mut Set) {
    set.children.remove("f:apiVersion");
    set.children.remove("f:kind");
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        for field in SYSTEM {
            metadata.children.remove(*field);
        }
    }
    let resource = &operation.resource;
    if operation.subresource() == "status" {
        set.children.remove("f:spec");
        if resource.custom.is_some() {
            set.children.retain(|name, _| name == "f:status");
        } else {
            set.remove_below(&["f:metadata", "f:deletionTimestamp"]);
            set.remove_below(&["f:metadata", "f:ownerReferences"]);
        }
    } else if resource.subresource("status").is_some() {
        set.children.remove("f:status");
    }
    if resource.storage == "/namespaces" && operation.subresource().is_empty() {
        set.remove_below(&["f:spec", "f:finalizers"]);
    }
    set.children.retain(|_, child| !child.is_empty());
}

fn own_subresource(operation: &Operation) -> String {
    operation.subresource().to_owned()
}

/// Records an update by the request's manager.
pub fn by_update(operation: &Operation, old: Option<&Value>, new: &mut Value) {
    let Some(schema) = operation.resource.schema.clone() else { return };
    let mut owners = brought(old, new);
    if let Some(old) = old
        && owners.is_empty()
        && !object::uid(old).is_empty()
    {
        // Nobody is recorded for this object; that stays so until somebody applies it.
        object::set_meta(new, "managedFields", Value::Null);
        return;
    }
    // What a new object of a built-in kind starts from already has its structs.
    let empty = match operation.resource.custom {
        Some(_) => json!({}),
        None => decode::empty(&schema),
    };
    let writer = Owner {
        manager: operation.options.manager.clone(),
        operation: UPDATE.to_owned(),
        version: operation.resource.api_version(),
        subresource: own_subresource(operation),
        time: Value::Null,
        set: Set::default(),
    };
    record(operation, &schema, old.unwrap_or(&empty), new, &mut owners, writer);
    owners.retain(|owner| !owner.set.is_empty());
    cap(&mut owners);
    write(new, owners);
}

/// The owners that an update starts from: those it brings, unless it has none.
fn brought(old: Option<&Value>, new: &Value) -> Vec<Owner> {
    let entries = new["metadata"]["managedFields"].as_array();
    let is_reset = entries.is_some_and(|list| {
        list.is_empty()
            || (list.len() == 1 && list[0].as_object().is_some_and(serde_json::Map::is_empty))
    });
    match (entries, old) {
        (Some(_), _) if is_reset => Vec::new(),
        (Some(_), _) => read(new),
        (None, Some(old)) => read(old),
        (None, None) => Vec::new(),
    }
}

/// Moves what a write changed to its writer.
fn record(
    operation: &Operation,
    schema: &Schema,
    old: &Value,
    new: &Value,
    owners: &mut Vec<Owner>,
    writer: Owner,
) {
    let mut difference = typed::compare(schema, old, new);
    for set in [&mut difference.removed, &mut difference.modified, &mut difference.added] {
        strip(operation, set);
    }
    let taken = difference.set();
    for owner in owners.iter_mut().filter(|owner| !owner.is(&writer)) {
        owner.set.subtract(&taken);
        owner.set.subtract(&difference.removed);
    }
    let at = position(owners, writer);
    let own = &mut owners[at];
    let before = own.set.clone();
    own.set.subtract(&difference.removed);
    own.set.add(&taken);
    // Kubernetes keeps no time for what was written through `scale`.
    if own.set != before && own.subresource != "scale" {
        own.time = object::now().into();
    }
}

fn position(owners: &mut Vec<Owner>, writer: Owner) -> usize {
    match owners.iter().position(|owner| owner.is(&writer)) {
        Some(at) => at,
        None => {
            owners.push(writer);
            owners.len() - 1
        }
    }
}

/// Merges the oldest updaters into one when there are too many.
fn cap(owners: &mut Vec<Owner>) {
    let mut updaters: Vec<Owner> = Vec::new();
    owners.retain(|owner| {
        let is_updater = owner.operation == UPDATE;
        if is_updater {
            updaters.push(owner.clone());
        }
        !is_updater
    });
    updaters.sort_by_key(|owner| owner.time.as_str().unwrap_or_default().to_owned());
    while updaters.len() > MOST_UPDATERS {
        let oldest = updaters.remove(0);
        let next = &mut updaters[0];
        next.set.add(&oldest.set);
        ANCIENT.clone_into(&mut next.manager);
        next.subresource.clear();
    }
    owners.extend(updaters);
}

/// Merges an applied configuration into the live object and records its owner.
///
/// # Errors
/// 409 with every field that another manager owns, unless forced; 500 for fields that the schema
/// does not know.
pub fn by_apply(operation: &Operation, live: &Value, config: &Value) -> Result<Value, Status> {
    let schema = operation.resource.schema.clone().ok_or_else(Status::method_not_allowed)?;
    let errors = typed::check(&schema, config);
    if !errors.is_empty() {
        let resource = &operation.resource;
        let what = format!(
            "{}/{}; {}/{}, Kind={}",
            object::namespace(config),
            object::name(config),
            resource.group,
            resource.version,
            resource.kind
        );
        let list = if errors.len() == 1 {
            errors[0].clone()
        } else {
            format!("errors:\n  {}", errors.join("\n  "))
        };
        let message = format!("failed to create typed patch object ({what}): {list}");
        return Err(Status::new(500, "", message));
    }
    let mut owners = read(live);
    if owners.is_empty() && !object::uid(live).is_empty() {
        let mut set = typed::field_set(&schema, live);
        strip(operation, &mut set);
        owners.push(Owner {
            manager: BEFORE_FIRST_APPLY.to_owned(),
            operation: UPDATE.to_owned(),
            version: operation.resource.api_version(),
            subresource: String::new(),
            time: object::now().into(),
            set,
        });
    }
    let mut set = typed::field_set(&schema, config);
    strip(operation, &mut set);
    let applier = Owner {
        manager: operation.options.manager.clone(),
        operation: APPLY.to_owned(),
        version: operation.resource.api_version(),
        subresource: own_subresource(operation),
        time: Value::Null,
        set: Set::default(),
    };
    let at = position(&mut owners, applier);
    let last = std::mem::replace(&mut owners[at].set, set);
    operation.resource.api_version().clone_into(&mut owners[at].version);
    let mut new = typed::merge(&schema, live, config);
    let mut keep = Set::default();
    owners.iter().for_each(|owner| keep.add(&owner.set));
    typed::prune(&schema, &mut new, &last, &keep);
    settle(operation, &schema, live, &new, &mut owners, at)?;
    if owners[at].set != last || owners[at].time.is_null() {
        owners[at].time = object::now().into();
    }
    let mut place = 0;
    owners.retain(|owner| {
        place += 1;
        place - 1 == at || !owner.set.is_empty()
    });
    write(&mut new, owners);
    Ok(new)
}

/// Refuses conflicts, or takes the fields over when forced.
fn settle(
    operation: &Operation,
    schema: &Schema,
    live: &Value,
    new: &Value,
    owners: &mut [Owner],
    applier: usize,
) -> Result<(), Status> {
    let mut difference = typed::compare(schema, live, new);
    for set in [&mut difference.removed, &mut difference.modified, &mut difference.added] {
        strip(operation, set);
    }
    let taken = difference.set();
    let mut conflicts = Vec::new();
    for (at, owner) in owners.iter_mut().enumerate().filter(|(at, _)| *at != applier) {
        let shared = owner.set.intersection(&taken);
        for path in shared.paths() {
            conflicts.push((at, owner.shown(), path));
        }
        if operation.options.force {
            owner.set.subtract(&shared);
        }
        owner.set.subtract(&difference.removed);
    }
    if operation.options.force || conflicts.is_empty() {
        return Ok(());
    }
    Err(conflict(conflicts))
}

fn conflict(mut conflicts: Vec<(usize, String, String)>) -> Status {
    conflicts.sort_by(|a, b| (&a.1, &a.2).cmp(&(&b.1, &b.2)));
    let causes = conflicts
        .iter()
        .map(|(_, owner, path)| Cause {
            reason: "FieldManagerConflict",
            message: format!("conflict with {owner}"),
            field: path.clone(),
        })
        .collect();
    let message = match conflicts.as_slice() {
        [(_, owner, path)] => {
            format!("Apply failed with 1 conflict: conflict with {owner}: {path}")
        }
        many => {
            let mut lines: Vec<String> = Vec::new();
            let mut current = None;
            for (_, owner, path) in many {
                if current != Some(owner) {
                    lines.push(format!("conflicts with {owner}:"));
                    current = Some(owner);
                }
                lines.push(format!("- {path}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::new(409, "Conflict", message).with_causes(causes)
}
