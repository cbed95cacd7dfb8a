//! `proxy-config log`: which levels to ask a proxy for.

/// All loggers, as Envoy's admin server calls them.
const ALL: &str = "level";
const LEVELS: [&str; 7] = ["trace", "debug", "info", "warning", "error", "critical", "off"];

/// Why levels cannot be asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error(
        "unrecognized logging level: {0}; there is trace, debug, info, warning, error, critical and off"
    )]
    Level(String),
    #[error("unrecognized logger name: {0}; `proxy-config log POD` lists them")]
    Logger(String),
}

fn level(text: &str) -> Result<&'static str, LevelError> {
    let text = if text == "warn" { "warning" } else { text };
    let known = LEVELS.into_iter().find(|known| *known == text);
    known.ok_or_else(|| LevelError::Level(text.to_owned()))
}

/// The queries of `/logging` for a list such as `info` or `http:debug,router:trace`. `loggers` is
/// what the proxy answers to `/logging`. All loggers come first, so that single ones stay.
///
/// # Errors
/// When a level or a logger does not exist.
pub fn queries(wanted: &str, loggers: &str) -> Result<Vec<String>, LevelError> {
    let mut all = None;
    let mut single = Vec::new();
    for part in wanted.split(',') {
        let part = part.trim();
        // A scope before `::` is dropped, as istioctl does.
        let part = part.rsplit_once("::").map_or(part, |(_, rest)| rest);
        match part.split_once([':', '=']) {
            None => {
                all = Some(level(part)?);
                single.clear();
            }
            Some((ALL, name)) => all = Some(level(name)?),
            Some((logger, name)) => {
                let line =
                    |line: &str| line.trim().split_once(':').is_some_and(|(it, _)| it == logger);
                if !loggers.lines().any(line) {
                    return Err(LevelError::Logger(logger.to_owned()));
                }
                single.push(format!("{logger}={}", level(name)?));
            }
        }
    }
    let all = all.map(|level| format!("{ALL}={level}"));
    Ok(all.into_iter().chain(single).collect())
}

/// The query that sets all loggers to the mesh's level, or to Istio's default.
pub fn reset(mesh: Option<&str>) -> String {
    let level = mesh.and_then(|mesh| level(mesh).ok()).unwrap_or("warning");
    format!("{ALL}={level}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGGERS: &str = "active loggers:\n  http: warning\n  router: info\n";

    #[test]
    fn all_come_before_single_ones() {
        let of = |text: &str| queries(text, LOGGERS);
        assert_eq!(of("info").unwrap(), ["level=info"]);
        assert_eq!(of("http:debug,router=warn").unwrap(), ["http=debug", "router=warning"]);
        assert_eq!(of("http:debug,level:off").unwrap(), ["level=off", "http=debug"]);
        assert_eq!(of("http:loud").unwrap_err(), LevelError::Level("loud".into()));
        assert_eq!(of("htt:info").unwrap_err(), LevelError::Logger("htt".into()));
        assert_eq!(reset(Some("error")), "level=error");
        assert_eq!(reset(None), "level=warning");
    }
}
