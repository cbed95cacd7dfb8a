//! Matching of strings and headers, as routes, authorization and certificates use it.

use http::HeaderMap;
use http::header::HeaderName;
use regex::Regex;
use tombolo_xds::proto::envoy::config::route::v3 as rds;
use tombolo_xds::proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use tombolo_xds::proto::envoy::r#type::matcher::v3 as matcher;
use tombolo_xds::proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use crate::config::problem::{At, Problem};

/// A condition on a text.
#[derive(Clone, Debug)]
pub enum StringMatch {
    Exact(String, Case),
    Prefix(String, Case),
    Suffix(String, Case),
    Contains(String, Case),
    Regex(Regex),
}

/// Whether upper and lower case differ. Patterns are stored in lower case when they do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Sensitive,
    Ignored,
}

impl StringMatch {
    /// Reads a matcher.
    pub fn new(config: &matcher::StringMatcher) -> Result<Self, Problem> {
        let case = if config.ignore_case { Case::Ignored } else { Case::Sensitive };
        let text = |text: &String| match case {
            Case::Sensitive => text.clone(),
            Case::Ignored => text.to_ascii_lowercase(),
        };
        Ok(match config.match_pattern.as_ref() {
            Some(MatchPattern::Exact(pattern)) => Self::Exact(text(pattern), case),
            Some(MatchPattern::Prefix(pattern)) => Self::Prefix(text(pattern), case),
            Some(MatchPattern::Suffix(pattern)) => Self::Suffix(text(pattern), case),
            Some(MatchPattern::Contains(pattern)) => Self::Contains(text(pattern), case),
            Some(MatchPattern::SafeRegex(pattern)) => Self::Regex(full(pattern).at("safe_regex")?),
            _ => return Err(Problem::new("must have a pattern")),
        })
    }

    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        let lowered = |case: Case| match case {
            Case::Sensitive => std::borrow::Cow::Borrowed(text),
            Case::Ignored => text.to_ascii_lowercase().into(),
        };
        match self {
            Self::Exact(pattern, case) => *lowered(*case) == **pattern,
            Self::Prefix(pattern, case) => lowered(*case).starts_with(pattern.as_str()),
            Self::Suffix(pattern, case) => lowered(*case).ends_with(pattern.as_str()),
            Self::Contains(pattern, case) => lowered(*case).contains(pattern.as_str()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// A regular expression that has to fit the whole text, as everywhere in Envoy's API.
pub fn full(config: &matcher::RegexMatcher) -> Result<Regex, Problem> {
    Regex::new(&format!("^(?:{})$", config.regex)).map_err(|error| {
        Problem::new(format!("is not a regular expression: {error}")).inside("regex")
    })
}

/// A regular expression that may fit a part of the text, with its replacement.
#[derive(Clone, Debug)]
pub struct Substitution {
    pattern: Regex,
    /// In the syntax of the `regex` crate, translated from RE2's `\1`.
    replacement: String,
}

impl Substitution {
    /// Reads a substitution.
    pub fn new(config: &matcher::RegexMatchAndSubstitute) -> Result<Self, Problem> {
        let pattern = config.pattern.as_ref().map_or("", |pattern| pattern.regex.as_str());
        let pattern = Regex::new(pattern).map_err(|error| {
            Problem::new(format!("is not a regular expression: {error}")).inside("pattern.regex")
        })?;
        let mut replacement = String::new();
        let mut chars = config.substitution.chars();
        while let Some(char) = chars.next() {
            match char {
                '$' => replacement.push_str("$$"),
                '\\' => match chars.next() {
                    Some(digit) if digit.is_ascii_digit() => {
                        replacement.push_str(&format!("${{{digit}}}"));
                    }
                    Some('\\') => replacement.push('\\'),
                    _ => return Err(Problem::new("has a lone backslash").inside("substitution")),
                },
                other => replacement.push(other),
            }
        }
        Ok(Self { pattern, replacement })
    }

    /// Replaces every match in `text`.
    pub fn apply(&self, text: &str) -> String {
        self.pattern.replace_all(text, self.replacement.as_str()).into_owned()
    }
}

/// A condition on a header or a pseudo-header.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    name: String,
    condition: HeaderCondition,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum HeaderCondition {
    Present(bool),
    Text(StringMatch),
    Range(i64, i64),
}

/// What header conditions look at: the parts of a request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub authority: &'a str,
    pub scheme: &'a str,
    pub headers: &'a HeaderMap,
}

impl<'a> HeadView<'a> {
    /// The value of a header or pseudo-header; several are joined by commas, as Envoy does.
    pub fn value(self, name: &str) -> Option<std::borrow::Cow<'a, str>> {
        let pseudo = match name {
            ":method" => Some(self.method),
            ":path" => Some(self.path),
            ":authority" | "host" => Some(self.authority),
            ":scheme" => Some(self.scheme),
            _ => None,
        };
        if let Some(value) = pseudo {
            return Some(value.into());
        }
        let mut values = self.headers.get_all(HeaderName::try_from(name).ok()?).iter();
        let first = String::from_utf8_lossy(values.next()?.as_bytes());
        let mut joined = first;
        for value in values {
            let joined = joined.to_mut();
            joined.push(',');
            joined.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        Some(joined)
    }
}

impl HeaderMatch {
    /// Reads a matcher.
    #[expect(deprecated, reason = "control planes still send the older forms")]
    pub fn new(config: &rds::HeaderMatcher) -> Result<Self, Problem> {
        let exact = |pattern: &String| StringMatch::Exact(pattern.clone(), Case::Sensitive);
        let condition = match config.header_match_specifier.as_ref() {
            None => HeaderCondition::Present(true),
            Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderCondition::Present(*present),
            Some(HeaderMatchSpecifier::StringMatch(text)) => {
                HeaderCondition::Text(StringMatch::new(text).at("string_match")?)
            }
            Some(HeaderMatchSpecifier::ExactMatch(text)) => HeaderCondition::Text(exact(text)),
            Some(HeaderMatchSpecifier::PrefixMatch(text)) => {
                HeaderCondition::Text(StringMatch::Prefix(text.clone(), Case::Sensitive))
            }
            Some(HeaderMatchSpecifier::SuffixMatch(text)) => {
                HeaderCondition::Text(StringMatch::Suffix(text.clone(), Case::Sensitive))
            }
            Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
                HeaderCondition::Text(StringMatch::Contains(text.clone(), Case::Sensitive))
            }
            Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
                HeaderCondition::Text(StringMatch::Regex(full(regex).at("safe_regex_match")?))
            }
            Some(HeaderMatchSpecifier::RangeMatch(range)) => {
                HeaderCondition::Range(range.start, range.end)
            }
        };
        Ok(Self {
            name: config.name.to_ascii_lowercase(),
            condition,
            invert: config.invert_match,
            missing_is_empty: config.treat_missing_header_as_empty,
        })
    }

    /// Whether the request fits.
    pub fn matches(&self, head: HeadView<'_>) -> bool {
        let value = head.value(&self.name);
        let fits = match (&self.condition, value) {
            (HeaderCondition::Present(wanted), value) => {
                return (value.is_some() == *wanted) != self.invert;
            }
            (_, None) if !self.missing_is_empty => return false,
            (condition, value) => {
                let value = value.unwrap_or_default();
                match condition {
                    HeaderCondition::Text(text) => text.matches(&value),
                    HeaderCondition::Range(start, end) => {
                        value.parse::<i64>().is_ok_and(|number| (*start..*end).contains(&number))
                    }
                    HeaderCondition::Present(_) => true,
                }
            }
        };
        fits != self.invert
    }
}

/// A condition on a query parameter.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    name: String,
    text: Option<StringMatch>,
}

impl QueryMatch {
    /// Reads a matcher.
    pub fn new(config: &rds::QueryParameterMatcher) -> Result<Self, Problem> {
        use rds::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        let text = match config.query_parameter_match_specifier.as_ref() {
            Some(Specifier::StringMatch(text)) => Some(StringMatch::new(text).at("string_match")?),
            Some(Specifier::PresentMatch(true)) | None => None,
            Some(Specifier::PresentMatch(false)) => {
                return Err(Problem::new("must be true").inside("present_match"));
            }
        };
        Ok(Self { name: config.name.clone(), text })
    }

    /// Whether the query (without `?`) fits.
    pub fn matches(&self, query: &str) -> bool {
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).any(
            |(name, value)| {
                name == self.name && self.text.as_ref().is_none_or(|text| text.matches(value))
            },
        )
    }
}
