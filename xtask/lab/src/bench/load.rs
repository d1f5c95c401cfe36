//! `bench load`: how long an agent takes over many targets and a large policy. Each figure is of a whole command or of a
//! start until systemd would have been told that the agent is ready.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::Signal;
use serde_json::{Map, json};

use super::{
    agent_binary,
    entries::{self, Family},
    field::Field,
    machine, rest,
    statistics::Spread,
};
use crate::{Cgroup, Child, Spawn};

#[derive(Debug, Args)]
pub(super) struct Load {
    /// Targets
    #[arg(long, default_value_t = 1000)]
    targets: usize,
    /// Policy entries: addresses and CIDRs of both families in equal parts
    #[arg(long, default_value_t = 100_000)]
    entries: usize,
    /// How often everything is done
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(60);
/// How long the agent is watched at rest.
const WATCHED: Duration = Duration::from_secs(5);

/// What agents are started with, and where they say that they are ready.
struct Bench {
    field: Field,
    _listener: Child,
    cgroups: Vec<Cgroup>,
    allow: String,
    /// As many entries, all of them names.
    names: String,
    ready: UnixDatagram,
}

/// Rows of the table: what was done, and the milliseconds of each run.
#[derive(Default)]
struct Rows(Vec<(&'static str, Vec<f64>)>);

impl Load {
    pub(super) fn run(&self) -> Result<()> {
        let bench = Bench::new(self.targets, self.entries)?;
        let mut rows = Rows::default();
        for run in 0..self.runs {
            eprintln!("run {} of {} (load average {})", run + 1, self.runs, machine::load());
            self.once(&bench, &mut rows)?;
        }
        println!(
            "{} targets, {} policy entries; {} runs; load average {}\n{:<44} {:>9} {:>9} {:>9}",
            self.targets,
            self.entries,
            self.runs,
            machine::load(),
            "ms, but for the last line",
            "median",
            "p10",
            "p90"
        );
        let mut figures = Map::new();
        for (what, values) in rows.0 {
            let spread = Spread::of(values);
            println!("{what:<44} {:>9.2} {:>9.2} {:>9.2}", spread.median, spread.p10, spread.p90);
            figures.insert(what.to_owned(), json!(spread));
        }
        super::write_json(
            self.json.as_deref(),
            &json!({
                "machine": machine::describe(), "load_average": machine::load(), "runs": self.runs,
                "targets": self.targets, "entries": self.entries, "figures": figures,
            }),
        )
    }

    fn once(&self, bench: &Bench, rows: &mut Rows) -> Result<()> {
        for (what, targets, allow) in [
            ("start: one target, no entry", 1, ""),
            ("start: one target, all entries", 1, bench.allow.as_str()),
            ("start: one target, as many names", 1, bench.names.as_str()),
            ("start: all targets, no entry", self.targets, ""),
        ] {
            bench.configure(targets, allow)?;
            let (agent, took) = bench.start()?;
            rows.add(what, took);
            bench.stop(agent)?;
            bench.agent(&["cleanup"])?;
        }
        bench.configure(self.targets, &bench.allow)?;
        rows.add("config check: all of it", bench.agent(&["config", "check"])?);
        let (agent, took) = bench.start()?;
        rows.add("start: all of it", took);
        rows.add("status -o json", bench.agent(&["status", "-o", "json"])?);
        let before = rest::moment(agent.id())?;
        thread::sleep(WATCHED);
        let after = rest::moment(agent.id())?;
        let at_rest = (after.cpu_ns - before.cpu_ns) as f64 / WATCHED.as_nanos() as f64 * 100.0;
        rows.add("reload: all programs swapped", bench.agent(&["reload"])?);
        rows.add("stop", bench.stop(agent)?);
        let (agent, took) = bench.start()?;
        rows.add("restart: all programs swapped", took);

        let names: Vec<_> = (0..self.targets).map(name).collect();
        rows.add("detach: all by name", bench.on_all("detach", &names)?);
        let selectors: Vec<_> =
            bench.cgroups.iter().map(|cgroup| format!("cgroup:{}", cgroup.path().display())).collect();
        rows.add("attach: all by selector", bench.on_all("attach", &selectors)?);
        bench.stop(agent)?;
        rows.add("cleanup", bench.agent(&["cleanup"])?);
        rows.add("CPU at rest, % of a core", at_rest);
        Ok(())
    }
}

impl Bench {
    fn new(targets: usize, entries: usize) -> Result<Self> {
        let field = Field::new("load")?;
        let gateway = field.lab.cgroup("gateway")?;
        let listener = field.listener(&field.host, &gateway, &["203.0.113.1:8000"])?;
        let cgroups =
            (0..targets).map(|n| field.lab.cgroup(&format!("load/{n}"))).collect::<Result<Vec<_>>>()?;
        let part = entries / 4;
        let blocks = [
            entries::addresses(1, Family::V4, entries - 3 * part),
            entries::addresses(2, Family::V6, part),
            entries::mixed_blocks(3, Family::V4, part),
            entries::mixed_blocks(4, Family::V6, part),
        ];
        let allow = blocks.iter().flatten().map(|block| format!("  \"{}\",\n", block.text())).collect();
        // Suffixes: exact names would be resolved, which is not the start's.
        let names = (0..entries).map(|n| format!("  \"*.n{n}.example\",\n")).collect();
        let ready = field.lab.dir().join("ready");
        let ready =
            UnixDatagram::bind(&ready).with_context(|| format!("cannot listen on {}", ready.display()))?;
        ready.set_read_timeout(Some(SOON)).context("cannot bound the wait for an agent")?;
        Ok(Self { field, _listener: listener, cgroups, allow, names, ready })
    }

    fn config(&self) -> PathBuf {
        self.field.lab.dir().join("agent.toml")
    }

    fn configure(&self, targets: usize, allow: &str) -> Result<()> {
        let dir = self.field.lab.dir();
        let targets: String = self.cgroups[..targets]
            .iter()
            .enumerate()
            .map(|(n, cgroup)| format!("[[target]]\nname = {:?}\ncgroup = {:?}\n", name(n), cgroup.path()))
            .collect();
        let text = format!(
            "[gateway]\nendpoints = [\"203.0.113.1:8000\"]\nhandoff = \"original-dst\"\n\
             [policy]\nallow = [\n{allow}]\n{targets}\
             [paths]\nsocket = {:?}\npins = {:?}\n",
            dir.join("agent.sock"),
            self.field.lab.bpffs().join("load"),
        );
        fs::write(self.config(), text).with_context(|| format!("cannot write {}", self.config().display()))
    }

    /// Starts an agent and waits until it is ready; how long that took, in ms.
    fn start(&self) -> Result<(Child, f64)> {
        self.forget_messages()?;
        let spawn = Spawn::new(agent_binary()?)
            .args(["run", "--config"])
            .args([self.config()])
            .env("NO_COLOR", "1")
            .env("NOTIFY_SOCKET", self.field.lab.dir().join("ready"))
            .netns(&self.field.host);
        let began = Instant::now();
        let agent = self.field.lab.spawn(spawn)?;
        loop {
            let mut message = [0; 256];
            let length = self.ready.recv(&mut message).with_context(|| agent.output())?;
            if message[..length].starts_with(b"READY=1") {
                return Ok((agent, ms(began)));
            }
        }
    }

    /// An agent that reloaded has said once more that it is ready.
    fn forget_messages(&self) -> Result<()> {
        self.ready.set_nonblocking(true)?;
        while self.ready.recv(&mut [0; 256]).is_ok() {}
        Ok(self.ready.set_nonblocking(false)?)
    }

    /// Stops an agent, its pins stay; how long that took, in ms.
    fn stop(&self, mut agent: Child) -> Result<f64> {
        let began = Instant::now();
        agent.signal(Signal::SIGTERM)?;
        agent.wait(SOON)?;
        Ok(ms(began))
    }

    /// A command to its end; how long it took, in ms.
    fn agent(&self, args: &[&str]) -> Result<f64> {
        let mut command = Command::new(agent_binary()?);
        command.args(args).arg("--config").arg(self.config());
        let began = Instant::now();
        let output = command.output().context("cannot run the agent's command line")?;
        let took = ms(began);
        if !output.status.success() {
            bail!("{:?} failed: {}", args.first(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(took)
    }

    fn on_all(&self, verb: &str, all: &[String]) -> Result<f64> {
        let args: Vec<_> = [verb].into_iter().chain(all.iter().map(String::as_str)).collect();
        self.agent(&args)
    }
}

impl Rows {
    fn add(&mut self, what: &'static str, value: f64) {
        match self.0.iter_mut().find(|(row, _)| *row == what) {
            Some((_, values)) => values.push(value),
            None => self.0.push((what, vec![value])),
        }
    }
}

fn name(target: usize) -> String {
    format!("t{target}")
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
