//! What is wrong with a resource, and at which field.
//!
//! A [`Problem`] starts at the place that does not understand a value and collects the field path
//! on its way up, so that a rejection names the resource and the exact field.

use std::fmt;

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: String,
    reason: String,
}

impl Problem {
    /// A problem with the current field.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    /// The same problem, seen from the message that holds `field`.
    #[must_use]
    pub fn inside(mut self, field: impl fmt::Display) -> Self {
        self.path = match self.path.as_str() {
            "" => field.to_string(),
            path if path.starts_with('[') => format!("{field}{path}"),
            path => format!("{field}.{path}"),
        };
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl std::error::Error for Problem {}

/// Adds the field to a problem that passes.
pub trait At<T> {
    /// Names the field the value came from.
    fn at(self, field: impl fmt::Display) -> Result<T, Problem>;
}

impl<T> At<T> for Result<T, Problem> {
    fn at(self, field: impl fmt::Display) -> Self {
        self.map_err(|problem| problem.inside(field))
    }
}

/// Converts every element of a repeated field, naming the index of the first that fails.
pub fn each<S, T>(
    field: &str,
    items: impl IntoIterator<Item = S>,
    convert: impl Fn(S) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let converted = |(index, item)| convert(item).at(format_args!("{field}[{index}]"));
    items.into_iter().enumerate().map(converted).collect()
}

/// The value of a field that must be set.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::new("must be set").inside(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_the_whole_path() {
        let problem: Result<(), _> =
            Err(Problem::new("is not a port")).at("port_value").at("[2]").at("addresses");
        assert_eq!(problem.unwrap_err().to_string(), "addresses[2].port_value: is not a port");
    }
}
