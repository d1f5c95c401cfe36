//! The client: an application that calls the provider and reports what it saw. It knows nothing of interception.
//!
//! Every step prints one JSON object. `serve` takes steps from standard input, so that a test can make many small
//! ones in one long-lived process of the target.

mod connects;
mod dial;
mod give_up;
mod hold;
mod http;
mod load;
mod reconnect;
mod storm;
mod udp;
mod write;

use std::io::{self, BufRead, Write};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// `lunar-lab client …`
#[derive(Debug, Subcommand)]
pub enum Step {
    /// Make TCP connections one after the other
    Connects(connects::Connects),
    /// Send one byte on each of some UDP sockets, connected or not
    Udp(udp::Udp),
    /// Begin to connect and close the socket before there is an answer
    GiveUp(give_up::GiveUp),
    /// Keep connections open until the end of standard input
    Hold(hold::Hold),
    /// Connect one socket, disconnect it with AF_UNSPEC, connect it elsewhere
    Reconnect(reconnect::Reconnect),
    /// Make HTTP calls, one JSON line each, then a summary
    Http(http::Http),
    /// Make HTTP requests at a pace, and count what came of them
    Load(load::Load),
    /// Connect many times a second, whatever comes of it, and record what came of each
    Storm(storm::Storm),
    /// Send bytes to a raw provider and compare the echo
    Write(write::Write),
    /// Take steps from standard input, one JSON array of arguments per line, and answer one line each
    Serve,
}

/// A step by itself, as `serve` reads it.
#[derive(Debug, Parser)]
#[command(name = "client", no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(subcommand)]
    step: Step,
}

impl Step {
    /// Runs the step and prints its JSON.
    ///
    /// # Errors
    /// When the step itself cannot be run; a call that fails is a result, not an error.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Serve => serve(),
            Self::Hold(step) => print(&step.run()?),
            Self::Connects(step) => print(&step.run()?),
            Self::Load(step) => print(&step.run()?),
            Self::Http(step) => print(&step.run(print)?),
            step => print(&step.answer()?),
        }
    }

    fn answer(&self) -> Result<Value> {
        match self {
            Self::Connects(step) if !step.reads_input() => step.run(),
            Self::Load(step) if !step.reads_input() => step.run(),
            Self::Udp(step) => step.run(),
            Self::GiveUp(step) => step.run(),
            Self::Reconnect(step) => step.run(),
            Self::Storm(step) => step.run(),
            Self::Write(step) => step.run(),
            Self::Http(step) => {
                let mut calls = Vec::new();
                let mut summary = step.run(|call| {
                    calls.push(call.clone());
                    Ok(())
                })?;
                summary["each"] = calls.into();
                Ok(summary)
            }
            Self::Serve | Self::Hold(_) | Self::Connects(_) | Self::Load(_) => {
                bail!("what reads standard input cannot be a step of `serve`")
            }
        }
    }
}

fn serve() -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read a step from standard input")?;
        print(&serve_line(&line).unwrap_or_else(|reason| json!({"error": format!("{reason:#}")})))?;
    }
    Ok(())
}

fn serve_line(line: &str) -> Result<Value> {
    let args: Vec<String> = serde_json::from_str(line).context("a step is a JSON array of strings")?;
    Line::try_parse_from(args)?.step.answer()
}

fn print(value: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serve_answers_an_error_for_what_is_no_step() {
        const UNTIL_EOF: &str = r#"["connects", "--to", "127.0.0.1:1", "--until-eof"]"#;
        for line in ["", "{}", r#"["nonsense"]"#, r#"["serve"]"#, r#"["connects"]"#, UNTIL_EOF] {
            assert!(serve_line(line).is_err(), "{line}");
        }
    }
}
