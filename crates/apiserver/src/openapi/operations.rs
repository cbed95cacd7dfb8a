//! Paths of a resource with their operations: what may be done, with which options and bodies.

use serde_json::{Map, Value, json};

use super::{document_name, kind_mark, kinds, reference, schema_name};
use crate::resources::{ResourceType, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Options of requests: name, type, what they do.
const PRETTY: Option_ = ("pretty", "string", "Whether the answer is indented for people.");
const DRY_RUN: Option_ = ("dryRun", "string", "`All` checks the request and stores nothing.");
const MANAGER: Option_ =
    ("fieldManager", "string", "The name under which the changed fields are remembered.");
const VALIDATION: Option_ = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: `Ignore`, `Warn` or `Strict`.",
);
const FORCE: Option_ =
    ("force", "boolean", "Whether an apply takes over fields that others manage.");
const LIST: [Option_; 10] = [
    ("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    ("continue", "string", "Where the last answer of a list in parts left off."),
    ("fieldSelector", "string", "Selects objects by their fields."),
    ("labelSelector", "string", "Selects objects by their labels."),
    ("limit", "integer", "The most objects that one answer may hold."),
    ("resourceVersion", "string", "The state that is wanted, or that a watch starts after."),
    ("resourceVersionMatch", "string", "How the wanted state is meant."),
    ("sendInitialEvents", "boolean", "Whether a watch starts with the objects there are."),
    ("timeoutSeconds", "integer", "How long the answer may take."),
    ("watch", "boolean", "Whether to watch instead of list."),
];
const DELETE: [Option_; 4] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "How long the object may take to stop."),
    ("orphanDependents", "boolean", "Whether dependents stay; use propagationPolicy."),
    ("propagationPolicy", "string", "What happens to dependents."),
];

type Option_ = (&'static str, &'static str, &'static str);

/// The paths of a resource and its subresources.
pub fn paths(resource: &ResourceType) -> Map<String, Value> {
    let mut paths = Map::new();
    let base = format!("/{}", document_name(&resource.group, &resource.version));
    let plural = &resource.plural;
    let collection = if resource.namespaced {
        if resource.has_verb("list") {
            let all = operation(resource, "list", "get", &LIST);
            paths.insert(format!("{base}/{plural}"), json!({"get": all, "parameters": [pretty()]}));
        }
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    paths.insert(collection.clone(), collection_item(resource));
    let verbs = ["get", "update", "patch", "delete"];
    if verbs.iter().any(|verb| resource.has_verb(verb)) {
        paths.insert(format!("{collection}/{{name}}"), object_item(resource));
    }
    for sub in &resource.subresources {
        let path = format!("{collection}/{{name}}/{}", sub.name);
        paths.insert(path, subresource_item(resource, sub));
    }
    paths
}

fn collection_item(resource: &ResourceType) -> Value {
    let mut item = Map::new();
    if resource.has_verb("list") {
        item.insert("get".into(), operation(resource, "list", "get", &LIST));
    }
    if resource.has_verb("create") {
        let options = [DRY_RUN, MANAGER, VALIDATION];
        item.insert("post".into(), operation(resource, "post", "post", &options));
    }
    if resource.has_verb("deletecollection") {
        let options: Vec<Option_> = LIST.into_iter().chain(DELETE).collect();
        item.insert("delete".into(), operation(resource, "deletecollection", "delete", &options));
    }
    item.insert("parameters".into(), place(resource, false));
    Value::Object(item)
}

fn object_item(resource: &ResourceType) -> Value {
    let mut item = Map::new();
    let patch = [DRY_RUN, MANAGER, VALIDATION, FORCE];
    let operations: [(&str, &str, &[Option_]); 4] = [
        ("get", "get", &[]),
        ("update", "put", &patch[..3]),
        ("patch", "patch", &patch),
        ("delete", "delete", &DELETE),
    ];
    for (verb, method, options) in operations {
        if resource.has_verb(verb) {
            item.insert(method.into(), operation(resource, method, method, options));
        }
    }
    item.insert("parameters".into(), place(resource, true));
    Value::Object(item)
}

/// One operation: `action` is its name in Kubernetes' terms, `method` the HTTP method.
fn operation(resource: &ResourceType, action: &str, method: &str, options: &[Option_]) -> Value {
    let own = schema_name(resource);
    let answer = match action {
        "list" => format!("{own}List"),
        "delete" | "deletecollection" => format!("{META}.Status"),
        _ => own.clone(),
    };
    let body = match method {
        "delete" => format!("{META}.DeleteOptions"),
        _ => own,
    };
    let mark = kind_mark(&resource.group, &resource.version, &resource.kind);
    build(resource, &resource.plural, action, (method, options), (&body, &answer), mark)
}

fn subresource_item(resource: &ResourceType, sub: &Subresource) -> Value {
    let name = if sub.kind == resource.kind {
        schema_name(resource)
    } else {
        kinds::schema_name(&sub.group, &sub.version, &sub.kind)
            .unwrap_or_else(|| format!("{META}.Status"))
    };
    let mark = kind_mark(&sub.group, &sub.version, &sub.kind);
    let place_name = format!("{}_{}", resource.plural, sub.name);
    let patch = [DRY_RUN, MANAGER, VALIDATION, FORCE];
    let mut item = Map::new();
    let operations: [(&str, &str, &[Option_]); 5] = [
        ("get", "get", &[]),
        ("create", "post", &patch[..3]),
        ("update", "put", &patch[..3]),
        ("patch", "patch", &patch),
        ("delete", "delete", &DELETE),
    ];
    for (verb, method, options) in operations {
        if sub.verbs.iter().any(|own| own == verb) {
            let action = if method == "get" && is_stream(&sub.name) { "connect" } else { method };
            let operation = build(
                resource,
                &place_name,
                action,
                (method, options),
                (&name, &name),
                mark.clone(),
            );
            item.insert(method.into(), operation);
        }
    }
    item.insert("parameters".into(), place(resource, true));
    Value::Object(item)
}

fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward" | "proxy")
}

fn build(
    resource: &ResourceType,
    place_name: &str,
    action: &str,
    (method, options): (&str, &[Option_]),
    (body, answer): (&str, &str),
    mark: Value,
) -> Value {
    let group = document_name(&resource.group, &resource.version);
    let tag = group.trim_start_matches("apis/").trim_start_matches("api/").replace(['.', '/'], "_");
    let content = |name: &str| {
        json!({
            "application/json": {"schema": reference(name)},
            "application/yaml": {"schema": reference(name)},
        })
    };
    let code = if method == "post" { "201" } else { "200" };
    let mut operation = json!({
        "tags": [tag],
        "description": format!("{action} {}", resource.kind),
        "operationId": format!("{action}_{tag}_{place_name}"),
        "parameters": options.iter().copied().map(parameter).collect::<Vec<_>>(),
        "responses": {
            code: {"description": "done", "content": content(answer)},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": mark,
    });
    match method {
        "post" | "put" | "delete" => {
            operation["requestBody"] = json!({"content": {"*/*": {"schema": reference(body)}}});
        }
        "patch" => {
            // Custom kinds have no strategic merge.
            let kinds = PATCHES
                .iter()
                .filter(|kind| resource.custom.is_none() || !kind.contains("strategic"));
            let schema = json!({"schema": reference(&format!("{META}.Patch"))});
            let content: Map<String, Value> =
                kinds.map(|kind| ((*kind).to_owned(), schema.clone())).collect();
            operation["requestBody"] = json!({"content": content, "required": true});
        }
        _ => {}
    }
    operation
}

fn parameter((name, kind, description): Option_) -> Value {
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

fn pretty() -> Value {
    parameter(PRETTY)
}

/// The parts of the path that vary, and options of every operation.
fn place(resource: &ResourceType, named: bool) -> Value {
    let part = |name: &str, description: &str| {
        json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": {"type": "string", "uniqueItems": true},
        })
    };
    let mut parts = Vec::new();
    if named {
        parts.push(part("name", &format!("Name of the {}.", resource.kind)));
    }
    if resource.namespaced {
        parts.push(part("namespace", "Namespace of the object."));
    }
    parts.push(pretty());
    Value::Array(parts)
}
