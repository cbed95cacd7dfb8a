//! What is special about istioctl's grammar: flags that all its commands share may stand before
//! the command, and logging has flags of its own.

use std::ffi::OsString;

use clap::Args;
use tombolo_runtime::logs::{self, Format};

/// The flags with a value that all commands of istioctl share.
const SHARED: &[&str] = &[
    "--context",
    "--kubeconfig",
    "-c",
    "--istioNamespace",
    "-i",
    "--namespace",
    "-n",
    "--vklog",
    "--log_output_level",
    "--log_as_json",
];

/// Moves the shared flags that stand before the command behind it, where the command takes them
/// or refuses them.
pub fn arguments(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest: Vec<OsString> = arguments.into_iter().collect();
    let mut leading = Vec::new();
    while let Some(words) = rest.get(1).and_then(shared) {
        if rest.len() < 1 + words {
            break;
        }
        leading.extend(rest.drain(1..=words));
    }
    let end = rest.iter().position(|argument| argument == "--").unwrap_or(rest.len());
    rest.splice(end..end, leading);
    rest
}

/// How many words a shared flag takes with its value: `--context=x` one, `--context x` two.
fn shared(argument: &OsString) -> Option<usize> {
    let text = argument.to_str()?;
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    if !SHARED.contains(&name) {
        // A short flag may have its value in the same word.
        let short = text.get(..2).filter(|_| !text.starts_with("--"))?;
        return SHARED.contains(&short).then_some(1);
    }
    let alone = name.len() < text.len() || name == "--log_as_json";
    Some(if alone { 1 } else { 2 })
}

/// istioctl's flags for its log, which goes to standard error.
#[derive(Debug, Args)]
pub struct LoggingFlags {
    /// The least level that is logged: none, error, warn, info or debug, or scope:level,...
    #[arg(id = "log_output_level", long, value_name = "LEVEL", value_parser = level, hide = true)]
    level: Option<&'static str>,
    /// The verbosity of Kubernetes' client; from 6 on its requests are logged.
    #[arg(long, value_name = "NUMBER", hide = true)]
    vklog: Option<u8>,
    /// The log's lines are JSON.
    #[arg(long = "log_as_json", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    json: Option<bool>,
}

impl LoggingFlags {
    /// Starts the log, if one of the flags asks for it.
    pub fn start(&self) {
        let verbose = self.vklog.filter(|verbosity| *verbosity >= 6).map(|_| "debug");
        let Some(level) = self.level.or(verbose) else { return };
        let format = if self.json == Some(true) { Format::Json } else { Format::Text };
        logs::init(format, level);
    }
}

/// The most verbose level of istioctl's comma-separated `[scope:]level` list: our scopes are
/// other ones than istioctl's.
fn level(text: &str) -> Result<&'static str, String> {
    const LEVELS: &[(&str, &str)] = &[
        ("none", "off"),
        ("fatal", "off"),
        ("error", "error"),
        ("warn", "warn"),
        ("info", "info"),
        ("debug", "debug"),
    ];
    let mut most = 0;
    for part in text.split(',') {
        let name = part.rsplit(':').next().unwrap_or(part);
        let found = LEVELS.iter().position(|(known, _)| *known == name);
        most = most.max(found.ok_or_else(|| {
            format!("`{name}` is not a level; write none, error, warn, info or debug")
        })?);
    }
    Ok(LEVELS.get(most).map_or("info", |(_, filter)| filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(text: &str) -> String {
        let words = arguments(text.split(' ').map(OsString::from));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn shared_flags_before_the_command_move_behind_it() {
        for (given, want) in [
            ("istioctl --context=a install -y -f -", "istioctl install -y -f - --context=a"),
            ("istioctl --context a -n b pc all x", "istioctl pc all x --context a -n b"),
            ("istioctl -nsample -i=b pc l p", "istioctl pc l p -nsample -i=b"),
            ("istioctl --log_as_json version", "istioctl version --log_as_json"),
            ("istioctl -i b x -- y --context c", "istioctl x -i b -- y --context c"),
            ("istioctl install --context a", "istioctl install --context a"),
            ("istioctl --context", "istioctl --context"),
            ("tombolo --other x", "tombolo --other x"),
            ("tombolo", "tombolo"),
        ] {
            assert_eq!(moved(given), want);
        }
    }

    #[test]
    fn levels_are_istioctls() {
        assert_eq!(level("default:info,ads:debug"), Ok("debug"));
        assert_eq!(level("none"), Ok("off"));
        assert!(level("loud").is_err());
    }
}
