//! Which form a client wants its answer in.

use http::{HeaderMap, header};

use crate::status::Status;

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1 Table`, as `kubectl get` prints it.
    Table,
    /// Only their metadata: `PartialObjectMetadata`.
    Metadata,
}

/// The negotiated form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub view: View,
    pub yaml: bool,
}

/// Reads `Accept`: the first clause that can be served wins.
///
/// # Errors
/// 406 when none can.
pub fn format(headers: &HeaderMap) -> Result<Format, Status> {
    let accept: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accept.is_empty() {
        return Ok(Format { view: View::Object, yaml: false });
    }
    let all = accept.join(",");
    all.split(',').find_map(clause).ok_or_else(Status::not_acceptable)
}

fn clause(text: &str) -> Option<Format> {
    let mut parts = text.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "" | "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = (None, None, None);
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => kind = Some(value),
            Some(("g", value)) => group = Some(value),
            Some(("v", value)) => version = Some(value),
            _ => (),
        }
    }
    let view = match (kind, group, version) {
        (None, ..) => View::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1" | "v1beta1")) => View::Table,
        (
            Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
            Some("meta.k8s.io"),
            Some("v1" | "v1beta1"),
        ) => View::Metadata,
        _ => return None,
    };
    Some(Format { view, yaml })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let of = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            format(&headers).map(|f| (f.view, f.yaml)).map_err(|s| s.code())
        };
        assert_eq!(
            of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            Ok((View::Table, false))
        );
        assert_eq!(
            of("application/vnd.kubernetes.protobuf,application/json"),
            Ok((View::Object, false))
        );
        assert_eq!(of("application/yaml"), Ok((View::Object, true)));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Err(406));
    }
}
