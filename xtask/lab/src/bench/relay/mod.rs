//! `bench relay`: what the relay costs a request, against HAProxy and nginx as the same kind of hop, and against no hop. All are
//! there at once and measured in turn, round after round, in random order.

pub(super) mod client;
mod cost;
mod gateway;
mod hops;
mod profile;
mod report;
mod scene;

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

pub(super) use gateway::Gateway;

use self::{
    client::How,
    cost::Memory,
    hops::Kind,
    scene::{Cpus, Scene, Taken},
};
use super::machine;

#[derive(Debug, Args)]
pub(super) struct Relay {
    /// Only these; without any, all
    hop: Vec<Kind>,
    /// Let the hops use every CPU, those of the client and the gateway too, with as many workers
    #[arg(long)]
    spread: bool,
    /// Fewer and shorter rounds: rougher figures within a minute
    #[arg(long)]
    quick: bool,
    /// Measure nothing: let perf watch each hop, print its system calls for each request, and write profiles here
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Connections of the client.
const CONNECTIONS: [usize; 3] = [1, 64, 1000];
/// Requests under way at once where each has a connection of its own.
const FRESH: usize = 64;
/// What the paced requests ask of the slowest hop, of what it can do.
const PACE: f64 = 1.0 / 3.0;

/// How often, and how long each batch is, in milliseconds.
struct Rounds {
    rounds: usize,
    batch: u64,
    /// Of the batches before the rounds, from which memory is taken, and the pace.
    first: u64,
}

const FULL: Rounds = Rounds { rounds: 15, batch: 500, first: 1500 };
const QUICK: Rounds = Rounds { rounds: 4, batch: 200, first: 500 };

/// What a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    /// So many connections, each as fast as it can.
    AtOnce(usize),
    /// So many connections, at the pace.
    Paced(usize),
    /// A connection for each request.
    Fresh,
}

const LOADS: [Load; 6] =
    [Load::AtOnce(1), Load::AtOnce(64), Load::AtOnce(1000), Load::Paced(64), Load::Paced(1000), Load::Fresh];

/// What a hop holds, under load and when the load has just ended.
#[derive(Debug, Clone, Copy)]
struct Held {
    loaded: Memory,
    idle: Memory,
}

/// What was measured, by the place of the way in the scene.
#[derive(Default)]
struct Measured {
    /// By round.
    taken: BTreeMap<(usize, Load), Vec<Taken>>,
    /// By the number of connections.
    held: BTreeMap<(usize, usize), Held>,
    /// Requests a second, by the number of connections.
    paces: BTreeMap<usize, f64>,
}

impl Relay {
    pub(super) fn run(&self) -> Result<()> {
        let began = Instant::now();
        let load_before = machine::load();
        let rounds = if self.quick { QUICK } else { FULL };
        let say = |what: &str| {
            eprintln!("{:>4.0} s: {what} (load average {})", began.elapsed().as_secs_f64(), machine::load());
        };
        say("setting up");
        let kinds = if self.hop.is_empty() { Kind::value_variants() } else { &self.hop };
        let cpus = Cpus::new(self.spread)?;
        let mut scene = Scene::new(kinds, &cpus)?;
        if let Some(dir) = &self.profile {
            return profile::run(&mut scene, dir);
        }
        say("memory");
        let mut measured = Measured::default();
        measured.hold(&mut scene, rounds.first)?;
        let mut order: Vec<_> = (0..kinds.len()).flat_map(|way| LOADS.map(|load| (way, load))).collect();
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..rounds.rounds {
            say(&format!("round {round} of {}", rounds.rounds));
            random.shuffle(&mut order);
            for (way, load) in &order {
                measured.batch(&mut scene, *way, *load, rounds.batch)?;
            }
        }
        let figures = report::figures(&report::Measured {
            load: [load_before, machine::load()],
            rounds: rounds.rounds,
            batch_ms: rounds.batch,
            cpus: &cpus,
            kinds,
            measured: &measured,
        });
        print!("{}", report::table(&figures));
        super::write_json(self.json.as_deref(), &json!(figures))
    }
}

impl Measured {
    /// Memory, of processes that have never had more connections; and from the same batches, the pace.
    fn hold(&mut self, scene: &mut Scene, millis: u64) -> Result<()> {
        for (nth, way) in scene.ways.iter_mut().enumerate() {
            for connections in CONNECTIONS {
                way.open(connections)?;
                let taken = way.ask(How::AtOnce, millis)?;
                self.held.insert((nth, connections), Held { loaded: taken.memory, idle: way.memory()? });
                let pace = PACE * taken.done.requests as f64 / taken.done.seconds;
                let slowest = self.paces.entry(connections).or_insert(f64::INFINITY);
                *slowest = slowest.min(pace);
            }
            way.close()?;
        }
        Ok(())
    }

    fn batch(&mut self, scene: &mut Scene, way: usize, load: Load, millis: u64) -> Result<()> {
        let place = &mut scene.ways[way];
        let taken = match load {
            Load::AtOnce(connections) => {
                place.open(connections)?;
                place.ask(How::AtOnce, millis)?
            }
            Load::Paced(connections) => {
                let per_second = *self.paces.get(&connections).context("no pace")?;
                place.open(connections)?;
                place.ask(How::Paced { per_second }, millis)?
            }
            Load::Fresh => place.fresh(FRESH, millis)?,
        };
        place.close()?;
        self.taken.entry((way, load)).or_default().push(taken);
        Ok(())
    }
}
