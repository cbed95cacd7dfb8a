//! Durations for people: `45s`, `3m20s`, `5d4h`, `2y30d`.

use jiff::Timestamp;
use serde_json::Value;

/// How long ago the time stamp was, or `<unknown>` without one.
pub fn since(stamp: Option<&Value>) -> String {
    let Some(text) = stamp.and_then(Value::as_str) else { return "<unknown>".to_owned() };
    match text.parse::<Timestamp>() {
        Ok(then) => human(Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A number of seconds, in the two largest units that matter.
pub fn human(seconds: i64) -> String {
    let pair = |large: i64, small: i64, units: (&str, &str)| {
        if small == 0 {
            format!("{large}{}", units.0)
        } else {
            format!("{large}{}{small}{}", units.0, units.1)
        }
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, seconds % 60, ("m", "s"))
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, minutes % 60, ("h", "m"))
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(days, hours % 24, ("d", "h"))
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        pair(days / 365, days % 365, ("y", "d"))
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_get_coarser_as_they_grow() {
        let minute = 60;
        let hour = 60 * minute;
        let day = 24 * hour;
        let cases = [
            (-5, "<invalid>"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (11 * minute, "11m"),
            (3 * hour + 5 * minute, "3h5m"),
            (30 * hour, "30h"),
            (5 * day + 4 * hour, "5d4h"),
            (100 * day, "100d"),
            (800 * day, "2y70d"),
            (4000 * day, "10y"),
        ];
        for (seconds, want) in cases {
            assert_eq!(human(seconds), want);
        }
    }
}
