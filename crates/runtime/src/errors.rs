//! How errors are shown: one line, from the outermost layer to the cause.

use std::error::Error;
use std::fmt;

/// Formats an error and its causes on one line: `a: b: c`.
///
/// A cause whose text the layer above already ends with is not repeated.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    fmt::from_fn(move |f| {
        let mut last = error.to_string();
        write!(f, "{last}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            cause = error.source();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read kubeconfig")]
    struct Read(#[source] io::Error);

    #[test]
    fn causes_follow_their_effects() {
        let error = Read(io::Error::other("disk on fire"));
        assert_eq!(chain(&error).to_string(), "read kubeconfig: disk on fire");
    }
}
