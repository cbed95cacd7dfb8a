//! Which messages are shown and how: namespace, suppressions, thresholds, log, JSON, YAML.

use serde::Serialize;

use crate::analyze::message::{Level, Message};

/// Where Istio documents the codes.
const DOCUMENTATION: &str = "https://istio.io/latest/docs/reference/config/analysis";

/// One `--suppress CODE=Kind name.namespace`; `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    code: String,
    origin: String,
}

/// Why a suppression does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "--suppress {0}: write CODE=KIND NAME.NAMESPACE, for example \"IST0102=Namespace sample\" or \"IST0107=Pod *.sample\""
)]
pub struct SuppressionError(String);

impl Suppression {
    /// Reads one argument.
    ///
    /// # Errors
    /// When it has no code or no object.
    pub fn parse(text: &str) -> Result<Self, SuppressionError> {
        let parts = text.split_once('=').filter(|(code, origin)| {
            code.len() == 7 && code.starts_with("IST") && !origin.trim().is_empty()
        });
        let (code, origin) = parts.ok_or_else(|| SuppressionError(text.to_owned()))?;
        Ok(Self { code: code.to_owned(), origin: origin.trim().to_owned() })
    }

    fn covers(&self, message: &Message) -> bool {
        let origin = match &message.namespace {
            Some(namespace) => format!("{} {}.{namespace}", message.kind, message.name),
            None => format!("{} {}", message.kind, message.name),
        };
        self.code == message.code && wild(&self.origin, &origin)
    }
}

/// Whether a pattern with `*` fits a text.
fn wild(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What is shown.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only objects of this namespace, and those outside namespaces; none for all.
    pub namespace: Option<String>,
    pub suppressed: Vec<Suppression>,
    /// Nothing below this level.
    pub threshold: Level,
}

impl Filter {
    /// The messages that pass, in their order.
    pub fn apply(&self, messages: Vec<Message>) -> Vec<Message> {
        messages
            .into_iter()
            .filter(|it| match (&self.namespace, &it.namespace) {
                (Some(wanted), Some(namespace)) => wanted == namespace,
                _ => true,
            })
            .filter(|it| it.level >= self.threshold)
            .filter(|it| !self.suppressed.iter().any(|suppression| suppression.covers(it)))
            .collect()
    }
}

/// A message as documents hold it; the fields of istioctl.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    code: &'static str,
    documentation_url: String,
    level: Level,
    message: String,
    origin: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reference: String,
}

/// The messages as a document.
pub fn document(messages: &[Message]) -> Vec<Entry> {
    let entry = |it: &Message| Entry {
        code: it.code,
        documentation_url: format!("{DOCUMENTATION}/{}/", it.code.to_lowercase()),
        level: it.level,
        message: it.text.clone(),
        origin: it.origin(),
        reference: it.reference.clone(),
    };
    messages.iter().map(entry).collect()
}

/// A message as a line, coloured for a terminal where asked.
pub fn line(message: &Message, colour: bool) -> String {
    if !colour {
        return message.to_string();
    }
    let code = match message.level {
        Level::Info => "32",
        Level::Warning => "33",
        Level::Error => "31",
    };
    let text = message.to_string();
    let rest = text.strip_prefix(&message.level.to_string()).unwrap_or(&text);
    format!("\u{1b}[{code}m{}\u{1b}[0m{rest}", message.level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: Level, code: &'static str, kind: &str, namespace: &str) -> Message {
        Message {
            level,
            code,
            kind: kind.to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            name: "a-1".to_owned(),
            reference: String::new(),
            text: "text".to_owned(),
        }
    }

    #[test]
    fn a_filter_keeps_namespace_level_and_what_is_not_suppressed() {
        let all = vec![
            message(Level::Error, "IST0101", "VirtualService", "sample"),
            message(Level::Warning, "IST0103", "Pod", "sample"),
            message(Level::Info, "IST0118", "Service", "sample"),
            message(Level::Error, "IST0101", "VirtualService", "other"),
            message(Level::Error, "IST0139", "MutatingWebhookConfiguration", ""),
        ];
        let shown = |namespace: Option<&str>, suppressed: &[&str], threshold| {
            let suppressed =
                suppressed.iter().map(|text| Suppression::parse(text).unwrap()).collect();
            let filter = Filter { namespace: namespace.map(str::to_owned), suppressed, threshold };
            filter.apply(all.clone()).iter().map(|it| it.code).collect::<Vec<_>>()
        };
        assert_eq!(shown(None, &[], Level::Info).len(), 5);
        assert_eq!(shown(Some("sample"), &[], Level::Warning), ["IST0101", "IST0103", "IST0139"]);
        let suppressed = ["IST0101=VirtualService a-*.sample", "IST0103=*"];
        assert_eq!(shown(Some("sample"), &suppressed, Level::Info), ["IST0118", "IST0139"]);
        assert!(Suppression::parse("IST0103").is_err());
    }

    #[test]
    fn a_message_reads_as_istioctls() {
        let message = message(Level::Warning, "IST0103", "Pod", "sample");
        assert_eq!(line(&message, false), "Warning [IST0103] (Pod sample/a-1) text");
        assert_eq!(
            line(&message, true),
            "\u{1b}[33mWarning\u{1b}[0m [IST0103] (Pod sample/a-1) text"
        );
        assert_eq!(
            serde_json::to_value(document(&[message])).unwrap(),
            serde_json::json!([{
                "code": "IST0103",
                "documentationUrl": "https://istio.io/latest/docs/reference/config/analysis/ist0103/",
                "level": "Warning", "message": "text", "origin": "Pod sample/a-1",
            }])
        );
    }
}
