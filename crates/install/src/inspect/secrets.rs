//! `proxy-config secret` and `rootca-compare`: certificates and roots of a proxy.

use std::time::SystemTime;

use base64::Engine as _;
use serde_json::Value;
use tombolo_tls::x509::{self, Facts};

use crate::inspect::dump::{Dump, DumpError, array, text, without_type};
use crate::inspect::table::{Table, WIDE};

const SECTION: &str = "SecretsConfigDump";
const SPIFFE_VALIDATOR: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// One certificate that a proxy holds.
#[derive(Clone, Debug)]
pub struct Secret {
    name: String,
    state: &'static str,
    trust_domain: String,
    /// None when there is no certificate, or it cannot be read.
    facts: Option<Facts>,
}

/// The whole section. Proxies do not show keys.
///
/// # Errors
/// When the dump has none.
pub fn section(dump: &Dump) -> Result<Value, DumpError> {
    Ok(without_type(dump.section(SECTION)?))
}

/// The certificates of a dump, warming ones first.
///
/// # Errors
/// When the dump has no section of secrets.
pub fn list(dump: &Dump) -> Result<Vec<Secret>, DumpError> {
    let section = dump.section(SECTION)?;
    let mut secrets = Vec::new();
    for (list, state) in [("dynamicWarmingSecrets", "WARMING"), ("dynamicActiveSecrets", "ACTIVE")]
    {
        for item in array(section, list) {
            let state = match text(item, "/versionInfo") {
                "uninitialized" => "UNINITIALIZED",
                _ => state,
            };
            secrets.extend(read(item, state));
        }
    }
    Ok(secrets)
}

fn read(item: &Value, state: &'static str) -> Vec<Secret> {
    let name = text(item, "/name");
    let secret = item.get("secret").unwrap_or(&Value::Null);
    let single = |pem: Option<String>| {
        let facts = pem.as_deref().and_then(first);
        let uris = facts.iter().flat_map(|facts| &facts.uris);
        let domain = uris.filter_map(|uri| uri.strip_prefix("spiffe://")).next_back();
        let domain = domain.and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
        Secret { name: name.to_owned(), state, trust_domain: domain, facts }
    };
    for pointer in ["/tlsCertificate/certificateChain", "/validationContext/trustedCa"] {
        if let Some(pem) = secret.pointer(pointer).and_then(content) {
            return vec![single(Some(pem))];
        }
    }
    let validator = "/validationContext/customValidatorConfig/typedConfig";
    match secret.pointer(validator) {
        Some(config) if text(config, "/@type") == SPIFFE_VALIDATOR => {
            let domains = array(config, "trustDomains").iter();
            let each = |domain: &Value| Secret {
                trust_domain: text(domain, "/name").to_owned(),
                ..single(domain.get("trustBundle").and_then(content))
            };
            domains.map(each).collect()
        }
        _ => vec![single(None)],
    }
}

/// The content of a data source that is part of the document.
fn content(source: &Value) -> Option<String> {
    if let Some(text) = source.get("inlineString").and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    let bytes = source.get("inlineBytes").and_then(Value::as_str)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn first(pem: &str) -> Option<Facts> {
    let certificates = x509::certificates(pem).ok()?;
    Facts::read(certificates.first()?).ok()
}

/// The table at the time `now`. The trust domain is told only where all of them are known.
pub fn table(secrets: &[Secret], now: SystemTime, typed: bool) -> String {
    if secrets.is_empty() {
        return "No active or warming secrets found.\n".to_owned();
    }
    let prefix = if typed { "secret/" } else { "" };
    let with_domain = secrets.iter().all(|secret| !secret.trust_domain.is_empty());
    let headings = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
        "TRUST DOMAIN",
    ];
    let columns = headings.len() - usize::from(!with_domain);
    let mut table = Table::new(WIDE, &headings[..columns]);
    for secret in secrets {
        let facts = secret.facts.as_ref();
        let valid = facts.is_some_and(|facts| facts.not_before < now && now < facts.not_after);
        let kind = facts.map_or("", |facts| if facts.is_ca { "CA" } else { "Cert Chain" });
        let cells = [
            format!("{prefix}{}", secret.name),
            kind.to_owned(),
            secret.state.to_owned(),
            valid.to_string(),
            facts.map(|facts| serial(&facts.serial)).unwrap_or_default(),
            facts.map(|facts| date(facts.not_after)).unwrap_or_default(),
            facts.map(|facts| date(facts.not_before)).unwrap_or_default(),
            secret.trust_domain.clone(),
        ];
        table.row(&cells[..columns]);
    }
    table.finish()
}

/// At least 32 hexadecimal digits.
fn serial(hexadecimal: &str) -> String {
    let digits = hexadecimal.to_lowercase();
    format!("{:0>32}", digits.trim_start_matches('0'))
}

fn date(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.0}"))
}

/// The roots that a proxy trusts, as SHA-256 fingerprints.
///
/// # Errors
/// When it has none, or they cannot be read.
pub fn roots(dump: &Dump) -> Result<Vec<String>, DumpError> {
    let section = dump.section(SECTION)?;
    let active = array(section, "dynamicActiveSecrets");
    let root = active.iter().find(|item| text(item, "/name") == "ROOTCA");
    let pem = root.and_then(|item| item.pointer("/secret/validationContext/trustedCa"));
    let pem = pem.and_then(content).ok_or(DumpError::NoRoots)?;
    let certificates = x509::certificates(&pem).map_err(DumpError::Roots)?;
    Ok(certificates.iter().map(x509::fingerprint).collect())
}
