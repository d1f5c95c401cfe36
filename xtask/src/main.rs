//! `cargo xtask`: everything that is done to this repository, on any machine that has Rust.

mod docs;
mod packages;
mod setup;
mod stage;
mod tasks;
mod toolchain;
mod unpacked;
mod verify;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sets up, builds, tests, measures and shows the Lunar interceptor",
    after_help = "Examples:\n  \
                  cargo xtask setup            install what is missing\n  \
                  cargo xtask demo             see the main job in half a minute\n  \
                  cargo xtask test             run every test\n  \
                  cargo xtask bench connect    measure what a connect costs\n  \
                  cargo xtask chaos --brief    kill and restart under load, and count what was lost"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing and record how the kernel crate is built
    #[command(after_help = "Examples:\n  cargo xtask setup\n  cargo xtask setup --check")]
    Setup {
        /// Change nothing; exit 1 and name what is missing
        #[arg(long)]
        check: bool,
    },
    /// Build the workspace, and with it the kernel crate
    #[command(after_help = "Examples:\n  cargo xtask build\n  cargo xtask build --release")]
    Build {
        /// Build with optimisations, into target/release
        #[arg(long)]
        release: bool,
    },
    /// Format the workspace and the kernel crate
    #[command(after_help = "Examples:\n  cargo xtask fmt\n  cargo xtask fmt --check")]
    Fmt {
        /// Change nothing; exit 1 when something is not formatted
        #[arg(long)]
        check: bool,
    },
    /// Run clippy over the workspace and the kernel crate, warnings denied
    Lint,
    /// Check that the commands, configurations and links in the documentation are real
    Docs,
    /// Run every test; needs root for those of the kernel programs
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test failsafe")]
    Test {
        /// Run only the tests whose name contains this
        filter: Option<String>,
    },
    /// Load every kernel program and compare what the verifier has to do for it with its budget; needs root
    Verify,
    /// Run what CI runs: fmt --check, lint, docs, verify, test, chaos --brief
    Ci,
    /// Show the main job in namespaces of its own: redirect, fail over, come back
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed on to `lunar-lab demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Kill, break, restart and upgrade under load, and count what was lost; `chaos --help` tells more
    #[command(disable_help_flag = true)]
    Chaos {
        /// Passed on to `lunar-lab chaos`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure: `bench connect`, `bench dns`, `bench relay`, `bench rest` or `bench load`; `bench --help` tells more
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on to `lunar-lab bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    // Not by returning the error: that would print a backtrace where RUST_BACKTRACE is set for the tests.
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup { check: true } => setup::check(),
        Task::Setup { check: false } => setup::run(),
        Task::Build { release } => tasks::build(release),
        Task::Fmt { check } => tasks::fmt(check),
        Task::Lint => tasks::lint(),
        Task::Docs => tasks::docs(),
        Task::Test { filter } => tasks::test(filter.as_deref()),
        Task::Verify => verify::run(),
        Task::Ci => tasks::ci(),
        Task::Demo { args } => tasks::lab("demo", &args),
        Task::Chaos { args } => tasks::lab("chaos", &args),
        Task::Bench { args } => tasks::lab("bench", &args),
    }
}
