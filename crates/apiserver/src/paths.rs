//! Paths that are no resources: discovery, OpenAPI, token keys.
//!
//! Every answer is computed from the catalog of the moment.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::api::Api;
use crate::discovery::{self, Dialect};
use crate::openapi;
use crate::request::Call;
use crate::respond::{self, Response};

/// Answers the path, if need be in plain text that there is no such page, as Kubernetes does.
pub fn serve(api: &Api, call: &Call) -> Option<Response> {
    if let Some(page) = page(api, call) {
        return Some(page);
    }
    // A version that a known group does not have is refused as a resource would be.
    let path = call.info.path.split('/').collect::<Vec<_>>();
    let known = match path[..] {
        ["", "api", _] => true,
        ["", "apis", group, _] => discovery::group(&api.catalog.load(), group).is_some(),
        _ => false,
    };
    (!known).then(|| respond::text(404, "404 page not found\n"))
}

fn page(api: &Api, call: &Call) -> Option<Response> {
    let path = call.info.path.trim_end_matches('/');
    let catalog = api.catalog.load();
    let address = format!("{}:{}", api.settings.advertise_address, api.port);
    let body = match path.split('/').skip(1).collect::<Vec<_>>()[..] {
        ["api" | "apis"] => return Some(root(api, call, path == "/api", &address)),
        ["api", version] => discovery::resources(&catalog, "", version),
        ["apis", group] => discovery::group(&catalog, group),
        ["apis", group, version] if !group.is_empty() => {
            discovery::resources(&catalog, group, version)
        }
        ["openapi", "v2"] => return Some(version_2(call, &openapi::v2_document(&catalog))),
        ["openapi", "v3"] => return Some(tagged_document(call, openapi::index(&catalog))),
        ["openapi", "v3", "api", version] => {
            return openapi::document(&catalog, "", version).map(|doc| tagged_document(call, doc));
        }
        ["openapi", "v3", "apis", group, version] => {
            return openapi::document(&catalog, group, version)
                .map(|document| tagged_document(call, document));
        }
        [".well-known", "openid-configuration"] => Some(openid(api, &address)),
        ["openid", "v1", "jwks"] => {
            let keys = api.authenticator.tokens().keys().key_set();
            return Some(respond::raw(200, "application/jwk-set+json", keys.to_string()));
        }
        [""] => Some(index()),
        _ => None,
    };
    body.map(|body| respond::json(200, &body))
}

/// `/api` and `/apis`, in the dialect that the client asks for.
fn root(api: &Api, call: &Call, core: bool, address: &str) -> Response {
    let catalog = api.catalog.load();
    let accept = call.parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let mut response = match accept.and_then(Dialect::of_accept) {
        Some(dialect) => {
            let body = discovery::aggregated(&catalog, dialect, core).to_string();
            tagged(call, &dialect.content_type(), body)
        }
        None if core => respond::json(200, &discovery::core_versions(address)),
        None => respond::json(200, &discovery::groups(&catalog)),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn tagged_document(call: &Call, document: Value) -> Response {
    tagged(call, "application/json", document.to_string())
}

/// `/openapi/v2`, as protobuf where the client asks for that first.
fn version_2(call: &Call, document: &Value) -> Response {
    let accept = call.parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let wanted = accept.and_then(|all| all.split(',').next()).unwrap_or_default();
    let wanted = wanted.split(';').next().unwrap_or_default().trim();
    let [binary, _] = openapi::binary::CONTENT_TYPES;
    let mut response = match openapi::binary::CONTENT_TYPES.contains(&wanted) {
        true => tagged(call, binary, openapi::binary::encode(document)),
        false => tagged(call, "application/json", document.to_string()),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// An answer with an `ETag` over its content; 304 if the client has it already.
pub fn tagged(call: &Call, content_type: &str, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let tag = format!("\"{}\"", openapi::digest(&body));
    let known = call
        .parts
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known.split(',').any(|one| one.trim() == tag));
    let mut response = if known {
        let mut response = Response::new(respond::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::raw(200, "application/json", body)
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Ok(value) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, value);
    }
    response
}

fn openid(api: &Api, address: &str) -> Value {
    json!({
        "issuer": api.authenticator.tokens().keys().issuer(),
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}

/// `/`: where to look.
fn index() -> Value {
    json!({"paths": [
        "/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez",
        "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version",
    ]})
}
