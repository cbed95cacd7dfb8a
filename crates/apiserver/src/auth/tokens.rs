//! Judges service-account tokens against the objects that they name, and issues new ones.
//!
//! Fails closed: a token is good only while its service account, and the pod, Secret or node that
//! it is bound to, still exist with the uid that the token names.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::User;
use super::jwt::{Bound, Claims, Keys, Reference};
use crate::status::Status;
use crate::store::{Key, Store, Stored};

/// Tolerated difference between clocks, and the time for which a deleted object's tokens live on.
const LEEWAY: i64 = 60;
/// Issuer of tokens that live in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Lifetime asked for by injected volumes, which is stretched so that old clients survive.
const INJECTED_LIFETIME: i64 = 3607;
const STRETCHED_LIFETIME: i64 = 365 * 24 * 3600;

/// The account that a token stands for, and those of the asked audiences that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub user: User,
    pub audiences: Vec<String>,
}

/// Verifies and issues tokens against the objects of one store.
#[derive(Clone, Debug)]
pub struct Tokens {
    keys: Arc<Keys>,
    store: Store,
}

/// What a new token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub audiences: Vec<String>,
    pub lifetime: i64,
    pub pod: Option<Reference>,
    pub secret: Option<Reference>,
    pub node: Option<Reference>,
}

impl Tokens {
    pub fn new(keys: Arc<Keys>, store: Store) -> Self {
        Self { keys, store }
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Who `token` stands for, if it is meant for one of `audiences`.
    ///
    /// # Errors
    /// What is wrong with the token, in words for reviews; it is never shown with a 401.
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<Verified, String> {
        let claims = self.keys.verify(token).ok_or("invalid bearer token")?;
        if claims.iss == LEGACY_ISSUER {
            let user = self.verify_legacy(token, &claims)?;
            let own = audiences.iter().filter(|audience| *audience == self.keys.issuer());
            let audiences: Vec<String> = own.cloned().collect();
            return check_audiences(&[self.keys.issuer().to_owned()], audiences, user);
        }
        if claims.iss != self.keys.issuer() {
            return Err("invalid bearer token".to_owned());
        }
        let both: Vec<String> =
            audiences.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if both.is_empty() {
            return Err(format!(
                "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
                crate::quote::go_quote_list(&claims.aud),
                crate::quote::go_quote_list(audiences),
            ));
        }
        let user =
            self.verify_bound(&claims).map_err(|why| format!("[invalid bearer token, {why}]"))?;
        Ok(Verified { user, audiences: both })
    }

    fn verify_bound(&self, claims: &Claims) -> Result<User, String> {
        let now = Timestamp::now().as_second();
        check_times(claims, now)?;
        let bound = claims.bound.as_ref().ok_or("the token names no service account")?;
        let namespace = bound.namespace.as_str();
        let account = &bound.serviceaccount;
        let object = self
            .object("serviceaccounts", namespace, &account.name)
            .ok_or_else(|| format!("serviceaccounts \"{}\" not found", account.name))?;
        if uid(&object.value) != account.uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({})",
                uid(&object.value),
                account.uid
            ));
        }
        if deleted_before(&object.value, now - LEEWAY) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        let mut user = User::service_account(namespace, &account.name, &account.uid);
        if !claims.jti.is_empty() {
            extra(&mut user, "credential-id", format!("JTI={}", claims.jti));
        }
        if let Some(secret) = &bound.secret {
            self.confirm("secret", namespace, secret, now)?;
        }
        if let Some(pod) = &bound.pod {
            self.confirm("pod", namespace, pod, now)?;
            extra(&mut user, "pod-name", pod.name.clone());
            extra(&mut user, "pod-uid", pod.uid.clone());
        }
        if let Some(node) = &bound.node {
            // The node of a pod's token is only a hint; a token bound to a node dies with it.
            if bound.pod.is_none() {
                self.confirm("node", "", node, now)?;
            }
            extra(&mut user, "node-name", node.name.clone());
            if !node.uid.is_empty() {
                extra(&mut user, "node-uid", node.uid.clone());
            }
        }
        Ok(user)
    }

    fn confirm(
        &self,
        kind: &str,
        namespace: &str,
        wanted: &Reference,
        now: i64,
    ) -> Result<(), String> {
        let gone = || "service account token has been invalidated".to_owned();
        let object = self.object(&format!("{kind}s"), namespace, &wanted.name).ok_or_else(gone)?;
        if uid(&object.value) != wanted.uid {
            let title =
                if kind == "secret" { "Secret UID".to_owned() } else { format!("{kind} UID") };
            return Err(format!(
                "{} ({}) does not match service account {kind} ref claim ({})",
                title.replacen("Secret", "secret", 1),
                uid(&object.value),
                wanted.uid
            ));
        }
        if deleted_before(&object.value, now - LEEWAY) { Err(gone()) } else { Ok(()) }
    }

    fn verify_legacy(&self, token: &str, claims: &Claims) -> Result<User, String> {
        let (namespace, name) = (claims.legacy_namespace.as_str(), claims.legacy_name.as_str());
        let wanted = [
            (&claims.sub, "sub"),
            (&claims.legacy_namespace, "namespace"),
            (&claims.legacy_secret, "secretName"),
            (&claims.legacy_name, "serviceAccountName"),
            (&claims.legacy_uid, "serviceAccountUID"),
        ];
        for (value, claim) in wanted {
            if value.is_empty() {
                return Err(format!("[invalid bearer token, {claim} claim is missing]"));
            }
        }
        let mut user = User::service_account(namespace, name, &claims.legacy_uid);
        if claims.sub != user.name {
            return Err("[invalid bearer token, sub claim is invalid]".to_owned());
        }
        let gone = || "[invalid bearer token, Token has been invalidated]".to_owned();
        let secret = self.object("secrets", namespace, &claims.legacy_secret).ok_or_else(gone)?;
        if secret.value.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(gone());
        }
        if secret_token(&secret.value).as_deref() != Some(token.as_bytes()) {
            let why = "[invalid bearer token, Token does not match server's copy]";
            return Err(why.to_owned());
        }
        let account = self
            .object("serviceaccounts", namespace, name)
            .ok_or_else(|| format!("serviceaccounts \"{name}\" not found"))?;
        if uid(&account.value) != claims.legacy_uid {
            return Err(format!(
                "[invalid bearer token, ServiceAccount UID ({}) does not match claim ({})]",
                uid(&account.value),
                claims.legacy_uid
            ));
        }
        user.extra.clear();
        Ok(user)
    }

    fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.store.get(&Key::new(&format!("/{plural}"), namespace, name))
    }

    /// Signs a token for a service account as ordered.
    ///
    /// # Errors
    /// 500 when the key cannot sign.
    pub fn issue(
        &self,
        namespace: &str,
        account: &Reference,
        order: &Order,
    ) -> Result<String, Status> {
        let now = Timestamp::now().as_second();
        let stretched = order.pod.is_some()
            && order.lifetime == INJECTED_LIFETIME
            && order.audiences.iter().all(|audience| audience == self.keys.issuer());
        let lifetime = if stretched { STRETCHED_LIFETIME } else { order.lifetime };
        let claims = Claims {
            aud: order.audiences.clone(),
            exp: Some(now.saturating_add(lifetime)),
            iat: Some(now),
            nbf: Some(now),
            iss: self.keys.issuer().to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: super::service_account_user(namespace, &account.name),
            bound: Some(Bound {
                namespace: namespace.to_owned(),
                node: order.node.clone(),
                pod: order.pod.clone(),
                secret: order.secret.clone(),
                serviceaccount: account.clone(),
                warnafter: stretched.then_some(now.saturating_add(order.lifetime)),
            }),
            ..Claims::default()
        };
        self.keys
            .sign(&claims)
            .map_err(|error| Status::internal(format!("failed to generate token: {error}")))
    }
}

fn check_audiences(own: &[String], audiences: Vec<String>, user: User) -> Result<Verified, String> {
    if audiences.is_empty() {
        return Err(format!(
            "[invalid bearer token, token audiences {} are not among the target audiences]",
            crate::quote::go_quote_list(own),
        ));
    }
    Ok(Verified { user, audiences })
}

fn check_times(claims: &Claims, now: i64) -> Result<(), &'static str> {
    let expired = claims.exp.is_none_or(|exp| now > exp.saturating_add(LEEWAY));
    let early = claims.nbf.is_some_and(|nbf| now.saturating_add(LEEWAY) < nbf);
    let future = claims.iat.is_some_and(|iat| now.saturating_add(LEEWAY) < iat);
    if expired {
        return Err("service account token has expired");
    }
    if early {
        return Err("service account token is not valid yet");
    }
    if future {
        return Err("service account token is issued in the future");
    }
    Ok(())
}

fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

fn deleted_before(object: &Value, second: i64) -> bool {
    let Some(time) = object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str) else {
        return false;
    };
    // A time that cannot be read counts as long ago.
    time.parse::<Timestamp>().map_or(true, |time| time.as_second() < second)
}

fn secret_token(secret: &Value) -> Option<Vec<u8>> {
    use base64::Engine;
    let text = secret.pointer("/data/token")?.as_str()?;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn extra(user: &mut User, name: &str, value: String) {
    user.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value]);
}
