//! Transport sockets: who must be at the other end, and what is said in the handshake.
//!
//! Secrets are named, not carried: `default` is the workload's own identity and `ROOTCA` the
//! mesh's roots, both kept by the agent in [`tombolo_tls::mesh::Credentials`].

use std::collections::BTreeSet;

use tombolo_tls::mesh::Version;
use tombolo_tls::peer::Rule;
use tombolo_tls::spiffe::TrustDomain;
use tombolo_xds::proto::envoy::config::core::v3 as core;
use tombolo_xds::proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use tombolo_xds::proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tombolo_xds::proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use crate::config::convert::{flag, typed};
use crate::config::problem::{At, Problem, each};
use crate::config::strict::type_name;

/// The name of the workload's own identity.
const OWN_IDENTITY: &str = "default";
/// The name of the mesh's roots.
const MESH_ROOTS: &str = "ROOTCA";

/// TLS that is terminated here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    pub rule: Rule,
    pub alpn: Vec<String>,
    pub require_certificate: bool,
    pub lowest: Version,
}

/// TLS that is started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub rule: Rule,
    pub alpn: Vec<String>,
    pub sni: String,
    /// Whether a certificate of the mesh is shown and expected; otherwise the server needs none
    /// of ours and is not verified, as in Envoy without a validation context.
    pub mutual: bool,
}

/// How bytes travel on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport<T> {
    Plain,
    Tls(T),
}

/// Reads the transport socket of a filter chain.
pub fn downstream(
    socket: Option<&core::TransportSocket>,
) -> Result<Transport<DownstreamTls>, Problem> {
    let Some(socket) = socket else { return Ok(Transport::Plain) };
    if is_plain(socket)? {
        return Ok(Transport::Plain);
    }
    let context: tls::DownstreamTlsContext = typed(any(socket)).at("typed_config")?;
    let read = || {
        let shared = context.common_tls_context.clone().unwrap_or_default();
        let lowest = own_identity(&shared)?;
        let required = flag(context.require_client_certificate, false);
        let rule = match validation(&shared)? {
            Some(rule) => rule,
            None if required => {
                return Err(Problem::new("must be set, since client certificates are required")
                    .inside("validation_context"));
            }
            None => Rule::Any,
        };
        let alpn = shared.alpn_protocols;
        Ok(DownstreamTls { rule, alpn, require_certificate: required, lowest })
    };
    read().at("common_tls_context").at("typed_config").map(Transport::Tls)
}

/// Reads the transport socket of an upstream.
pub fn upstream(socket: Option<&core::TransportSocket>) -> Result<Transport<UpstreamTls>, Problem> {
    let Some(socket) = socket else { return Ok(Transport::Plain) };
    if is_plain(socket)? {
        return Ok(Transport::Plain);
    }
    let context: tls::UpstreamTlsContext = typed(any(socket)).at("typed_config")?;
    if context.auto_host_sni || context.auto_sni_san_validation {
        return Err(Problem::new("is not supported")
            .inside("auto_host_sni")
            .inside("typed_config"));
    }
    let read = || {
        let shared = context.common_tls_context.clone().unwrap_or_default();
        // As a client it offers both versions; a server that wants 1.3 gets it.
        own_identity(&shared)?;
        let rule = validation(&shared)?.ok_or_else(|| {
            // Without one Envoy trusts whoever answers. We fail closed.
            Problem::new("must be set: the server's identity would not be checked")
                .inside("validation_context")
        })?;
        Ok((rule, shared.alpn_protocols))
    };
    let (rule, alpn) = read().at("common_tls_context").at("typed_config")?;
    Ok(Transport::Tls(UpstreamTls { rule, alpn, sni: context.sni, mutual: true }))
}

fn any(socket: &core::TransportSocket) -> Option<&tombolo_xds::proto::google::protobuf::Any> {
    match socket.config_type.as_ref() {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => Some(any),
        None => None,
    }
}

fn is_plain(socket: &core::TransportSocket) -> Result<bool, Problem> {
    match any(socket) {
        Some(any) if type_name(&any.type_url).ends_with(".RawBuffer") => {
            typed::<RawBuffer>(Some(any)).at("typed_config").map(|_| true)
        }
        Some(_) => Ok(false),
        None => Ok(socket.name == "envoy.transport_sockets.raw_buffer"),
    }
}

/// The certificate shown must be the workload's own. Returns the lowest version to be spoken.
fn own_identity(context: &tls::CommonTlsContext) -> Result<Version, Problem> {
    let lowest = versions(context.tls_params.as_ref())?;
    if !context.tls_certificates.is_empty() {
        return Err(Problem::new("must be a secret by name").inside("tls_certificates"));
    }
    each("tls_certificate_sds_secret_configs", &context.tls_certificate_sds_secret_configs, |c| {
        if c.name == OWN_IDENTITY {
            return Ok(());
        }
        Err(Problem::new(format!("`{}` is not supported, only `{OWN_IDENTITY}`", c.name))
            .inside("name"))
    })?;
    Ok(lowest)
}

/// The lowest version. The highest is always 1.3: a configuration that forbids it is not met.
fn versions(params: Option<&tls::TlsParameters>) -> Result<Version, Problem> {
    use tls::tls_parameters::TlsProtocol::{TlSv12, TlSv13, TlsAuto};
    let Some(params) = params else { return Ok(Version::Tls12) };
    let lowest = match params.tls_minimum_protocol_version() {
        TlsAuto | TlSv12 => Version::Tls12,
        TlSv13 => Version::Tls13,
        _ => {
            return Err(Problem::new("must be TLSv1_2 or TLSv1_3")
                .inside("tls_minimum_protocol_version")
                .inside("tls_params"));
        }
    };
    if !matches!(params.tls_maximum_protocol_version(), TlsAuto | TlSv13) {
        return Err(Problem::new("must be TLSv1_3")
            .inside("tls_maximum_protocol_version")
            .inside("tls_params"));
    }
    Ok(lowest)
}

fn validation(context: &tls::CommonTlsContext) -> Result<Option<Rule>, Problem> {
    use tls::common_tls_context::ValidationContextType as Type;
    let secret = |config: Option<&tls::SdsSecretConfig>| match config {
        Some(config) if config.name == MESH_ROOTS => Ok(()),
        Some(config) => {
            Err(Problem::new(format!("`{}` is not supported, only `{MESH_ROOTS}`", config.name))
                .inside("name")
                .inside("validation_context_sds_secret_config"))
        }
        None => Err(Problem::new("must be set").inside("validation_context_sds_secret_config")),
    };
    match context.validation_context_type.as_ref() {
        None => Ok(None),
        Some(Type::ValidationContextSdsSecretConfig(config)) => {
            secret(Some(config)).map(|()| Some(Rule::Any))
        }
        Some(Type::CombinedValidationContext(combined)) => {
            let read = || {
                secret(combined.validation_context_sds_secret_config.as_ref())?;
                let context = combined.default_validation_context.clone().unwrap_or_default();
                names(&context).at("default_validation_context")
            };
            read().map(Some).at("combined_validation_context")
        }
        Some(_) => {
            Err(Problem::new("must name the mesh's roots as a secret").inside("validation_context"))
        }
    }
}

/// The identities that are accepted: trust domains by prefix, or exact ones.
#[expect(deprecated, reason = "control planes still send the older form")]
fn names(context: &tls::CertificateValidationContext) -> Result<Rule, Problem> {
    use tls::subject_alt_name_matcher::SanType;
    if context.trusted_ca.is_some() {
        return Err(Problem::new("must be a secret by name").inside("trusted_ca"));
    }
    let (mut domains, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut add = |pattern: Option<&MatchPattern>| match pattern {
        Some(MatchPattern::Exact(id)) => {
            ids.insert(id.clone());
            Ok(())
        }
        Some(MatchPattern::Prefix(prefix)) => {
            let domain = prefix.strip_prefix("spiffe://").and_then(|rest| rest.strip_suffix('/'));
            let domain = domain.and_then(|domain| TrustDomain::new(domain).ok());
            let domain = domain
                .ok_or_else(|| Problem::new(format!("`{prefix}` is not spiffe://TRUST_DOMAIN/")))?;
            domains.insert(domain);
            Ok(())
        }
        _ => Err(Problem::new("must be an exact identity or the prefix of a trust domain")),
    };
    for (index, matcher) in context.match_typed_subject_alt_names.iter().enumerate() {
        let field = format!("match_typed_subject_alt_names[{index}]");
        if matcher.san_type() != SanType::Uri {
            return Err(Problem::new("must be URI").inside("san_type").inside(field));
        }
        let pattern = matcher.matcher.as_ref().and_then(|m| m.match_pattern.as_ref());
        add(pattern).at("matcher").at(field)?;
    }
    for (index, matcher) in context.match_subject_alt_names.iter().enumerate() {
        add(matcher.match_pattern.as_ref()).at(format_args!("match_subject_alt_names[{index}]"))?;
    }
    match (domains.is_empty(), ids.is_empty()) {
        (true, true) => Ok(Rule::Any),
        (false, true) => Ok(Rule::TrustDomains(domains)),
        (true, false) => Ok(Rule::Ids(ids)),
        (false, false) => Err(Problem::new("mixes exact identities and trust domains")
            .inside("match_typed_subject_alt_names")),
    }
}
