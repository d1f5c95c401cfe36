//! The timeline on the terminal, or as plain text anywhere else.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};

use super::call::Way;

/// Styles (ECMA-48 SGR).
#[derive(Debug, Clone, Copy)]
pub(super) enum Style {
    Bold,
    Dim,
    Good,
    Other,
    Bad,
}

#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
}

impl Screen {
    /// Coloured on a terminal, unless `NO_COLOR` is set to something (no-color.org).
    pub(super) fn new() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: io::stdout().is_terminal() && !refused }
    }

    pub(super) fn paint(&self, style: Style, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Other => "33",
            Style::Bad => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// One line, at once.
    pub(super) fn say(&self, line: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
    }

    /// A phase begins.
    pub(super) fn heading(&self, elapsed: Duration, number: usize, title: &str) -> Result<()> {
        self.say("")?;
        let title = self.paint(Style::Bold, &format!("{number}  {title}"));
        self.say(&format!("{}  {title}", self.time(elapsed)))
    }

    /// Calls that went the same way for the same reason.
    pub(super) fn calls(&self, elapsed: Duration, run: &Run) -> Result<()> {
        let (style, dot, how) = match &run.way {
            Ok(Way::Gateway) => (Style::Good, "●", Way::Gateway.name()),
            Ok(Way::Direct) => (Style::Other, "○", Way::Direct.name()),
            Err(reason) => (Style::Bad, "✗", reason.as_str()),
        };
        let dots = self.paint(style, &format!("{:<8}", dot.repeat(run.count)));
        let count = format!("{:>2} {}", run.count, if run.count == 1 { "call " } else { "calls" });
        let how = self.paint(style, &format!("{how:<15}"));
        let reason = self.paint(Style::Dim, &run.reason);
        self.say(&format!("{}     {dots}  {count} {how}  {reason}", self.time(elapsed)))
    }

    fn time(&self, elapsed: Duration) -> String {
        self.paint(Style::Dim, &format!("{:6.1}s", elapsed.as_secs_f64()))
    }
}

/// Calls in a row that are shown together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) way: Result<Way, String>,
    /// The kernel's.
    pub(super) reason: String,
    pub(super) count: usize,
}
