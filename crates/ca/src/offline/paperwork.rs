//! The request and the OpenSSL settings that lie beside a certificate: with them, `openssl req`
//! and `openssl x509` make the same certificate again.

use std::collections::BTreeMap;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyIdMethod};
use tombolo_tls::key::{KeyKind, PrivateKey};

/// `subjectKeyIdentifier` (RFC 5280, 4.2.1.2), an octet string.
const KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];

/// The request and the settings a certificate was made from. Neither is secret.
pub(crate) struct Paperwork {
    /// PEM, as the request that a certificate like this would be asked for with.
    pub(crate) request: String,
    /// An OpenSSL configuration with the sections `req`, `req_ext`, `san` and `req_dn`.
    pub(crate) configuration: String,
}

impl Paperwork {
    pub(super) fn new(
        params: &CertificateParams,
        key: &PrivateKey,
        kind: KeyKind,
        subject: &[(DnType, &str)],
        san: Option<&str>,
    ) -> Result<Self, rcgen::Error> {
        // A request has no serial number.
        let mut asked = params.clone();
        asked.serial_number = None;
        // rcgen leaves the key identifier out of requests; OpenSSL does not.
        if let KeyIdMethod::PreSpecified(hash) = &params.key_identifier_method
            && let Ok(length) = u8::try_from(hash.len())
        {
            let octets = [&[0x04, length], hash.as_slice()].concat();
            asked.custom_extensions.push(CustomExtension::from_oid_content(KEY_IDENTIFIER, octets));
        }
        let request = asked.serialize_request(key.pair())?.pem()?;
        Ok(Self { request, configuration: configuration(params, kind, subject, san) })
    }
}

/// Whether two OpenSSL configurations say the same. Order, spaces and comments do not count.
pub(crate) fn same(one: &str, other: &str) -> bool {
    parse(one) == parse(other)
}

fn parse(text: &str) -> BTreeMap<(String, String), String> {
    let mut section = String::new();
    let mut settings = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_owned();
        } else if let Some((key, value)) = line.split_once('=')
            && !line.starts_with('#')
        {
            let value: Vec<_> = value.split(',').map(str::trim).collect();
            settings.insert((section.clone(), key.trim().to_owned()), value.join(","));
        }
    }
    settings
}

fn configuration(
    params: &CertificateParams,
    kind: KeyKind,
    subject: &[(DnType, &str)],
    san: Option<&str>,
) -> String {
    let constraints = match params.is_ca {
        IsCa::Ca(BasicConstraints::Constrained(below)) => {
            format!("critical, CA:true, pathlen:{below}")
        }
        IsCa::Ca(BasicConstraints::Unconstrained) => "critical, CA:true".to_owned(),
        IsCa::NoCa | IsCa::ExplicitNoCa => "critical, CA:false".to_owned(),
    };
    let mut lines: Vec<String> = vec!["[ req ]".into()];
    lines.extend(
        ["encrypt_key = no", "prompt = no", "utf8 = yes", "default_md = sha256"].map(str::to_owned),
    );
    if let Some(bits) = kind.rsa_bits() {
        lines.push(format!("default_bits = {bits}"));
    }
    for section in ["req_extensions = req_ext", "x509_extensions = req_ext"] {
        lines.push(section.to_owned());
    }
    lines.push("distinguished_name = req_dn".into());
    lines.push("[ req_ext ]".into());
    lines.push("subjectKeyIdentifier = hash".into());
    lines.push(format!("basicConstraints = {constraints}"));
    if params.extended_key_usages.is_empty() {
        let usages = "digitalSignature, nonRepudiation, keyEncipherment, keyCertSign";
        lines.push(format!("keyUsage = critical, {usages}"));
    } else {
        lines.push("keyUsage = digitalSignature, keyEncipherment".into());
        lines.push("extendedKeyUsage = serverAuth, clientAuth".into());
    }
    if let Some(san) = san {
        lines.extend(["subjectAltName = @san".into(), "[ san ]".into(), san.to_owned()]);
    }
    lines.push("[ req_dn ]".into());
    for (kind, value) in subject {
        let field = match kind {
            DnType::OrganizationName => "O",
            DnType::LocalityName => "L",
            _ => "CN",
        };
        lines.push(format!("{field} = {}", escape(value)));
    }
    lines.join("\n") + "\n"
}

/// A value as OpenSSL's configuration language reads it back (`man 5 config`).
fn escape(value: &str) -> String {
    let mut text = String::new();
    for c in value.chars() {
        if matches!(c, '\\' | '#' | '$' | '"' | '\'' | '`') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_configuration_says_counts() {
        let one = "[req]\n# a comment = x\nkeyUsage = critical, a\n[dn]\nO = Istio\n";
        assert!(same(one, "[ dn ]\nO=Istio\n[ req ]\nkeyUsage=critical,a\n"));
        for other in ["[req]\nkeyUsage = critical, a\n", &one.replace("Istio", "Acme")] {
            assert!(!same(one, other), "{other}");
        }
    }
}
