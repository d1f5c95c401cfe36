//! `bench dns`: what it costs a target that DNS answers are read: its packets, its sends, a bulk transfer, and the verdict
//! of a connect where the policy has names.

mod far;
mod names;
mod programs;
mod report;
mod scene;
pub(super) mod traffic;
mod transfer;
mod verdicts;

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

pub(super) use far::Far;

use super::machine;
use scene::Scene;

#[derive(Debug, Args)]
pub(super) struct Dns {
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fewer rounds: rougher figures within a minute
    #[arg(long)]
    quick: bool,
}

/// How often each thing is done.
struct Rounds {
    transfers: usize,
    /// Milliseconds of one transfer.
    millis: u64,
    verdicts: usize,
    programs: usize,
}

const FULL: Rounds = Rounds { transfers: 90, millis: 100, verdicts: 60, programs: names::MOST_ROUNDS };
const QUICK: Rounds = Rounds { transfers: 8, millis: 100, verdicts: 10, programs: 10 };

impl Dns {
    pub(super) fn run(&self) -> Result<()> {
        let began = Instant::now();
        let load_before = machine::load();
        let rounds = if self.quick { QUICK } else { FULL };
        let say = |what: &str| {
            eprintln!("{:>4.0} s: {what} (load average {})", began.elapsed().as_secs_f64(), machine::load());
        };
        say("setting up");
        let mut scene = Scene::new(rounds.programs)?;
        say("bulk transfers");
        let ways = transfer::measure(&mut scene, rounds.transfers, rounds.millis)?;
        say("connects");
        let verdicts = verdicts::measure(&mut scene, rounds.verdicts)?;
        say("run-time statistics");
        let workloads = programs::workloads()?;
        // Last, because it makes every program dearer.
        let programs = programs::measure(&mut scene, &workloads, rounds.programs)?;
        scene.check()?;
        let kinds: Vec<_> = scene.places.iter().map(|place| place.kind).collect();
        let figures = report::figures(&report::Measured {
            load: [load_before, machine::load()],
            rounds: [rounds.transfers, rounds.verdicts, rounds.programs],
            millis: rounds.millis,
            ways: &ways,
            verdicts: &verdicts,
            workloads: &workloads,
            programs: &programs,
            kinds: &kinds,
        });
        print!("{}", report::table(&figures));
        super::write_json(self.json.as_deref(), &json!(figures))
    }
}
