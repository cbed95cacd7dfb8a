//! Logs of a process: text or JSON on standard error, filtered by `RUST_LOG`; levels can be
//! changed while it runs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

pub use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One human-readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why levels could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// `init` was not called.
    #[error("logging was not started by this process")]
    NotStarted,
    /// The subscriber is gone.
    #[error("change the filter of the log")]
    Reload(#[from] reload::Error),
}

/// The filter in force: what the process started with, and what was changed since.
struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    started_with: String,
    changed: Mutex<BTreeMap<String, LevelFilter>>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Starts logging for the whole process. `default` is the filter used when `RUST_LOG` is not set,
/// for example `info` or `tombolo_proxy=debug,warn`. A second call changes nothing.
pub fn init(format: Format, default: &str) {
    let given = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|given| !given.is_empty());
    let (started_with, filter) = match given.map(|given| (EnvFilter::try_new(&given), given)) {
        Some((Ok(filter), given)) => (given, filter),
        _ => (default.to_owned(), EnvFilter::new(default)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // Fails only when a subscriber is already set, as in tests.
    let started = match format {
        Format::Text => Registry::default().with(filter).with(lines.with_ansi(false)).try_init(),
        Format::Json => {
            Registry::default().with(filter).with(lines.json().flatten_event(true)).try_init()
        }
    };
    match started {
        Ok(()) => {
            FILTER.get_or_init(|| Filter { handle, started_with, changed: Mutex::default() });
        }
        Err(error) => tracing::debug!(%error, "logging was started before"),
    }
}

impl Filter {
    fn directives(&self, changed: &BTreeMap<String, LevelFilter>) -> String {
        let changes = changed.iter().map(|(target, level)| format!(",{target}={level}"));
        format!("{}{}", self.started_with, changes.collect::<String>())
    }
}

/// From which level on events of `target` (a module's path) are logged.
pub fn level_of(target: &str) -> LevelFilter {
    let Some(filter) = FILTER.get() else { return LevelFilter::OFF };
    let directives = filter.directives(&filter.changed.lock());
    // A filter by spans and fields has no level of its own for a target; it counts as `info`.
    let Ok(targets) = directives.parse::<Targets>() else { return LevelFilter::INFO };
    let levels = [
        tracing::Level::TRACE,
        tracing::Level::DEBUG,
        tracing::Level::INFO,
        tracing::Level::WARN,
        tracing::Level::ERROR,
    ];
    let lowest = levels.into_iter().find(|level| targets.would_enable(target, level));
    lowest.map_or(LevelFilter::OFF, LevelFilter::from_level)
}

/// Logs events of the given targets from the given levels on, from now on.
///
/// # Errors
/// When this process does not log.
pub fn set_levels(levels: &[(&str, LevelFilter)]) -> Result<(), LevelError> {
    let filter = FILTER.get().ok_or(LevelError::NotStarted)?;
    let mut changed = filter.changed.lock();
    changed.extend(levels.iter().map(|(target, level)| ((*target).to_owned(), *level)));
    filter.handle.reload(EnvFilter::new(filter.directives(&changed)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_while_the_process_runs() {
        init(Format::Text, "info,tombolo_proxy=warn");
        assert_eq!(level_of("tombolo_proxy::http"), LevelFilter::WARN);
        assert_eq!(level_of("tombolo_xds"), LevelFilter::INFO);
        set_levels(&[
            ("tombolo_proxy::http", LevelFilter::TRACE),
            ("tombolo_xds", LevelFilter::OFF),
        ])
        .unwrap();
        assert_eq!(level_of("tombolo_proxy::http"), LevelFilter::TRACE);
        assert_eq!(level_of("tombolo_proxy::tcp"), LevelFilter::WARN);
        assert_eq!(level_of("tombolo_xds"), LevelFilter::OFF);
        assert!(tracing::enabled!(target: "tombolo_proxy::http", tracing::Level::TRACE));
        assert!(!tracing::enabled!(target: "tombolo_xds", tracing::Level::ERROR));
    }
}
