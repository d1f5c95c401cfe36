//! The one binary.

use std::process::ExitCode;

use clap::Parser;
use lunar_agent::cli::{Cli, exit};

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<exit::Direct>() {
                eprintln!("error: {}", exit::describe(&error));
            }
            exit::code(&error)
        }
    }
}
