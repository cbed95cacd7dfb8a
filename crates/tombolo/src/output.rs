//! The only place that prints: results to standard output, everything else to standard error.
//!
//! Work goes on when nobody reads what it says any more: `tombolo plan ... | head` is no failure.

use std::error::Error;
use std::fmt::{Arguments, Display};
use std::io::{self, ErrorKind, Write};

/// Prints a result line to standard output.
pub fn line(text: impl Display) {
    result(format_args!("{text}\n"));
}

/// Prints text to standard output as it is.
pub fn text(text: impl Display) {
    result(format_args!("{text}"));
}

fn result(text: Arguments<'_>) {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            note(format_args!("error: write to standard output: {error}"));
        }
        _ => (),
    }
}

/// Prints a line of progress or advice to standard error.
pub fn note(text: impl Display) {
    // There is no other place to complain at.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints an error and its causes on one line to standard error.
pub fn error(error: &(dyn Error + 'static)) {
    note(format_args!("error: {}", tombolo_runtime::errors::chain(error)));
}
