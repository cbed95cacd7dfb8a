//! The `x-forwarded-client-cert` header: who the client was, hop by hop.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tombolo_xds::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ForwardClientCertDetails as Forward;

use crate::accept::connection::Peer;
use crate::config::http::ClientCertificate;

/// The header's name.
pub const HEADER: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Removes, keeps, extends or replaces the header. `own` is the identity of this workload.
pub fn forward(
    headers: &mut HeaderMap,
    settings: ClientCertificate,
    peer: Option<&Peer>,
    own: Option<&str>,
) {
    if settings.forward == Forward::AlwaysForwardOnly {
        return;
    }
    // What a client without a certificate says about certificates counts for nothing.
    let Some(peer) = peer.filter(|_| settings.forward != Forward::Sanitize) else {
        headers.remove(HEADER);
        return;
    };
    if settings.forward == Forward::ForwardOnly {
        return;
    }
    let element = element(settings, peer, own);
    let value = match headers.get(HEADER).and_then(|value| value.to_str().ok()) {
        Some(before) if settings.forward == Forward::AppendForward && !before.is_empty() => {
            format!("{before},{element}")
        }
        _ => element,
    };
    match HeaderValue::try_from(value) {
        Ok(value) => drop(headers.insert(HEADER, value)),
        Err(_) => drop(headers.remove(HEADER)),
    }
}

fn element(settings: ClientCertificate, peer: &Peer, own: Option<&str>) -> String {
    let mut parts = Vec::new();
    if let Some(own) = own {
        parts.push(format!("By={own}"));
    }
    parts.push(format!("Hash={}", peer.digest));
    if settings.subject {
        let subject = peer.subject.replace('\\', "\\\\").replace('"', "\\\"");
        parts.push(format!("Subject=\"{subject}\""));
    }
    if settings.uri {
        parts.push(format!("URI={}", peer.uri));
    }
    if settings.dns {
        parts.extend(peer.dns_names.iter().map(|name| format!("DNS={name}")));
    }
    parts.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(forward_as: Forward, before: Option<&str>, mutual: bool) -> Option<String> {
        let settings = ClientCertificate {
            forward: forward_as,
            subject: true,
            uri: true,
            dns: true,
            cert: false,
            chain: false,
        };
        let peer = Peer {
            uri: "spiffe://cluster.local/ns/a/sa/b".into(),
            subject: String::new(),
            dns_names: Vec::new(),
            digest: "ab12".to_owned(),
        };
        let mut headers = HeaderMap::new();
        if let Some(before) = before {
            headers.insert(HEADER, before.parse().unwrap());
        }
        forward(
            &mut headers,
            settings,
            mutual.then_some(&peer),
            Some("spiffe://cluster.local/ns/c/sa/d"),
        );
        headers.get(HEADER).map(|value| value.to_str().unwrap().to_owned())
    }

    const OWN: &str = "By=spiffe://cluster.local/ns/c/sa/d;Hash=ab12;Subject=\"\";URI=spiffe://cluster.local/ns/a/sa/b";

    #[test]
    fn append_forward_extends_what_mesh_peers_say() {
        assert_eq!(check(Forward::AppendForward, None, true).as_deref(), Some(OWN));
        let want = format!("By=x,{OWN}");
        assert_eq!(check(Forward::AppendForward, Some("By=x"), true), Some(want));
    }

    #[test]
    fn a_client_without_a_certificate_cannot_claim_one() {
        assert_eq!(check(Forward::AppendForward, Some("By=x"), false), None);
        assert_eq!(check(Forward::Sanitize, Some("By=x"), true), None);
        assert_eq!(check(Forward::SanitizeSet, Some("By=x"), true).as_deref(), Some(OWN));
        assert_eq!(check(Forward::ForwardOnly, Some("By=x"), true).as_deref(), Some("By=x"));
    }
}
