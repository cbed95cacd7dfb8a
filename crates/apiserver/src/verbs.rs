//! The verbs: what happens to a resource when it is read, written, deleted or watched.

use std::sync::Arc;

use serde_json::Value;

use crate::auth::{MASTERS, User};
use crate::request::{Call, Query, RequestInfo};
use crate::resources::ResourceType;
use crate::server::Api;
use crate::status::Status;
use crate::store::Key;

pub mod create;
pub mod delete;
pub mod options;
pub mod patch;
pub mod read;
pub mod show;
pub mod update;
pub mod watch;

use options::{FieldValidation, WriteOptions};

/// The name under which the server acts on its own behalf.
const SERVER: &str = "system:apiserver";

/// One request to one resource. Write verbs also carry options and gather warnings.
#[derive(Debug)]
pub struct Operation {
    pub api: Arc<Api>,
    pub call: Call,
    pub resource: Arc<ResourceType>,
    pub options: WriteOptions,
    pub warnings: parking_lot::Mutex<Vec<String>>,
}

impl Operation {
    /// Where the named object is kept.
    pub fn key(&self, name: &str) -> Key {
        let namespace = if self.resource.namespaced { &self.call.info.namespace } else { "" };
        Key::new(&self.resource.storage, namespace, name)
    }

    /// An operation that the server itself does on an object.
    pub fn by_server(api: &Arc<Api>, resource: &Arc<ResourceType>, key: &Key) -> Self {
        let (parts, ()) = http::Request::new(()).into_parts();
        let info = RequestInfo {
            is_resource: true,
            verb: "delete".to_owned(),
            group: resource.group.clone(),
            version: resource.version.clone(),
            namespace: key.namespace.clone(),
            resource: resource.plural.clone(),
            name: key.name.clone(),
            ..RequestInfo::default()
        };
        let user =
            User { name: SERVER.to_owned(), groups: vec![MASTERS.to_owned()], ..User::default() };
        let options = WriteOptions {
            dry_run: false,
            manager: "kube-apiserver".to_owned(),
            has_manager: true,
            validation: FieldValidation::Ignore,
            force: false,
        };
        Self {
            api: Arc::clone(api),
            call: Call { parts, info, query: Query::default(), user },
            resource: Arc::clone(resource),
            options,
            warnings: parking_lot::Mutex::default(),
        }
    }

    /// 404 for the named object.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, name)
    }

    /// 409 for a lost race over the named object.
    pub fn modified(&self, name: &str) -> Status {
        Status::modified(&self.resource.group, &self.resource.plural, name)
    }

    /// 403 for the named object.
    pub fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, name, why)
    }

    /// Adds a warning that the client prints.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// The subresource, or "".
    pub fn subresource(&self) -> &str {
        &self.call.info.subresource
    }

    /// An object in the form in which it is kept.
    pub fn newest(&self, name: &str) -> Option<Arc<crate::store::Stored>> {
        self.api.store.newest(&self.key(name))
    }

    /// Checks a body's kind and version, filling them in where they are missing.
    ///
    /// # Errors
    /// 400 when they are others.
    pub fn check_kind(&self, object: &mut Value) -> Result<(), Status> {
        let (version, kind) = (self.resource.api_version(), &self.resource.kind);
        check_kind(object, &version, kind)
    }
}

/// Checks a body's kind and version, filling them in where they are missing.
///
/// # Errors
/// 400 when they are others.
pub fn check_kind(object: &mut Value, version: &str, kind: &str) -> Result<(), Status> {
    let Some(map) = object.as_object_mut() else {
        return Err(Status::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of \
             type struct",
        ));
    };
    let (group, short) = version.rsplit_once('/').unwrap_or(("core", version));
    let group = group.split('.').next().unwrap_or(group);
    for (field, wanted, what) in [("kind", kind, "kind"), ("apiVersion", version, "API version")] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => drop(map.insert(field.to_owned(), wanted.into())),
            Some(have) if have == wanted => (),
            Some(have) if what == "kind" => {
                return Err(Status::bad_request(format!(
                    "{have} in version \"{short}\" cannot be handled as a {kind}: converting ({short}.{have}) to ({group}.{kind}): unknown conversion"
                )));
            }
            Some(have) => {
                return Err(Status::bad_request(format!(
                    "{kind} in version \"{}\" cannot be handled as a {kind}: no kind \"{kind}\" is registered for version \"{have}\" in scheme \"pkg/runtime/scheme.go:111\"",
                    have.rsplit('/').next().unwrap_or(have)
                )));
            }
        }
    }
    Ok(())
}
