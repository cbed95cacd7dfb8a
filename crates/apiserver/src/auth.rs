//! Who asks, and whether they may.
//!
//! Users come from client certificates, service-account tokens or, without credentials, are
//! anonymous; wrong credentials are refused, never downgraded. What users may do is written in
//! roles and bindings, read from the store at its newest revision for every request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, header};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::status::Status;
use crate::user::{
    ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User, service_account_groups,
    service_account_user, split_service_account,
};

mod authorizer;
mod impersonation;
pub mod jwt;
pub mod tokens;

pub use authorizer::Authorizer;
use tokens::Tokens;

/// The connection a request came over. Every request carries it as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's certificate chain, verified by the listener; empty without one.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// Finds out who asks.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Tokens,
    authorizer: Authorizer,
}

impl Authenticator {
    pub fn new(tokens: Tokens, authorizer: Authorizer) -> Self {
        Self { tokens, authorizer }
    }

    /// What verifies and issues service-account tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The user behind a request, after impersonation.
    ///
    /// # Errors
    /// 401 when credentials are wrong, 403 when impersonation is not allowed.
    pub fn authenticate(&self, parts: &Parts) -> Result<User, Status> {
        let user = self.identify(parts)?;
        impersonation::apply(&self.authorizer, user, &parts.headers)
    }

    fn identify(&self, parts: &Parts) -> Result<User, Status> {
        let peer = parts.extensions.get::<Peer>().ok_or_else(Status::unauthorized)?;
        if let Some(leaf) = peer.certificates.first() {
            return certificate_user(leaf).ok_or_else(Status::unauthorized);
        }
        let Some(token) = bearer(&parts.headers) else { return Ok(User::anonymous()) };
        let audiences = [self.tokens.keys().issuer().to_owned()];
        match self.tokens.verify(token, &audiences) {
            Ok(verified) => Ok(verified.user.authenticated()),
            Err(why) => {
                tracing::debug!(address = %peer.address, why, "bearer token refused");
                Err(Status::unauthorized())
            }
        }
    }

    /// The user that `token` stands for and the audiences it shares with `audiences`, for reviews.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn review(&self, token: &str, audiences: &[String]) -> Result<tokens::Verified, String> {
        let verified = self.tokens.verify(token, audiences)?;
        Ok(tokens::Verified { user: verified.user.authenticated(), ..verified })
    }
}

/// The user that a client certificate names: CN the user, every O a group.
fn certificate_user(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|cn| cn.as_str().ok())?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned));
    let digest: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut user = User { name, groups: groups.collect(), ..User::default() };
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={digest}")],
    );
    Some(user.authenticated())
}

/// The bearer token of a request; other kinds of `Authorization` count as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    let Ok(text) = value.to_str() else {
        // Bytes that no token contains; refused by verification rather than taken as anonymous.
        return Some("\u{0}");
    };
    let mut words = text.trim().splitn(3, ' ');
    let scheme = words.next()?;
    let token = words.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
