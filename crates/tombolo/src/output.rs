//! The only place that prints: results to standard output, everything else to standard error.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the module that prints")]

use std::error::Error;

/// Prints a result line to standard output.
pub fn line(text: impl std::fmt::Display) {
    println!("{text}");
}

/// Prints text to standard output as it is.
pub fn text(text: impl std::fmt::Display) {
    print!("{text}");
}

/// Prints a line of progress or advice to standard error.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// Prints an error and its causes on one line to standard error.
pub fn error(error: &(dyn Error + 'static)) {
    eprintln!("error: {}", tombolo_runtime::errors::chain(error));
}
