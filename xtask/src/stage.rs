//! Long work, announced and timed. A child's own output is never held back.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs `work` under a heading and says how long it took.
pub fn timed<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let outcome = work();
    let took = start.elapsed();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    eprintln!("    {word} in {:.1} s: {title}", took.as_secs_f64());
    outcome.map(|value| (value, took))
}

/// Runs a command as a stage; its failure is an error that shows the command.
pub fn command(title: &str, command: &mut Command) -> Result<()> {
    timed(title, || {
        let line = shown(command);
        let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
        if !status.success() {
            bail!("`{line}` ended with {status}");
        }
        Ok(())
    })
    .map(|_| ())
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
