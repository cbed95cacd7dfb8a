//! A proxy's configuration dump (`envoy.admin.v3.ConfigDump`), taken apart.

use serde_json::{Map, Value};

/// Why a document cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("the document is not a configuration dump: it has no list `configs`")]
    NotADump,
    #[error(
        "the document is not the output of `/clusters?format=json`: it has no list `cluster_statuses`"
    )]
    NotClusters,
    #[error("the configuration dump has no {0}")]
    NoSection(&'static str),
    #[error("no {0} found in the configuration dump")]
    Empty(&'static str),
    #[error("the configuration dump has no secret ROOTCA with certificates")]
    NoRoots,
    #[error("read the certificates of secret ROOTCA")]
    Roots(#[source] tombolo_tls::x509::Error),
    #[error("write YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
}

/// How a document is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    Json,
    Yaml,
}

impl Document {
    /// The text of a document, with a newline at its end.
    ///
    /// # Errors
    /// When it cannot be written, which does not happen to JSON values.
    pub fn write<T: serde::Serialize + ?Sized>(self, value: &T) -> Result<String, DumpError> {
        let mut text = match self {
            Self::Json => {
                // Istio's tools indent by four.
                let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
                let mut bytes = Vec::new();
                value.serialize(&mut serde_json::Serializer::with_formatter(
                    &mut bytes, formatter,
                ))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Self::Yaml => serde_saphyr::to_string(&value)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }
}

/// A configuration dump with fields in lower camel case.
#[derive(Clone, Debug)]
pub struct Dump {
    sections: Vec<Value>,
}

impl Dump {
    /// Takes a document apart.
    ///
    /// # Errors
    /// When it is no configuration dump.
    pub fn new(document: Value) -> Result<Self, DumpError> {
        let Value::Object(mut fields) = document else { return Err(DumpError::NotADump) };
        match fields.remove("configs") {
            Some(Value::Array(sections)) => Ok(Self { sections }),
            _ => Err(DumpError::NotADump),
        }
    }

    /// The section of one type, such as `ClustersConfigDump`.
    ///
    /// # Errors
    /// When there is none.
    pub fn section(&self, kind: &'static str) -> Result<&Value, DumpError> {
        let url = format!("type.googleapis.com/envoy.admin.v3.{kind}");
        let found = self.sections.iter().rfind(|section| text(section, "/@type") == url);
        found.ok_or(DumpError::NoSection(kind))
    }

    /// The messages at `pointer` within the items of the section's lists, in their order.
    ///
    /// # Errors
    /// When the section is not there.
    pub fn messages(
        &self,
        kind: &'static str,
        lists: &[(&str, &str)],
    ) -> Result<Vec<Value>, DumpError> {
        let section = self.section(kind)?;
        let items = lists.iter().flat_map(|(list, pointer)| {
            array(section, list).iter().filter_map(|item| item.pointer(pointer))
        });
        Ok(items.map(without_type).collect())
    }
}

/// A message without its `@type`, as it looks where its type is known.
pub fn without_type(message: &Value) -> Value {
    match message {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| *name != "@type");
            Value::Object(
                kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>(),
            )
        }
        other => other.clone(),
    }
}

/// The text at `pointer`; empty if there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `pointer`; 0 if there is none.
pub fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// The list in field `name`; empty if there is none.
pub fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of the list in field `name`.
pub fn texts<'a>(value: &'a Value, name: &str) -> Vec<&'a str> {
    array(value, name).iter().filter_map(Value::as_str).collect()
}

/// The object that a message came from, as `NAME.NAMESPACE`: Istio notes its path in the metadata.
pub fn origin(message: &Value) -> String {
    let Some(path) = message.pointer("/metadata/filterMetadata/istio/config") else {
        return String::new();
    };
    let path = path.as_str().unwrap_or_default();
    if !path.starts_with("/apis/networking.istio.io/") {
        return "<unknown>".to_owned();
    }
    match path.split('/').collect::<Vec<_>>().as_slice() {
        [_, _, _, _, _, namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}
