//! What the verifier has to do for each program: `cargo xtask verify`.
//!
//! Every program of the kernel object is loaded by itself, with fresh maps, as the agent loads it, and let go at once:
//! nothing is pinned, nothing is attached, nothing of an agent that runs here is touched.

mod budget;
mod object;
mod statistics;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use budget::Budget;
use object::{Globals, Kernel};
use statistics::Statistics;

/// `lunar-lab verify …`
#[derive(Debug, Args)]
pub struct Verify {
    /// The kernel object
    object: PathBuf,
}

/// One line of the table.
struct Row {
    program: String,
    hook: &'static str,
    /// The program and the functions that it calls.
    instructions: usize,
    statistics: Statistics,
}

impl Row {
    fn budget(&self) -> Budget {
        budget::of(&self.program)
    }

    /// What is to be said when the budget is exceeded.
    fn excess(&self) -> Option<String> {
        let (took, budget) = (self.statistics.processed, self.budget());
        (!budget.allows(&self.statistics)).then(|| {
            format!(
                "{} takes {took} verified instructions, its budget is {}",
                self.program, budget.instructions
            )
        })
    }
}

impl Verify {
    /// Loads everything and prints a table for each way in which the agent loads it.
    ///
    /// # Errors
    /// When the kernel refuses a program, or one exceeds its budget.
    pub fn run(&self) -> Result<()> {
        let file =
            fs::read(&self.object).with_context(|| format!("cannot read {}", self.object.display()))?;
        let mut wrong = judge(&file, "READS_KERNEL_STRUCTS 1", true)?;
        wrong.extend(judge(&file, "READS_KERNEL_STRUCTS 0", false)?);
        if !wrong.is_empty() {
            bail!("the kernel programs are not as they should be:\n{}", wrong.join("\n"));
        }
        Ok(())
    }
}

/// Looks at every program and prints the table; returns what is wrong.
fn judge(file: &[u8], title: &str, reads_kernel_structs: bool) -> Result<Vec<String>> {
    // The programs' own log is off unless the agent logs at debug level.
    let globals: Globals<'_> =
        &[("READS_KERNEL_STRUCTS", &[u8::from(reads_kernel_structs)]), ("AYA_LOG_LEVEL", &[0])];
    let kernel = Kernel::prepare(file, globals).with_context(|| title.to_owned())?;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for program in kernel.programs() {
        match look(&kernel, program) {
            Ok(row) => {
                wrong.extend(row.excess().map(|excess| format!("{title}: {excess}")));
                rows.push(row);
            }
            Err(refusal) => wrong.push(format!("{title}: {refusal:#}")),
        }
    }
    wrong.extend(
        budget::stale(&kernel.programs()).map(|gone| {
            format!("{gone} has an exception from the budget, but the object has no such program")
        }),
    );
    if rows.is_empty() && wrong.is_empty() {
        wrong.push(format!("{title}: the object has no programs"));
    }
    print(title, &rows).context("cannot print the table")?;
    Ok(wrong)
}

fn look(kernel: &Kernel, program: &str) -> Result<Row> {
    let loaded = kernel.load(program)?;
    let statistics = Statistics::parse(&loaded.log).with_context(|| {
        format!("the verifier's statistics of {program} are not as expected: {}", loaded.log)
    })?;
    Ok(Row { program: program.to_owned(), hook: loaded.hook, instructions: loaded.instructions, statistics })
}

fn print(title: &str, rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{title}")?;
    writeln!(
        out,
        "  {:<14} {:<24} {:>12} {:>9} {:>7}  {:<6} {:>9}  {:>5} {:<}",
        "program", "hook", "instructions", "processed", "budget", "", "µs", "stack", "of each function"
    )?;
    for row in rows {
        let budget = row.budget();
        let Statistics { processed, ref stacks, microseconds } = row.statistics;
        let each: Vec<_> = stacks.iter().map(u32::to_string).collect();
        writeln!(
            out,
            "  {:<14} {:<24} {:>12} {:>9} {:>7}  {:<6} {:>9}  {:>5} {}",
            row.program,
            row.hook,
            row.instructions,
            processed,
            budget.instructions,
            if budget.allows(&row.statistics) { "within" } else { "OVER" },
            microseconds,
            stacks.iter().sum::<u32>(),
            each.join("+")
        )?;
    }
    for (program, reason) in budget::reasons() {
        writeln!(out, "  {program}: {reason}")?;
    }
    writeln!(out)
}
