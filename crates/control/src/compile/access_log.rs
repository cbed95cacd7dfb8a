//! Access logs as the mesh's settings ask for them.

use serde_json::{Value, json};
use tombolo_crds::mesh_config::{AccessLogEncoding, MeshConfig};
use tombolo_xds::proto::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter,
};
use tombolo_xds::proto::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use tombolo_xds::proto::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log,
};
use tombolo_xds::proto::google::protobuf::{Struct, value};

use crate::compile::parts;

const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
    %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
    %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% \
    %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" \
    %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn default_json() -> Value {
    json!({
        "start_time": "%START_TIME%",
        "route_name": "%ROUTE_NAME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "response_code_details": "%RESPONSE_CODE_DETAILS%",
        "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration": "%DURATION%",
        "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
        "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
        "user_agent": "%REQ(USER-AGENT)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "authority": "%REQ(:AUTHORITY)%",
        "upstream_host": "%UPSTREAM_HOST%",
        "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
        "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
        "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "requested_server_name": "%REQUESTED_SERVER_NAME%",
        "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    })
}

/// What is wrong with the format that the mesh's settings ask for; then the default is used.
pub(crate) fn problem(mesh: &MeshConfig) -> Option<String> {
    let format = &mesh.access_log_format;
    let is_json = mesh.access_log_encoding == AccessLogEncoding::Json && !format.is_empty();
    match is_json.then(|| serde_json::from_str::<Value>(format))? {
        Ok(Value::Object(_)) => None,
        Ok(_) => Some(String::from(
            "accessLogFormat is not a JSON object: the default format is used instead",
        )),
        Err(error) => Some(format!(
            "accessLogFormat is not JSON ({error}): the default format is used instead"
        )),
    }
}

fn format(mesh: &MeshConfig) -> SubstitutionFormatString {
    let format = match mesh.access_log_encoding {
        AccessLogEncoding::Text => {
            let mut text = match mesh.access_log_format.as_str() {
                "" => TEXT.to_owned(),
                format => format.to_owned(),
            };
            if !text.ends_with('\n') {
                text.push('\n');
            }
            substitution_format_string::Format::TextFormatSource(DataSource {
                specifier: Some(data_source::Specifier::InlineString(text)),
                ..DataSource::default()
            })
        }
        AccessLogEncoding::Json => {
            let asked = serde_json::from_str(&mesh.access_log_format).ok();
            let asked = asked.filter(Value::is_object).unwrap_or_else(default_json);
            let fields = match parts::from_json(&asked).kind {
                Some(value::Kind::StructValue(fields)) => fields,
                _ => Struct::default(),
            };
            substitution_format_string::Format::JsonFormat(fields)
        }
    };
    SubstitutionFormatString { format: Some(format), ..SubstitutionFormatString::default() }
}

/// The logs of an HTTP connection manager or a TCP proxy.
pub(crate) fn of_filter(mesh: &MeshConfig) -> Vec<AccessLog> {
    if mesh.access_log_file.is_empty() {
        return Vec::new();
    }
    let file = FileAccessLog {
        path: mesh.access_log_file.clone(),
        access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format(mesh))),
    };
    vec![AccessLog {
        name: String::from("envoy.access_loggers.file"),
        filter: None,
        config_type: Some(access_log::ConfigType::TypedConfig(parts::any(&file))),
    }]
}

/// The logs of a listener: of connections that no filter chain took.
pub(crate) fn of_listener(mesh: &MeshConfig) -> Vec<AccessLog> {
    let no_route = ResponseFlagFilter { flags: vec![String::from("NR")] };
    let filter = AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::ResponseFlagFilter(no_route)),
    };
    let mut logs = of_filter(mesh);
    for log in &mut logs {
        log.filter = Some(filter.clone());
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_is_not_json_is_reported() {
        let mut mesh = MeshConfig {
            access_log_encoding: AccessLogEncoding::Json,
            access_log_format: String::from("{\"a\":\"%PROTOCOL%\"}"),
            ..MeshConfig::default()
        };
        assert_eq!(problem(&mesh), None);
        mesh.access_log_format = String::from("[]");
        assert_eq!(
            problem(&mesh).unwrap(),
            "accessLogFormat is not a JSON object: the default format is used instead"
        );
    }
}
