//! Access logs as the configuration describes them: which file, which records, what a line is like.

use prost::Message;
use tombolo_xds::proto::envoy::config::accesslog::v3 as accesslog;
use tombolo_xds::proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use tombolo_xds::proto::envoy::config::core::v3::SubstitutionFormatString;
use tombolo_xds::proto::envoy::config::core::v3::substitution_format_string::Format as ProtoFormat;
use tombolo_xds::proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use tombolo_xds::proto::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use tombolo_xds::proto::envoy::extensions::access_loggers::stream::v3::{
    StdoutAccessLog, stdout_access_log,
};
use tombolo_xds::proto::google::protobuf as wkt;
use tombolo_xds::proto::google::protobuf::value::Kind;

use crate::config::convert::inline;
use crate::config::problem::{At, Problem};
use crate::config::strict::type_name;
use crate::observe::access_log::{AccessLog, Json, Layout};
use crate::observe::flags::Flags;
use crate::observe::format::Format;

/// Envoy's own format, used where none is given.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% \
%PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Reads the configuration of an access log.
pub fn access_log(config: &accesslog::AccessLog) -> Result<AccessLog, Problem> {
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = config.config_type.as_ref()
    else {
        return Err(Problem::new("must be set").inside("typed_config"));
    };
    let name = type_name(&any.type_url);
    let unreadable = |error: prost::DecodeError| Problem::new(format!("cannot be read: {error}"));
    let (path, layout) = if name.ends_with("FileAccessLog") {
        let file = FileAccessLog::decode(any.value.as_ref()).map_err(unreadable)?;
        let layout = file_layout(file.access_log_format.as_ref()).at("typed_config")?;
        (file.path, layout)
    } else if name.ends_with("StdoutAccessLog") {
        let stdout = StdoutAccessLog::decode(any.value.as_ref()).map_err(unreadable)?;
        let layout = match stdout.access_log_format.as_ref() {
            Some(stdout_access_log::AccessLogFormat::LogFormat(format)) => {
                substitution(format).at("typed_config.log_format")?
            }
            None => text(DEFAULT)?,
        };
        ("/dev/stdout".to_owned(), layout)
    } else {
        return Err(
            Problem::new(format!("the type {name} is not supported")).inside("typed_config")
        );
    };
    let filter = config.filter.as_ref().map(filter).transpose().at("filter")?;
    Ok(AccessLog { path, layout, filter })
}

fn filter(config: &accesslog::AccessLogFilter) -> Result<Option<Flags>, Problem> {
    let Some(FilterSpecifier::ResponseFlagFilter(wanted)) = config.filter_specifier.as_ref() else {
        return Err(Problem::new("is not supported, except response_flag_filter"));
    };
    let mut flags = None;
    for code in &wanted.flags {
        let flag = Flags::from_code(code).ok_or_else(|| {
            Problem::new(format!("`{code}` is not a response flag that is set here"))
                .inside("response_flag_filter.flags")
        })?;
        flags.get_or_insert(Flags::NONE).add(flag);
    }
    Ok(flags)
}

#[expect(deprecated, reason = "control planes still send the older forms")]
fn file_layout(format: Option<&AccessLogFormat>) -> Result<Layout, Problem> {
    match format {
        None => text(DEFAULT),
        Some(AccessLogFormat::Format(format)) => text(format).at("format"),
        Some(AccessLogFormat::JsonFormat(object)) => json_layout(object, false).at("json_format"),
        Some(AccessLogFormat::TypedJsonFormat(object)) => {
            json_layout(object, false).at("typed_json_format")
        }
        Some(AccessLogFormat::LogFormat(format)) => substitution(format).at("log_format"),
    }
}

#[expect(deprecated, reason = "control planes still send the older forms")]
fn substitution(config: &SubstitutionFormatString) -> Result<Layout, Problem> {
    match config.format.as_ref() {
        Some(ProtoFormat::JsonFormat(object)) => {
            json_layout(object, config.omit_empty_values).at("json_format")
        }
        Some(ProtoFormat::TextFormat(format)) => text(format).at("text_format"),
        Some(ProtoFormat::TextFormatSource(source)) => {
            let bytes = inline(source).at("text_format_source")?;
            let format = String::from_utf8(bytes).map_err(|_| Problem::new("is not UTF-8"));
            text(&format.at("text_format_source")?).at("text_format_source")
        }
        _ => Err(Problem::new("must have a format")),
    }
}

fn text(format: &str) -> Result<Layout, Problem> {
    Format::parse(format).map(Layout::Text).map_err(Problem::new)
}

fn json_layout(object: &wkt::Struct, omit_empty: bool) -> Result<Layout, Problem> {
    Ok(Layout::Json { object: json_object(object)?, omit_empty })
}

fn json_object(object: &wkt::Struct) -> Result<Json, Problem> {
    let field = |(key, value): (&String, &wkt::Value)| Ok((key.clone(), json(value).at(key)?));
    object.fields.iter().map(field).collect::<Result<_, _>>().map(Json::Object)
}

fn json(value: &wkt::Value) -> Result<Json, Problem> {
    Ok(match value.kind.as_ref() {
        Some(Kind::StringValue(format)) => {
            Json::Value(Format::parse(format).map_err(Problem::new)?)
        }
        Some(Kind::StructValue(object)) => json_object(object)?,
        Some(Kind::ListValue(list)) => {
            Json::List(list.values.iter().map(json).collect::<Result<_, _>>()?)
        }
        Some(Kind::BoolValue(value)) => Json::Constant((*value).into()),
        Some(Kind::NumberValue(value)) => Json::Constant((*value).into()),
        Some(Kind::NullValue(_)) | None => Json::Constant(serde_json::Value::Null),
    })
}
