//! Durations as Istio's objects write them: `5s`, `1h30m`, `0.5s`, `100ms`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A length of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(pub std::time::Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration such as 5s, 1h30m or 100ms")]
pub struct NotADuration(String);

impl FromStr for Duration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let bad = || NotADuration(text.to_owned());
        let mut rest = text.trim();
        let mut seconds = 0.0_f64;
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let (number, tail) = rest.split_at(end);
            let number: f64 = number.parse().map_err(|_| bad())?;
            let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(end);
            seconds += number
                * match unit {
                    "h" => 3600.0,
                    "m" => 60.0,
                    "s" => 1.0,
                    "ms" => 1e-3,
                    "us" | "µs" => 1e-6,
                    "ns" => 1e-9,
                    _ => return Err(bad()),
                };
            rest = tail;
        }
        std::time::Duration::try_from_secs_f64(seconds).map(Self).map_err(|_| bad())
    }
}

impl TryFrom<String> for Duration {
    type Error = NotADuration;

    fn try_from(text: String) -> Result<Self, NotADuration> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        let of = |text: &str| text.parse::<Duration>().map(|duration| duration.0.as_millis());
        assert_eq!(of("1h30m"), Ok(5_400_000));
        assert_eq!(of("0.5s"), Ok(500));
        assert_eq!(of("100ms"), Ok(100));
        assert_eq!(of("0s"), Ok(0));
        for bad in ["", "5", "s", "5x", "-1s", "1e400s"] {
            assert_eq!(of(bad), Err(NotADuration(bad.to_owned())), "{bad}");
        }
    }
}
