//! What a command says on standard output.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Writes all of `text`. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// If standard output cannot be written to.
pub fn say(text: &str) -> anyhow::Result<()> {
    say_to_reader(text).map(|_there| ())
}

/// The same; says whether there still is a reader, for those who go on.
///
/// # Errors
/// As [`say`].
pub fn say_to_reader(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write the result to stdout"),
    }
}

/// Writes a line.
///
/// # Errors
/// As [`say`].
pub fn say_line(line: &str) -> anyhow::Result<()> {
    say(&format!("{line}\n"))
}
