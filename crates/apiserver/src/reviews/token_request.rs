//! `serviceaccounts/NAME/token`: a token for a service account, bound to an object if asked.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{invalid, now, strings, with_status};
use crate::api::Api;
use crate::auth::jwt::Reference;
use crate::auth::tokens::Order;
use crate::quote::go_quote;
use crate::request::RequestInfo;
use crate::resources::split_group_version;
use crate::status::Status;
use crate::store::Key;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_LIFETIME: i64 = 3600;
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;

/// Issues the token and answers with it.
///
/// # Errors
/// 404 without the account or the object to bind to; 422 for a lifetime out of bounds; 409 when
/// uids do not match; 400 for an object that tokens cannot be bound to.
pub fn answer(api: &Api, info: &RequestInfo, mut object: Value) -> Result<Value, Status> {
    let (namespace, name) = (info.namespace.as_str(), info.name.as_str());
    check_names(&object, info)?;
    let account = find(api, "serviceaccounts", namespace, name)?;
    let uid = text(&account, "/metadata/uid");
    let asked = text(&object, "/metadata/uid");
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the token request ({asked}) does not match the UID of the service account \
             ({uid})"
        );
        return Err(Status::conflict(GROUP, KIND, name, why));
    }
    let lifetime = lifetime(&object)?;
    let mut order = Order {
        audiences: strings(object.pointer("/spec/audiences")),
        lifetime,
        ..Order::default()
    };
    if order.audiences.is_empty() {
        order.audiences.push(api.authenticator.tokens().keys().issuer().to_owned());
    }
    bind(api, info, &object, &mut order)?;
    let expires = Timestamp::now().as_second().saturating_add(lifetime);
    let expires = Timestamp::from_second(expires)
        .map_err(Status::internal)?
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let subject = Reference { name: name.to_owned(), uid: uid.clone() };
    let token = api.authenticator.tokens().issue(namespace, &subject, &order)?;
    let bound = object.pointer("/spec/boundObjectRef").cloned().unwrap_or_default();
    object["apiVersion"] = format!("{GROUP}/v1").into();
    object["kind"] = KIND.into();
    object["metadata"] = json!({
        "name": name, "namespace": namespace, "uid": uid, "creationTimestamp": now(),
    });
    object["spec"] = json!({
        "audiences": order.audiences, "expirationSeconds": lifetime, "boundObjectRef": bound,
    });
    Ok(with_status(object, json!({"token": token, "expirationTimestamp": expires})))
}

fn check_names(object: &Value, info: &RequestInfo) -> Result<(), Status> {
    let checks = [
        ("/metadata/name", &info.name, "metadata.name", "name"),
        ("/metadata/namespace", &info.namespace, "metadata.namespace", "namespace"),
    ];
    for (pointer, own, field, what) in checks {
        let asked = text(object, pointer);
        if !asked.is_empty() && asked != *own {
            let why = format!("must match the service account {what} if specified");
            let causes = vec![invalid(go_quote(&asked), field, &why)];
            return Err(Status::invalid(GROUP, KIND, &info.name, causes));
        }
    }
    Ok(())
}

fn lifetime(object: &Value) -> Result<i64, Status> {
    let seconds = match object.pointer("/spec/expirationSeconds") {
        None | Some(Value::Null) => DEFAULT_LIFETIME,
        Some(value) => value.as_i64().ok_or_else(|| {
            Status::bad_request("spec.expirationSeconds must be a number of seconds")
        })?,
    };
    let why = if seconds < SHORTEST {
        "may not specify a duration less than 10 minutes"
    } else if seconds > LONGEST {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    let causes = vec![invalid(seconds, "spec.expirationSeconds", why)];
    Err(Status::invalid(GROUP, KIND, "", causes))
}

/// Binds the order to the object that the request names, if it names one.
fn bind(api: &Api, info: &RequestInfo, object: &Value, order: &mut Order) -> Result<(), Status> {
    let Some(wanted) = object.pointer("/spec/boundObjectRef").filter(|v| v.is_object()) else {
        return Ok(());
    };
    let (kind, api_version) = (text(wanted, "/kind"), text(wanted, "/apiVersion"));
    let (name, asked) = (text(wanted, "/name"), text(wanted, "/uid"));
    let (group, version) = split_group_version(&api_version);
    let uid = match (group, kind.as_str()) {
        ("", "Pod") => {
            let pod = find(api, "pods", &info.namespace, &name)?;
            if text(&pod, "/spec/serviceAccountName") != info.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {} to pod running with different \
                     serviceaccount name.",
                    go_quote(&info.name)
                )));
            }
            let node = text(&pod, "/spec/nodeName");
            if !node.is_empty() {
                let uid = find(api, "nodes", "", &node)
                    .map_or_else(|_| String::new(), |node| text(&node, "/metadata/uid"));
                order.node = Some(Reference { name: node, uid });
            }
            let uid = text(&pod, "/metadata/uid");
            order.pod = Some(Reference { name: name.clone(), uid: uid.clone() });
            uid
        }
        ("", "Secret") => {
            let uid = text(&find(api, "secrets", &info.namespace, &name)?, "/metadata/uid");
            order.secret = Some(Reference { name: name.clone(), uid: uid.clone() });
            uid
        }
        ("", "Node") => {
            let uid = text(&find(api, "nodes", "", &name)?, "/metadata/uid");
            order.node = Some(Reference { name: name.clone(), uid: uid.clone() });
            uid
        }
        _ => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(group, &kind, &name, why));
    }
    Ok(())
}

fn find(api: &Api, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let stored = api.store.get(&Key::new(&format!("/{plural}"), namespace, name));
    stored.map(|stored| stored.value.clone()).ok_or_else(|| Status::not_found("", plural, name))
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
