//! Logs: structured, on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Starts logging. Colours only on a terminal, and not where `NO_COLOR` asks for none.
pub fn log_to_stderr(level: LevelFilter) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    // They would be told on standard error, with a panic where that is what failed: a relay outlives whoever reads its log.
    let lines = lines.log_internal_errors(false);
    // The resolver tells of every server that is slow; the agent says what comes of it.
    let of_resolver = level.min(LevelFilter::ERROR);
    let wanted = Targets::new().with_default(level).with_targets([
        ("hickory_resolver", of_resolver),
        ("hickory_net", of_resolver),
        ("hickory_proto", of_resolver),
    ]);
    let installed = tracing_subscriber::registry().with(lines).with(wanted).try_init();
    // Only a second call fails, and the first goes on.
    debug_assert!(installed.is_ok(), "logging was started twice");
}
