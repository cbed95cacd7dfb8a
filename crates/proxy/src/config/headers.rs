//! Headers that routes add and remove.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tombolo_xds::proto::envoy::config::core::v3::HeaderValueOption;
use tombolo_xds::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::config::problem::{At, Problem, each};
use crate::observe::format::Format;
use crate::observe::record::Record;

/// Changes to the headers of a request or a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    remove: Vec<HeaderName>,
    add: Vec<Addition>,
}

#[derive(Clone, Debug, PartialEq)]
struct Addition {
    name: HeaderName,
    value: Format,
    action: HeaderAppendAction,
    keep_empty: bool,
}

/// The two lists of one message: what is added and what is removed.
type Lists<'a> = (&'a [HeaderValueOption], &'a [String]);

impl HeaderChanges {
    /// Reads the changes to requests and those to responses, as routes have them on every level.
    pub fn both(request: Lists<'_>, response: Lists<'_>) -> Result<(Self, Self), Problem> {
        Ok((Self::new("request", request)?, Self::new("response", response)?))
    }

    #[expect(deprecated, reason = "control planes still send the older form of append")]
    fn new(kind: &str, (add, remove): Lists<'_>) -> Result<Self, Problem> {
        let name = |name: &str| {
            let pseudo = name.starts_with(':') || name.eq_ignore_ascii_case("host");
            match HeaderName::try_from(name) {
                Ok(name) if !pseudo => Ok(name),
                _ => Err(Problem::new(format!(
                    "`{name}` is not the name of a header that may change"
                ))),
            }
        };
        let addition = |option: &HeaderValueOption| {
            let header = option.header.clone().unwrap_or_default();
            let action = match option.append.map(|append| append.value) {
                Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
                Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
                None => option.append_action(),
            };
            Ok(Addition {
                name: name(&header.key).at("header.key")?,
                value: Format::parse(&header.value).map_err(Problem::new).at("header.value")?,
                action,
                keep_empty: option.keep_empty_value,
            })
        };
        Ok(Self {
            add: each(&format!("{kind}_headers_to_add"), add, addition)?,
            remove: each(&format!("{kind}_headers_to_remove"), remove, |text| name(text))?,
        })
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies the changes: first removals, then additions in their order.
    pub fn apply(&self, headers: &mut HeaderMap, record: &Record) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            let text = match addition.value.literal() {
                Some(text) => text.to_owned(),
                None => addition.value.text(record),
            };
            if text.is_empty() && !addition.keep_empty {
                continue;
            }
            // A value that cannot be a header is left out, as Envoy does.
            let Ok(value) = HeaderValue::try_from(text) else { continue };
            let exists = headers.contains_key(&addition.name);
            match (addition.action, exists) {
                (HeaderAppendAction::AppendIfExistsOrAdd, _) => {
                    headers.append(&addition.name, value);
                }
                (HeaderAppendAction::AddIfAbsent, true)
                | (HeaderAppendAction::OverwriteIfExists, false) => {}
                _ => {
                    headers.insert(&addition.name, value);
                }
            }
        }
    }
}
