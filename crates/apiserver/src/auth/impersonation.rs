//! Acting as somebody else: the `Impersonate-*` headers, each of them authorized.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{
    ANONYMOUS, AUTHENTICATED, Authorizer, UNAUTHENTICATED, User, service_account_groups,
    split_service_account,
};
use crate::quote::go_quote;
use crate::request::{RequestInfo, decode};
use crate::status::Status;

const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that `user` asks to be taken for, or `user` itself without such headers.
///
/// # Errors
/// 403 when `user` may not act as that user or group; 400 when the headers name groups but no user.
pub fn apply(authorizer: &Authorizer, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let Some(wanted) = requested(headers)? else { return Ok(user) };
    for question in questions(&wanted) {
        authorizer.authorize(&user, &question)?;
    }
    Ok(settle(wanted))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
}

/// What the headers ask for.
fn requested(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix("impersonate-extra-")
            && let Ok(value) = value.to_str()
        {
            extra.entry(decode(key).to_lowercase()).or_default().push(value.to_owned());
        }
    }
    let uid = text(headers, "impersonate-uid").unwrap_or_default().to_owned();
    match text(headers, "impersonate-user") {
        Some(name) => Ok(Some(User { name: name.to_owned(), uid, groups, extra })),
        None if groups.is_empty() && extra.is_empty() && uid.is_empty() => Ok(None),
        None => Err(Status::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{}, Extra:{}}} without \
             impersonating a user name",
            go_quote(&uid),
            go_slice(&groups),
            go_map(&extra),
        ))),
    }
}

/// A list as Kubernetes' message shows it.
fn go_slice(texts: &[String]) -> String {
    if texts.is_empty() {
        return "[]string(nil)".to_owned();
    }
    let quoted: Vec<String> = texts.iter().map(|text| go_quote(text)).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

fn go_map(map: &BTreeMap<String, Vec<String>>) -> String {
    if map.is_empty() {
        return "map[string][]string(nil)".to_owned();
    }
    let entries: Vec<String> =
        map.iter().map(|(key, values)| format!("{}:{}", go_quote(key), go_slice(values))).collect();
    format!("map[string][]string{{{}}}", entries.join(", "))
}

/// What the real user has to be allowed.
fn questions(wanted: &User) -> Vec<RequestInfo> {
    let ask =
        |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| RequestInfo {
            is_resource: true,
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
    let mut questions = vec![match split_service_account(&wanted.name) {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
        None => ask("", "users", "", "", &wanted.name),
    }];
    questions.extend(wanted.groups.iter().map(|group| ask("", "groups", "", "", group)));
    for (key, values) in &wanted.extra {
        questions.extend(values.iter().map(|v| ask(AUTHENTICATION, "userextras", key, "", v)));
    }
    if !wanted.uid.is_empty() {
        questions.push(ask(AUTHENTICATION, "uids", "", "", &wanted.uid));
    }
    questions
}

/// Adds the groups that the impersonated user has by being what it is.
fn settle(mut user: User) -> User {
    if user.groups.is_empty()
        && let Some((namespace, _)) = split_service_account(&user.name)
    {
        user.groups = service_account_groups(namespace);
    }
    if user.name == ANONYMOUS {
        if !user.is_in(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}
