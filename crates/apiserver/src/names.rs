//! The shapes of names, in Kubernetes' words.

use std::sync::LazyLock;

use rand::RngExt;
use regex::Regex;

const SUBDOMAIN_HELP: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_HELP: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_HELP: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_HELP: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_HELP: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_HELP: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const LONGEST_PREFIX: usize = 58;

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant and compiles")
}

static SUBDOMAIN: LazyLock<Regex> = LazyLock::new(|| {
    compiled(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
});
static LABEL: LazyLock<Regex> = LazyLock::new(|| compiled(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"));
static LABEL_1035: LazyLock<Regex> = LazyLock::new(|| compiled(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"));
static QUALIFIED: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"));
static VALUE: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"));
static CONFIG_KEY: LazyLock<Regex> = LazyLock::new(|| compiled(r"^[-._a-zA-Z0-9]+$"));

/// The longest name of an object.
pub const LONGEST_SUBDOMAIN: usize = 253;
/// The longest DNS label.
pub const LONGEST_LABEL: usize = 63;

fn check(text: &str, longest: usize, pattern: &Regex, help: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > longest {
        errors.push(format!("must be no more than {longest} bytes"));
    }
    if !pattern.is_match(text) {
        errors.push(help.to_owned());
    }
    errors
}

/// `example.com`: most objects' names.
pub fn subdomain(text: &str) -> Vec<String> {
    check(text, LONGEST_SUBDOMAIN, &SUBDOMAIN, SUBDOMAIN_HELP)
}

/// `my-name`: namespaces and containers.
pub fn label(text: &str) -> Vec<String> {
    check(text, LONGEST_LABEL, &LABEL, LABEL_HELP)
}

/// A label that starts with a letter: Services.
pub fn label_1035(text: &str) -> Vec<String> {
    check(text, LONGEST_LABEL, &LABEL_1035, LABEL_1035_HELP)
}

/// Anything that can stand alone in a path: RBAC names and others.
pub fn path_segment(text: &str) -> Vec<String> {
    match text {
        "." | ".." => return vec![format!("may not be '{text}'")],
        _ => (),
    }
    ["/", "%"]
        .iter()
        .filter(|part| text.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// A label or annotation key, with or without prefix.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED_HELP} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    }
    if name.len() > LONGEST_LABEL {
        errors.push(format!("name part must be no more than {LONGEST_LABEL} bytes"));
    }
    if !QUALIFIED.is_match(name) {
        errors.push(format!("name part {QUALIFIED_HELP}"));
    }
    errors
}

pub fn label_value(text: &str) -> Vec<String> {
    check(text, LONGEST_LABEL, &VALUE, VALUE_HELP)
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = check(text, LONGEST_SUBDOMAIN, &CONFIG_KEY, CONFIG_KEY_HELP);
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => (),
    }
    errors
}

/// A port's name.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push("must be no more than 15 characters".to_owned());
    }
    if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        errors.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.chars().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A name that begins with `prefix`.
pub fn generate(prefix: &str) -> String {
    let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
    let mut random = rand::rng();
    let suffix: String =
        (0..SUFFIX).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect();
    prefix + &suffix
}

/// A random suffix like those of generated names.
pub fn random_suffix() -> String {
    generate("")
}
