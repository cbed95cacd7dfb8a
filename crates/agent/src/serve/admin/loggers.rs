//! `/logging`: the levels of this process's loggers, which go by the names of Envoy's.
//!
//! `POST /logging` lists them; `?level=L` sets all, `?NAME=L` one, `?paths=NAME:L,…` several.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::StatusCode;
use tombolo_runtime::logs::{self, LevelFilter};

/// What Envoy calls the parts of a proxy, and where these are in ours.
const LOGGERS: &[(&str, &[&str])] = &[
    ("admin", &["tombolo_agent::serve"]),
    ("config", &["tombolo_agent::discovery", "tombolo_proxy::config", "tombolo_proxy::snapshot"]),
    ("conn_handler", &["tombolo_proxy::accept"]),
    ("connection", &["tombolo_proxy::stream", "tombolo_proxy::tcp"]),
    ("dns", &["tombolo_proxy::connect::resolve"]),
    ("filter", &["tombolo_proxy::gateway", "tombolo_proxy::inbound", "tombolo_proxy::outbound"]),
    ("grpc", &["tombolo_xds"]),
    ("http", &["tombolo_proxy::http"]),
    ("main", &["tombolo_agent", "tombolo_runtime"]),
    ("pool", &["tombolo_proxy::connect::pool"]),
    ("router", &["tombolo_proxy::route"]),
    ("secret", &["tombolo_agent::certificates", "tombolo_tls"]),
    ("upstream", &["tombolo_proxy::balance", "tombolo_proxy::connect"]),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    levels: trace debug info warning error critical off \n";

/// Answers `/logging`.
pub(crate) async fn logging(Query(query): Query<BTreeMap<String, String>>) -> (StatusCode, String) {
    let changed = wanted(&query).and_then(|levels| {
        if levels.is_empty() {
            return Ok(());
        }
        logs::set_levels(&levels).map_err(|error| error.to_string())
    });
    match changed {
        Ok(()) => (StatusCode::OK, list()),
        Err(problem) => (StatusCode::BAD_REQUEST, format!("error: {problem}\n\n{USAGE}{}", list())),
    }
}

/// The targets to change and their levels; nothing is changed when any part is wrong.
fn wanted(query: &BTreeMap<String, String>) -> Result<Vec<(&'static str, LevelFilter)>, String> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (name, value) in query {
        if name != "paths" {
            pairs.push((name, value));
            continue;
        }
        for path in value.split(',') {
            let pair = path.split_once(':');
            pairs.push(pair.ok_or_else(|| format!("`{path}` is not of the form NAME:LEVEL"))?);
        }
    }
    let mut levels = Vec::new();
    for (name, level) in pairs {
        let level = parse(level).ok_or("unknown logger level")?;
        let chosen: Vec<_> =
            LOGGERS.iter().filter(|(known, _)| name == "level" || *known == name).collect();
        if chosen.is_empty() {
            return Err("unknown logger name".to_owned());
        }
        for (_, targets) in chosen {
            levels.extend(targets.iter().map(|target| (*target, level)));
        }
    }
    Ok(levels)
}

fn parse(level: &str) -> Option<LevelFilter> {
    Some(match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warning" | "warn" => LevelFilter::WARN,
        "error" | "critical" => LevelFilter::ERROR,
        "off" => LevelFilter::OFF,
        _ => return None,
    })
}

fn list() -> String {
    let lines = LOGGERS.iter().map(|(name, targets)| {
        let level = match targets.first().map(|target| logs::level_of(target)) {
            Some(LevelFilter::WARN) => "warning".to_owned(),
            Some(level) => level.to_string(),
            None => String::new(),
        };
        format!("  {name}: {level}\n")
    });
    format!("active loggers:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn levels_are_asked_for_by_name_in_a_list_or_for_all() {
        let http = vec![("tombolo_proxy::http", LevelFilter::DEBUG)];
        assert_eq!(wanted(&query(&[("http", "debug")])).unwrap(), http);
        let two = wanted(&query(&[("paths", "http:debug,grpc:warning")])).unwrap();
        assert_eq!(two[0], http[0]);
        assert_eq!(two[1], ("tombolo_xds", LevelFilter::WARN));
        let all = wanted(&query(&[("level", "off")])).unwrap();
        assert_eq!(all.len(), LOGGERS.iter().map(|(_, targets)| targets.len()).sum::<usize>());
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert_eq!(wanted(&query(&[("bogus", "debug")])).unwrap_err(), "unknown logger name");
        assert_eq!(wanted(&query(&[("http", "bogus")])).unwrap_err(), "unknown logger level");
        assert!(wanted(&query(&[("paths", "http")])).is_err());
    }
}
