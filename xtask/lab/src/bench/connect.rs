//! `bench connect`: every variant is set up at once, then measured in turn, round after round, in random order.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context, Result};
use aya_obj::generated::{
    bpf_attach_type::{BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT},
    bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
};
use clap::Args;
use serde_json::{Value, json};

use super::{
    entries::{self, Block, Family},
    field::{Agent, Field, Setup, Worker},
    latency::{self, Latencies},
    machine,
    policies::{Destinations, Policies},
    programs::{self, Program},
    report,
    worker::{COLD, End, Job, Quantiles, STEADY, To},
};
use crate::{Cgroup, bpf};

#[derive(Debug, Args)]
pub(super) struct Connect {
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Fewer rounds: rougher figures within 40 s
    #[arg(long)]
    quick: bool,
}

/// Connects of one batch that count.
const CALLS: usize = 500;
/// Rounds over all variants.
const ROUNDS: usize = 100;
const QUICK_ROUNDS: usize = 12;

/// Where the connects of a variant go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing is attached.
    Nothing,
    /// An empty program.
    Empty,
    /// An agent's programs, which leave the connect alone.
    Miss,
    /// An agent's programs, which redirect it.
    Hit,
}

/// The destinations of a variant, and what the caches know of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Destination {
    /// Random ones, after many like them: the caches hold what a busy process leaves in them.
    Steady,
    /// Random ones, after other variants: the caches hold nothing of this one's tables.
    Cold,
    /// Always the same.
    Same,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Variant {
    pub family: Family,
    pub kind: Kind,
    /// Entries of the allow list, for people.
    pub policy: &'static str,
    /// Where its connects go.
    pub to: Destination,
    /// Which place, and what it does there.
    pub place: usize,
    pub job: Job,
    /// By round.
    pub times: Vec<(Quantiles, Quantiles)>,
}

/// A cgroup with a worker in it.
pub(super) struct Place {
    pub worker: Worker,
    pub agent: Option<Agent>,
    /// The verdict that all connects get, and how many there were.
    reason: &'static str,
    connects: u64,
    before: Value,
}

impl Place {
    pub(super) fn run(&mut self, job: &Job) -> Result<super::worker::Times> {
        self.connects += job.calls_in_all();
        self.worker.run(job)
    }

    fn check(&self) -> Result<()> {
        match &self.agent {
            Some(agent) => agent.check(&[(self.reason, self.connects)], &self.before),
            None => Ok(()),
        }
    }
}

/// Everything that is set up.
struct Bench {
    field: Field,
    places: Vec<Place>,
    variants: Vec<Variant>,
    lists: Destinations,
    /// The empty programs on `connect4` and `connect6`, and their attachment.
    empty: [(OwnedFd, OwnedFd); 2],
}

impl Connect {
    pub(super) fn run(&self) -> Result<()> {
        let began = Instant::now();
        let load_before = machine::load();
        eprintln!("setting up (load average {load_before})");
        let policies = Policies::new();
        let mut bench = Bench::new(&policies)?;
        let mut latencies = Latencies::new(&bench.field)?;
        let rounds = if self.quick { QUICK_ROUNDS } else { ROUNDS };
        bench.measure(&mut latencies, rounds, began)?;
        eprintln!("{:>4.0} s: run-time statistics", began.elapsed().as_secs_f64());
        let programs = bench.programs(&mut latencies)?;
        bench.places.iter().try_for_each(Place::check)?;
        latencies.check()?;
        let starts: Vec<_> = bench
            .places
            .iter()
            .filter_map(|p| p.agent.as_ref())
            .filter_map(|a| Some((a.target.path().file_name()?.to_str()?.to_owned(), a.start_ms)))
            .collect();
        let figures = report::figures(&report::Measured {
            rounds,
            calls: CALLS,
            load: [load_before, machine::load()],
            variants: &bench.variants,
            latencies: &latencies,
            programs: &programs,
            starts: &starts,
        });
        print!("{}", report::table(&figures));
        super::write_json(self.json.as_deref(), &json!(figures))
    }
}

impl Bench {
    fn new(policies: &Policies) -> Result<Self> {
        let field = Field::new("bench")?;
        let lists = policies.destinations(field.lab.dir())?;
        let nothing = field.lab.cgroup("nothing")?;
        let with_empty = field.lab.cgroup("empty")?;
        let empty = [BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT].map(|hook| {
            let dir = File::open(with_empty.path())?;
            let prog = bpf::load_empty(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook)?;
            let link = bpf::attach(prog.as_fd(), dir.as_fd(), hook)?;
            Ok::<_, std::io::Error>((prog, link))
        });
        let [v4, v6] = empty.map(|e| e.context("cannot attach an empty program"));
        let mut bench = Self { field, places: Vec::new(), variants: Vec::new(), lists, empty: [v4?, v6?] };
        bench.without_agent(&nothing, Kind::Nothing)?;
        bench.without_agent(&with_empty, Kind::Empty)?;
        bench.misses("1", "miss-1", &policies.one, &[Family::V4, Family::V6])?;
        bench.misses("1,000", "miss-1000", &policies.thousand, &[Family::V4, Family::V6])?;
        bench.misses("100,000 addresses", "miss-100k", &policies.addresses_v4, &[Family::V4])?;
        bench.misses("100,000 CIDRs", "miss-100k-cidr", &policies.blocks_v4, &[Family::V4])?;
        bench.misses("100,000 addresses", "miss-100k-v6", &policies.addresses_v6, &[Family::V6])?;
        bench.misses("100,000 CIDRs", "miss-100k-cidr-v6", &policies.blocks_v6, &[Family::V6])?;
        let gateway = bench.field.lab.cgroup("gateway-elsewhere")?;
        let listener =
            bench.field.listener(&bench.field.host, &gateway, &["203.0.113.1:8100", "[2001:db8::1]:8100"])?;
        // It lives as long as the lab.
        std::mem::forget(listener);
        let (misses_v4, misses_v6) = (bench.lists.misses_v4.clone(), bench.lists.misses_v6.clone());
        let members = bench.lists.members_v4.clone();
        bench.hits("none", "hit", &[], Family::V4, &misses_v4)?;
        bench.hits("100,000 addresses", "hit-100k", &policies.addresses_v4, Family::V4, &members)?;
        bench.hits("none", "hit-v6", &[], Family::V6, &misses_v6)?;
        Ok(bench)
    }

    fn without_agent(&mut self, cgroup: &Cgroup, kind: Kind) -> Result<()> {
        let place = self.place(cgroup, None, "")?;
        for family in [Family::V4, Family::V6] {
            self.variant(place, family, kind, "", &self.misses_of(family), None);
        }
        Ok(())
    }

    fn misses(
        &mut self,
        policy: &'static str,
        name: &str,
        allow: &[Block],
        families: &[Family],
    ) -> Result<()> {
        eprintln!("  agent {name}");
        let agent = self.field.agent(&Setup {
            name,
            endpoint: "203.0.113.1:8100",
            handoff: "original-dst",
            process: "none",
            quiet: false,
            allow: &entries::texts(allow),
        })?;
        let place = self.place(&agent.target.clone(), Some(agent), "policy")?;
        for family in families {
            self.variant(place, *family, Kind::Miss, policy, &self.misses_of(*family), None);
        }
        Ok(())
    }

    fn hits(
        &mut self,
        policy: &'static str,
        name: &str,
        allow: &[Block],
        family: Family,
        list: &std::path::Path,
    ) -> Result<()> {
        eprintln!("  agent {name}");
        let endpoint = match family {
            Family::V4 => "203.0.113.1:8100",
            Family::V6 => "[2001:db8::1]:8100",
        };
        let agent = self.field.agent(&Setup {
            name,
            endpoint,
            handoff: "original-dst",
            process: "none",
            quiet: true,
            allow: &entries::texts(allow),
        })?;
        let words = agent.words();
        let place = self.place(&agent.target.clone(), Some(agent), "redirected")?;
        let first = self.variants.len();
        self.variant(place, family, Kind::Hit, policy, list, Some(words));
        let (place, job) = (&mut self.places[place], &self.variants[first].job);
        if let Some(agent) = &place.agent {
            agent.wait_until_redirecting(&mut place.worker, job)?;
            place.before = agent.verdicts()?;
        }
        Ok(())
    }

    fn place(&mut self, cgroup: &Cgroup, agent: Option<Agent>, reason: &'static str) -> Result<usize> {
        let worker = self.field.worker(&self.field.void, cgroup)?;
        self.places.push(Place { worker, agent, reason, connects: 0, before: Value::Null });
        Ok(self.places.len() - 1)
    }

    fn misses_of(&self, family: Family) -> PathBuf {
        match family {
            Family::V4 => self.lists.misses_v4.clone(),
            Family::V6 => self.lists.misses_v6.clone(),
        }
    }

    /// A variant for each kind of destination.
    fn variant(
        &mut self,
        place: usize,
        family: Family,
        kind: Kind,
        policy: &'static str,
        list: &std::path::Path,
        failsafe: Option<PathBuf>,
    ) {
        for (to, list, warm_up) in [
            (Destination::Steady, To::Random(list.to_owned()), STEADY),
            (Destination::Cold, To::Random(list.to_owned()), COLD),
            (Destination::Same, To::First(list.to_owned()), COLD),
        ] {
            let job =
                Job { to: list, end: End::Unroutable, warm_up, calls: CALLS, failsafe: failsafe.clone() };
            self.variants.push(Variant { family, kind, policy, to, place, job, times: Vec::new() });
        }
    }

    fn measure(&mut self, latencies: &mut Latencies, rounds: usize, began: Instant) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(9);
        let mut order: Vec<usize> = (0..self.variants.len() + latencies.len()).collect();
        for round in 0..rounds {
            if round % (rounds / 10).max(1) == 0 {
                let seconds = began.elapsed().as_secs_f64();
                eprintln!("{seconds:>4.0} s: round {round} of {rounds} (load average {})", machine::load());
            }
            rng.shuffle(&mut order);
            for &next in &order {
                match self.variants.get_mut(next) {
                    Some(variant) => {
                        let times = self.places[variant.place].run(&variant.job)?;
                        variant.times.push((times.connect, times.life));
                    }
                    None => latencies.run(next - self.variants.len())?,
                }
            }
        }
        Ok(())
    }

    /// The kernel's own statistics; only now, because they make every program dearer.
    fn programs(&mut self, latencies: &mut Latencies) -> Result<Vec<Program>> {
        let _on = bpf::enable_statistics().context("cannot switch the kernel's run-time statistics on")?;
        let mut measured = Vec::new();
        for variant in self.variants.iter().filter(|v| v.to == Destination::Cold) {
            let place = &mut self.places[variant.place];
            let watched = match (&place.agent, variant.kind, variant.family) {
                (Some(agent), ..) => programs::of_links(&agent.links()?)?,
                (None, Kind::Empty, Family::V4) => vec![("empty".to_owned(), self.empty[0].0.try_clone()?)],
                (None, Kind::Empty, Family::V6) => vec![("empty".to_owned(), self.empty[1].0.try_clone()?)],
                _ => continue,
            };
            let workload = report::name(variant);
            measured.extend(programs::measure(&workload, watched, variant.job.calls_in_all(), || {
                place.run(&variant.job).map(drop)
            })?);
        }
        measured.extend(latency::programs(latencies)?);
        Ok(measured)
    }
}
