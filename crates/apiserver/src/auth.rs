//! Who asks, and whether they may.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::request::RequestInfo;
use crate::status::Status;

pub const MASTERS: &str = "system:masters";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

/// Who a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The connection a request came over. Every request carries it as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's certificate chain, verified by the listener; empty without one.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// Finds out who asks.
#[derive(Debug, Default)]
pub struct Authenticator {}

/// Decides who may do what.
#[derive(Debug, Default)]
pub struct Authorizer {}

impl User {
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}

impl Authenticator {
    /// The user behind a request, after impersonation.
    ///
    /// # Errors
    /// 401 when nobody can be made out.
    #[expect(clippy::unused_async, reason = "token checks read the store and may wait")]
    pub async fn authenticate(&self, parts: &Parts) -> Result<User, Status> {
        let peer = parts.extensions.get::<Peer>().ok_or_else(Status::unauthorized)?;
        let leaf = peer.certificates.first().ok_or_else(Status::unauthorized)?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| Status::unauthorized())?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().find_map(|cn| cn.as_str().ok());
        let mut groups: Vec<String> = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok().map(str::to_owned))
            .collect();
        groups.push(AUTHENTICATED.to_owned());
        let name = name.ok_or_else(Status::unauthorized)?.to_owned();
        Ok(User { name, groups, ..User::default() })
    }
}

impl Authorizer {
    /// Lets a request pass.
    ///
    /// # Errors
    /// 403 when the user may not do this.
    pub fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), Status> {
        if user.is_in(MASTERS) {
            return Ok(());
        }
        let why = format!("User \"{}\" cannot {} path \"{}\"", user.name, info.verb, info.path);
        Err(Status::forbidden(&info.group, &info.resource, &info.name, why))
    }
}
