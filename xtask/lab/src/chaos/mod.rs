//! What is lost while things die under load: `cargo xtask chaos`. Each scenario sets up a world of its own, lets a
//! storm of connects blow from a target, does its damage at random moments, and then counts, connect by connect, what
//! came of it. A limit that is broken is said in a sentence, and the exit code is 1.
//!
//! In the short form, which CI runs on machines that are busy with other things, only counts can break a limit: speed
//! is never asserted in tests. There, times are shown next to their limits and no more.

mod agent;
mod count;
mod delay;
mod gateway;
mod kernel;
pub(crate) mod record;
mod remote;
mod report;
mod scene;
mod soak;
mod storm;
mod toll;
mod upgrade;

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::report::Report;

const EXAMPLES: &str = "\
Examples:
  cargo xtask chaos --brief
  cargo xtask chaos --json chaos.json
  cargo xtask chaos gateway agent --seed 7";

/// `lunar-lab chaos`
#[derive(Debug, Args)]
#[command(bin_name = "cargo xtask chaos", after_help = EXAMPLES)]
pub struct Chaos {
    /// Only these; without any, all
    scenario: Vec<Scenario>,
    /// The short form: fewer rounds, under three minutes; times are shown but not judged
    #[arg(long)]
    brief: bool,
    /// Repeat the random moments of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Write the results to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A gateway on this host is killed and started again
    Gateway,
    /// A gateway elsewhere refuses, is black-holed, or hangs
    Remote,
    /// The agent is killed and started again
    Agent,
    /// The agent is restarted, upgraded, and told to reload
    Upgrade,
    /// A gateway on this host and the agent are killed at random for a long time; does anything grow?
    Soak,
}

/// What a configuration begins with, up to the table `failsafe`, where nothing but the agent's own end may send a
/// connect direct. For the short form: a gateway that is kept from the CPU for a while there would open the breaker.
const STEADY: &str = "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"5s\"\n\
     [failsafe]\nenter_cooldown_after_attempts = 100\n";

/// How often, and how randomly.
struct Plan {
    brief: bool,
    random: fastrand::Rng,
}

impl Plan {
    /// How often something is done in the long form, and in the short one.
    fn times(&self, long: usize, brief: usize) -> usize {
        if self.brief { brief } else { long }
    }

    /// Waits for a random time of so many milliseconds at most, so that what follows meets the load at any point.
    fn wait_up_to(&mut self, ms: u64) {
        std::thread::sleep(std::time::Duration::from_micros(self.random.u64(..ms * 1000)));
    }
}

impl Chaos {
    /// Runs the scenarios, with progress on standard error and the table on standard output.
    ///
    /// # Errors
    /// When a world cannot be set up, or a limit was broken.
    pub fn run(&self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        let mut report = Report::new(seed, self.brief, commit());
        let begun = Instant::now();
        eprintln!("chaos: seed {seed} (`--seed {seed}` repeats the random moments)");
        for scenario in Scenario::value_variants() {
            if !self.scenario.is_empty() && !self.scenario.contains(scenario) {
                continue;
            }
            // A seed for each, so that one alone has the moments that it has among all.
            let random = fastrand::Rng::with_seed(seed.wrapping_add(*scenario as u64));
            let mut plan = Plan { brief: self.brief, random };
            let (name, started) = (format!("{scenario:?}").to_lowercase(), Instant::now());
            eprintln!("==> {name}");
            report.begin(&name);
            match scenario {
                Scenario::Gateway => gateway::run(&mut plan, &mut report),
                Scenario::Remote => remote::run(&mut plan, &mut report),
                Scenario::Agent => agent::run(&mut plan, &mut report),
                Scenario::Upgrade => upgrade::run(&mut plan, &mut report),
                Scenario::Soak => soak::run(&mut plan, &mut report),
            }
            .with_context(|| format!("scenario {name} (seed {seed})"))?;
            eprintln!("    {name} took {:.1} s", started.elapsed().as_secs_f64());
        }
        print!("{}", report.markdown(begun.elapsed()));
        crate::bench::write_json(self.json.as_deref(), &report.json()?)?;
        for breach in &report.breaches {
            eprintln!("BROKEN: {breach}");
        }
        match report.breaches.len() {
            0 => Ok(()),
            1 => bail!("a limit was broken (seed {seed})"),
            many => bail!("{many} limits were broken (seed {seed})"),
        }
    }
}

/// Of the repository that this binary is run in; it may have been built from elsewhere, so only the table uses it.
fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--exclude=*"]).output();
    let said = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    said.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}
