//! Logs: structured, on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;

/// Starts logging. Colours only on a terminal, and not where `NO_COLOR` asks for none.
pub fn log_to_stderr(level: LevelFilter) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let installed = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_max_level(level)
        .with_target(false)
        .try_init();
    // Only a second call fails, and the first goes on.
    debug_assert!(installed.is_ok(), "logging was started twice");
}
