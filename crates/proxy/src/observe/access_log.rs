//! Access logs: one line per request or TCP connection, as text or JSON.

use std::collections::BTreeMap;

use crate::observe::flags::Flags;
use crate::observe::format::{Format, Value};
use crate::observe::record::Record;

/// One configured access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// The file that lines are appended to.
    pub path: String,
    /// How a line is made.
    pub layout: Layout,
    /// Only records with one of these flags, or with any flag at all.
    pub filter: Option<Option<Flags>>,
}

/// How a line is made of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    Text(Format),
    Json { object: Json, omit_empty: bool },
}

/// A JSON value with formats in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Value(Format),
    Object(BTreeMap<String, Json>),
    List(Vec<Json>),
    Constant(serde_json::Value),
}

impl AccessLog {
    /// Whether the record is to be logged here.
    pub fn wants(&self, record: &Record) -> bool {
        match self.filter {
            None => true,
            Some(None) => record.flags != Flags::NONE,
            Some(Some(flags)) => record.flags.has(flags),
        }
    }

    /// The line for a record, with its line feed.
    pub fn line(&self, record: &Record) -> String {
        match &self.layout {
            Layout::Text(format) => format.text(record),
            Layout::Json { object, omit_empty } => {
                let mut line = object.value(record, *omit_empty).to_string();
                line.push('\n');
                line
            }
        }
    }
}

impl Json {
    fn value(&self, record: &Record, omit_empty: bool) -> serde_json::Value {
        use serde_json::Value as Out;
        match self {
            Self::Constant(value) => value.clone(),
            Self::Value(format) => match format.value(record) {
                Value::Missing => Out::Null,
                Value::Text(text) => Out::String(text.into_owned()),
                Value::Number(number) => number.into(),
            },
            Self::List(list) => {
                list.iter().map(|item| item.value(record, omit_empty)).collect::<Vec<_>>().into()
            }
            Self::Object(fields) => {
                let value =
                    |(key, field): (&String, &Self)| (key.clone(), field.value(record, omit_empty));
                let fields = fields.iter().map(value).filter(|(_, v)| !(omit_empty && v.is_null()));
                Out::Object(fields.collect())
            }
        }
    }
}
