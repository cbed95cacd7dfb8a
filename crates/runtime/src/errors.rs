//! How errors are shown: one line, from the outermost layer to the cause.

use std::error::Error;
use std::fmt;

/// Formats an error and its causes on one line: `a: b: c`.
///
/// A cause whose text the layer above already has is not repeated, and what that layer writes
/// behind it is left out: some libraries add the cause once more, as a dump of its fields.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    fmt::from_fn(move |f| {
        let mut shown = own_text(error);
        write!(f, "{shown}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = own_text(error);
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            cause = error.source();
        }
        Ok(())
    })
}

/// What one layer says, up to the end of its cause's text where it has that in it.
fn own_text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    if let Some(cause) = error.source().map(ToString::to_string).filter(|cause| !cause.is_empty())
        && let Some(start) = text.find(&cause)
    {
        text.truncate(start + cause.len());
    }
    text
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

    #[derive(Debug, thiserror::Error)]
    #[error("refused: {0} ({0:?})")]
    struct Refused(#[source] Read);

    #[test]
    fn a_cause_is_shown_once_and_without_its_fields() {
        let error = Refused(Read(io::Error::other("disk on fire")));
        assert_eq!(chain(&error).to_string(), "refused: read kubeconfig: disk on fire");
    }
}
