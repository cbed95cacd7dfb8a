//! TLS configurations, made once for each upstream transport and filter chain.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, ServerConfig};
use tombolo_tls::mesh::{ClientCertificate, Credentials};

use crate::config::tls::{DownstreamTls, UpstreamTls};

/// The application protocol of Istio's peer metadata exchange. Nothing here speaks it, so it is
/// never offered or agreed to.
const PEER_EXCHANGE: &str = "istio-peer-exchange";
/// The application protocol that marks a mesh peer.
const ISTIO: &str = "istio";

/// What is going to be spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Http1,
    Http2,
    Bytes,
}

/// The client configurations of one transport: one for each protocol, since its name is offered.
#[derive(Debug, Default)]
pub struct ClientConfigs([OnceLock<Arc<ClientConfig>>; 3]);

impl ClientConfigs {
    /// The configuration for a connection on which `spoken` is going to be spoken.
    pub fn get(
        &self,
        credentials: &Arc<Credentials>,
        tls: &UpstreamTls,
        spoken: Spoken,
    ) -> Arc<ClientConfig> {
        let slot = match spoken {
            Spoken::Http1 => &self.0[0],
            Spoken::Http2 => &self.0[1],
            Spoken::Bytes => &self.0[2],
        };
        let make = || {
            let alpn = offered(&tls.alpn, spoken);
            let alpn: Vec<&[u8]> = alpn.iter().map(|name| name.as_bytes()).collect();
            credentials.client(tls.rule.clone(), &alpn)
        };
        slot.get_or_init(make).clone()
    }
}

/// The protocol names to offer. To a mesh peer they say what is spoken, so that a server can tell
/// HTTP from other bytes before it terminates TLS; elsewhere they are what is configured.
fn offered(configured: &[String], spoken: Spoken) -> Vec<&str> {
    let mesh = configured.iter().any(|name| name == ISTIO);
    match spoken {
        Spoken::Http1 if mesh => vec!["istio-http/1.1", ISTIO, "http/1.1"],
        Spoken::Http2 if mesh => vec!["istio-h2", ISTIO, "h2"],
        _ => configured.iter().map(String::as_str).filter(|name| *name != PEER_EXCHANGE).collect(),
    }
}

/// The server configurations of one filter chain.
#[derive(Debug)]
pub struct ServerConfigs {
    with_alpn: Arc<ServerConfig>,
    without_alpn: Arc<ServerConfig>,
    alpn: Vec<String>,
}

impl ServerConfigs {
    /// Makes the configurations of a chain.
    pub fn new(credentials: &Arc<Credentials>, tls: &DownstreamTls) -> Self {
        let certificate = match tls.require_certificate {
            true => ClientCertificate::Required,
            false => ClientCertificate::Optional,
        };
        let alpn: Vec<_> = tls.alpn.iter().filter(|name| *name != PEER_EXCHANGE).cloned().collect();
        let names: Vec<&[u8]> = alpn.iter().map(|name| name.as_bytes()).collect();
        Self {
            with_alpn: credentials.server(tls.rule.clone(), certificate, tls.lowest, &names),
            without_alpn: credentials.server(tls.rule.clone(), certificate, tls.lowest, &[]),
            alpn,
        }
    }

    /// The configuration for a client that offers these protocols. Where nothing fits, none is
    /// agreed on: the choice of the chain has already decided what is going to be spoken.
    pub fn get(&self, offered: &[String]) -> Arc<ServerConfig> {
        let fits = self.alpn.iter().any(|name| offered.contains(name));
        if fits { self.with_alpn.clone() } else { self.without_alpn.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_peer_is_told_what_is_going_to_be_spoken() {
        let mesh = ["istio-peer-exchange".to_owned(), "istio".to_owned()];
        assert_eq!(offered(&mesh, Spoken::Http1), ["istio-http/1.1", "istio", "http/1.1"]);
        assert_eq!(offered(&mesh, Spoken::Http2), ["istio-h2", "istio", "h2"]);
        assert_eq!(offered(&mesh, Spoken::Bytes), ["istio"]);
        assert_eq!(offered(&["h2".to_owned()], Spoken::Http2), ["h2"]);
    }
}
