//! `lunar-lab`: the processes that play a part in the lab.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lunar_lab::bench::Bench;
use lunar_lab::chaos::Chaos;
use lunar_lab::demo::Demo;
use lunar_lab::janitor::Janitor;
use lunar_lab::role::client::Step;
use lunar_lab::role::provider::Provider;
use lunar_lab::verify::Verify;

mod selftest;

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer calls and say who was called, and from where
    Provider(Provider),
    /// Call a provider and say, in JSON, what came of it
    #[command(subcommand)]
    Client(Step),
    /// Measure what a connect costs, what the agent takes at rest, and how it copes with many targets
    Bench(Bench),
    /// Kill, break, restart and upgrade under load, and count what was lost
    Chaos(Chaos),
    /// Show the main job: redirect, fail over, come back
    Demo(Demo),
    /// Load every kernel program, say what the verifier had to do for it, and compare with its budget
    Verify(Verify),
    /// Remove a lab when its process is gone
    #[command(hide = true)]
    Janitor(Janitor),
    /// Make a lab, say what is in it, and wait to be killed
    #[command(hide = true)]
    SelftestHold,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Provider(provider) => provider.run(),
        Command::Client(step) => step.run(),
        Command::Bench(bench) => bench.run(),
        Command::Chaos(chaos) => chaos.run(),
        Command::Demo(demo) => demo.run(),
        Command::Verify(verify) => verify.run(),
        Command::Janitor(janitor) => janitor.run(),
        Command::SelftestHold => selftest::hold(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("lunar-lab: {reason:#}");
            ExitCode::FAILURE
        }
    }
}
