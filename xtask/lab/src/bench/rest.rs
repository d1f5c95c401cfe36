//! `bench rest`: what the agent takes while nothing happens.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::{
    field::{Field, Setup},
    machine,
};

#[derive(Debug, Args)]
pub(super) struct Rest {
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How long the agent is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// After the start, before the watch begins.
const CALM: Duration = Duration::from_secs(5);

/// What `/proc/PID` says of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// On a CPU, nanoseconds.
    pub(super) cpu_ns: u64,
    /// User and system time, clock ticks.
    ticks: u64,
    /// Times it went to sleep by itself: as often it was woken.
    wake_ups: u64,
}

impl Rest {
    pub(super) fn run(&self) -> Result<()> {
        let field = Field::new("rest")?;
        let gateway = field.lab.cgroup("gateway")?;
        let _listener = field.listener(&field.host, &gateway, &["203.0.113.1:8000"])?;
        let agent = field.agent(&Setup {
            name: "rest",
            endpoint: "203.0.113.1:8000",
            handoff: "original-dst",
            process: "auto",
            quiet: false,
            allow: &[],
        })?;
        let pid = agent.child.id();
        thread::sleep(CALM);
        eprintln!("watching the agent for {} s (load average {})", WATCHED.as_secs(), machine::load());
        let before = moment(pid)?;
        thread::sleep(WATCHED);
        let after = moment(pid)?;
        let status = read(pid, "status")?;
        let [rss, anon, file] = ["VmRSS", "RssAnon", "RssFile"].map(|name| field_of(&status, name));
        let (rss, anon, file) = (rss?, anon?, file?);
        let cpu_ns = after.cpu_ns - before.cpu_ns;
        let share = cpu_ns as f64 / WATCHED.as_nanos() as f64 * 100.0;
        let tick_ms =
            1000 / nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100).max(1) as u64;
        let ticks_ms = (after.ticks - before.ticks) * tick_ms;
        let wake_ups = after.wake_ups - before.wake_ups;
        let mib = rss as f64 / 1024.0;
        println!(
            "agent at rest, {} s, one target, one endpoint, default intervals; load average {}\n\
             resident memory   {mib:.2} MiB (VmRSS {rss} kB: RssAnon {anon} kB, RssFile {file} kB)   aim: under 10 MiB\n\
             CPU               {:.2} ms a minute, {share:.4} % of a core (utime + stime: {ticks_ms} ms)   aim: under 0.1 %\n\
             wake-ups          {wake_ups} a minute",
            WATCHED.as_secs(),
            machine::load(),
            cpu_ns as f64 / 1e6,
        );
        super::write_json(
            self.json.as_deref(),
            &json!({
                "machine": machine::describe(), "load_average": machine::load(), "seconds": WATCHED.as_secs(),
                "vm_rss_kb": rss, "rss_anon_kb": anon, "rss_file_kb": file, "cpu_ns": cpu_ns,
                "cpu_percent_of_a_core": share, "utime_stime_ms": ticks_ms, "wake_ups": wake_ups,
                "aims": {"vm_rss_below_10_mib": mib < 10.0, "cpu_below_0.1_percent": share < 0.1},
            }),
        )
    }
}

/// Sums over the threads of a process.
pub(super) fn moment(pid: u32) -> Result<Moment> {
    let mut sum = Moment { cpu_ns: 0, ticks: 0, wake_ups: 0 };
    let dir = format!("/proc/{pid}/task");
    for thread in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}: has the agent died?"))? {
        let tid: u32 = thread?.file_name().to_string_lossy().parse().context("a thread's id")?;
        let schedstat = read(tid, "schedstat")?;
        sum.cpu_ns += number(schedstat.split(' ').next())?;
        sum.wake_ups += field_of(&read(tid, "status")?, "voluntary_ctxt_switches")?;
    }
    // The name of the program, in brackets, may hold blanks. Of a process, so with all its threads (proc_pid_stat(5)).
    let stat = read(pid, "stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    sum.ticks = number(fields.get(11).copied())? + number(fields.get(12).copied())?;
    Ok(sum)
}

pub(super) fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

/// A number of `/proc/PID/status` or a file like it.
pub(super) fn field_of(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    number(line.and_then(|line| line.split_whitespace().next())).with_context(|| name.to_owned())
}

fn number(text: Option<&str>) -> Result<u64> {
    text.context("missing in /proc")?.trim().parse().context("not a number in /proc")
}
