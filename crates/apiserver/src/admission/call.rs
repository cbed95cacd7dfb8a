//! Calling a webhook: finding it, one HTTPS request, reading its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::Api;
use crate::object::strings;
use crate::selector::Labels;
use crate::status::Status;
use crate::store::Key;

const DEFAULT_TIMEOUT: u64 = 10;
/// The largest answer of a webhook.
const LIMIT: usize = 3 * 1024 * 1024;
/// The roots of the system, for webhooks that name no authority of their own.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a webhook said.
#[derive(Debug)]
pub struct Answer {
    pub allowed: bool,
    pub patch: Option<json_patch::Patch>,
    pub result: Value,
    pub warnings: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    /// The webhook could not be asked or its answer not understood.
    Failed(String),
    /// It cannot be asked about this request at all, whatever its failure policy.
    Refused(Status),
}

/// Where a webhook is.
struct Target {
    /// The URL, as errors show it.
    url: String,
    /// Name in the certificate and `Host` header.
    host: String,
    path: String,
    addresses: Vec<SocketAddr>,
}

/// Sends a review to a webhook and returns the body of its answer.
///
/// # Errors
/// When it cannot be reached, is too slow, or answers with an error.
pub async fn post(api: &Arc<Api>, hook: &Value, review: &Value) -> Result<Value, CallError> {
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(DEFAULT_TIMEOUT);
    let client = &hook["clientConfig"];
    let target = match target(api, client, seconds).await {
        Ok(target) => target,
        Err(why) => return Err(CallError::Failed(format!("failed to call webhook: {why}"))),
    };
    let url = target.url.clone();
    let sent = send(target, client, review.to_string());
    let limit = Duration::from_secs(seconds);
    let why = match tokio::time::timeout(limit, sent).await {
        Ok(Ok((200..=299, body))) => {
            return serde_json::from_slice(&body).map_err(|error| {
                CallError::Failed(format!(
                    "failed to call webhook: couldn't get version/kind; json parse error: {error}"
                ))
            });
        }
        Ok(Ok((404, _))) => "the server could not find the requested resource".to_owned(),
        Ok(Ok((_, body))) => {
            let text = String::from_utf8_lossy(&body);
            format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                text.trim()
            )
        }
        Ok(Err(why)) => format!("Post \"{url}\": {why}"),
        Err(_) => format!("Post \"{url}\": context deadline exceeded"),
    };
    Err(CallError::Failed(format!("failed to call webhook: {why}")))
}

async fn target(api: &Arc<Api>, client: &Value, seconds: u64) -> Result<Target, String> {
    if let Some(url) = client["url"].as_str() {
        return by_url(url, seconds).await;
    }
    let service = &client["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (name, namespace) = (text("name"), text("namespace"));
    let port = service["port"].as_u64().unwrap_or(443);
    let path = text("path");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let host = format!("{name}.{namespace}.svc");
    let url = format!("https://{host}:{port}{path}?timeout={seconds}s");
    let post = |why: String| format!("Post \"{url}\": {why}");
    let stored = api
        .store
        .get(&Key::new("/services", namespace, name))
        .ok_or_else(|| post(format!("service \"{name}\" not found")))?;
    let addresses = addresses(api, &stored.value, port).map_err(post)?;
    Ok(Target { path: format!("{path}?timeout={seconds}s"), url, host, addresses })
}

async fn by_url(url: &str, seconds: u64) -> Result<Target, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("parse \"{url}\": {error}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let path = uri.path();
    let addresses = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| {
            format!("Post \"{url}?timeout={seconds}s\": dial tcp: lookup {host}: {error}")
        })?
        .collect();
    Ok(Target {
        url: format!("{url}?timeout={seconds}s"),
        path: format!("{path}?timeout={seconds}s"),
        host,
        addresses,
    })
}

/// The ready endpoints behind a Service's port, or its own address when there are none.
fn addresses(api: &Arc<Api>, service: &Value, port: u64) -> Result<Vec<SocketAddr>, String> {
    let name = crate::object::name(service);
    let namespace = crate::object::namespace(service);
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(wanted) = ports.into_iter().find(|have| have["port"].as_u64() == Some(port)) else {
        return Err(format!("no service port {port} found for service \"{name}\""));
    };
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let slices = api.store.list("discovery.k8s.io/endpointslices", Some(namespace));
    let own = Labels::from_map(&serde_json::json!({"kubernetes.io/service-name": name}));
    let mut found = Vec::new();
    for slice in slices.objects.iter().filter(|s| own.matches(&s.value["metadata"]["labels"])) {
        let ports = slice.value["ports"].as_array().into_iter().flatten();
        let number = ports
            .into_iter()
            .find(|have| have["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|have| u16::try_from(have["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for endpoint in slice.value["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == false {
                continue;
            }
            let ips = strings(&endpoint["addresses"]);
            found.extend(
                ips.iter().filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, number))),
            );
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let address = service["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
    match (address, u16::try_from(port)) {
        (Some(ip), Ok(port)) => Ok(vec![SocketAddr::new(ip, port)]),
        _ => Err(format!("no endpoints available for service \"{name}\"")),
    }
}

async fn send(target: Target, client: &Value, body: String) -> Result<(u16, Vec<u8>), String> {
    let config = Arc::new(tls(client)?);
    let stream = dial(&target.addresses).await?;
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| format!("tls: failed to verify certificate: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::post(&target.path)
        .header(header::HOST, &target.host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::<bytes::Bytes>::from(body))
        .map_err(|error| error.to_string())?;
    // The connection ends when the sender goes, which is when the exchange is over.
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), LIMIT).collect().await;
        Ok((code, body.map_err(|error| error.to_string())?.to_bytes().to_vec()))
    };
    let (done, ended) = tokio::join!(exchange, connection);
    match (done, ended) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(error)) => Err(error.to_string()),
        (Err(error), Ok(())) => Err(error),
    }
}

async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut last = "no endpoints".to_owned();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("dial tcp {address}: connect: {error}"),
        }
    }
    Err(last)
}

fn tls(client: &Value) -> Result<rustls::ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let pem = match client["caBundle"].as_str().filter(|bundle| !bundle.is_empty()) {
        Some(bundle) => base64::engine::general_purpose::STANDARD
            .decode(bundle)
            .map_err(|error| format!("the caBundle is not base64: {error}"))?,
        None => std::fs::read(SYSTEM_ROOTS)
            .map_err(|error| format!("x509: certificate signed by unknown authority: no caBundle, and {SYSTEM_ROOTS} cannot be read: {error}"))?,
    };
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.map_err(|error| format!("unable to load root certificates: {error}"))?;
        // System bundles hold certificates that are no longer valid roots.
        if let Err(error) = roots.add(certificate) {
            tracing::debug!(%error, "a root certificate is not used");
        }
    }
    if roots.is_empty() {
        return Err(
            "unable to load root certificates: unable to parse bytes as PEM block".to_owned()
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Reads the answer to the review with the given uid.
///
/// # Errors
/// When it is not an answer to it.
pub fn read(review: &Value, uid: &str, version: &str, mutating: bool) -> Result<Answer, CallError> {
    let wrong =
        |why: String| Err(CallError::Failed(format!("received invalid webhook response: {why}")));
    let response = &review["response"];
    if !response.is_object() {
        return wrong("webhook response was absent".to_owned());
    }
    let have = response["uid"].as_str().unwrap_or_default();
    let strict = version == "v1";
    if strict && have != uid {
        return wrong(format!("expected response.uid=\"{uid}\", got \"{have}\""));
    }
    let own = format!("admission.k8s.io/{version}");
    if strict && (review["apiVersion"] != own.as_str() || review["kind"] != "AdmissionReview") {
        let text = |field: &str| review[field].as_str().unwrap_or_default().to_owned();
        return wrong(format!(
            "expected webhook response of {own}, Kind=AdmissionReview, got {}, Kind={}",
            text("apiVersion"),
            text("kind")
        ));
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let kind = response["patchType"].as_str();
    match (patch, kind) {
        (Some(_), _) if !mutating => {
            return wrong("validating webhook may not return response.patch".to_owned());
        }
        (Some(_), None) if strict => {
            return wrong("webhook returned response.patch but not response.patchType".to_owned());
        }
        (None, Some(_)) if strict && mutating => {
            return wrong("webhook returned response.patchType but not response.patch".to_owned());
        }
        (Some(_), Some(kind)) if kind != "JSONPatch" => {
            return Err(CallError::Failed(format!("unsupported patch type \"{kind}\"")));
        }
        _ => (),
    }
    Ok(Answer {
        allowed: response["allowed"] == true,
        patch: patch.map(decode).transpose()?,
        result: response["status"].clone(),
        warnings: strings(&response["warnings"]),
    })
}

fn decode(patch: &str) -> Result<json_patch::Patch, CallError> {
    let wrong = |why: String| {
        CallError::Failed(format!("received undecodable patch in webhook response: {why}"))
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(patch)
        .map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}
