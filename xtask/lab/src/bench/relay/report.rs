//! The figures of `bench relay`, as JSON and as tables.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::{
    CONNECTIONS, Held, Load,
    cost::Memory,
    hops::Kind,
    scene::{Cpus, Taken},
};
use crate::bench::{
    machine,
    report::{difference, ns, ratio},
    statistics::Spread,
};

/// What was measured.
pub(super) struct Measured<'a> {
    pub load: [f64; 2],
    pub rounds: usize,
    pub batch_ms: u64,
    pub cpus: &'a Cpus,
    pub kinds: &'a [Kind],
    pub measured: &'a super::Measured,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    machine: Value,
    /// Load average before and after.
    load_average: [f64; 2],
    cpus: Cpus,
    rounds: usize,
    batch_ms: u64,
    throughput: Vec<Throughput>,
    latency: Vec<Latency>,
    memory: Vec<MemoryOf>,
    aims: Vec<Aim>,
}

#[derive(Debug, Serialize)]
struct Throughput {
    load: String,
    way: Kind,
    /// On this machine, with client and gateway beside it.
    requests_per_s: Spread,
    /// By a second of CPU time of the hop; none without a hop.
    per_core: Option<Spread>,
    /// Round by round; none where there is no hop, or no HAProxy in the run.
    per_core_against_haproxy: Option<Spread>,
}

/// Microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    load: String,
    way: Kind,
    /// None where each connection is as fast as it can be.
    pace_per_s: Option<f64>,
    p50: Spread,
    p99: Spread,
    /// Round by round, over no hop; none where it is not in the run.
    p50_added: Option<Spread>,
    p99_added: Option<Spread>,
    p99_against_haproxy: Option<Spread>,
}

/// MiB.
#[derive(Debug, Serialize)]
struct MemoryOf {
    connections: usize,
    way: Kind,
    loaded: Memory,
    idle: Memory,
}

#[derive(Debug, Serialize)]
struct Aim {
    aim: String,
    at_least: Option<f64>,
    at_most: Option<f64>,
    reached: f64,
    met: bool,
}

impl Measured<'_> {
    fn place(&self, kind: Kind) -> Option<usize> {
        self.kinds.iter().position(|k| *k == kind)
    }

    /// By round, of one batch of each.
    fn series(&self, way: usize, load: Load, what: impl Fn(&Taken) -> f64) -> Vec<f64> {
        self.measured.taken.get(&(way, load)).into_iter().flatten().map(what).collect()
    }
}

fn per_core(taken: &Taken) -> f64 {
    taken.done.requests as f64 / taken.cpu
}

pub(super) fn figures(measured: &Measured<'_>) -> Figures {
    let mut figures = Figures {
        machine: machine::describe(),
        load_average: measured.load,
        cpus: measured.cpus.clone(),
        rounds: measured.rounds,
        batch_ms: measured.batch_ms,
        throughput: Vec::new(),
        latency: Vec::new(),
        memory: Vec::new(),
        aims: Vec::new(),
    };
    for load in CONNECTIONS.map(Load::AtOnce).into_iter().chain([Load::Fresh]) {
        figures.throughput.extend((0..measured.kinds.len()).map(|way| throughput(measured, way, load)));
    }
    for load in [Load::AtOnce(1), Load::Paced(64), Load::Paced(1000)] {
        figures.latency.extend((0..measured.kinds.len()).map(|way| latency(measured, way, load)));
    }
    for connections in CONNECTIONS {
        for (way, kind) in measured.kinds.iter().enumerate().filter(|(_, kind)| **kind != Kind::NoHop) {
            let Some(Held { loaded, idle }) = measured.measured.held.get(&(way, connections)) else {
                continue;
            };
            figures.memory.push(MemoryOf { connections, way: *kind, loaded: *loaded, idle: *idle });
        }
    }
    figures.aims = aims(&figures);
    figures
}

fn throughput(measured: &Measured<'_>, way: usize, load: Load) -> Throughput {
    let kind = measured.kinds[way];
    let hop = kind != Kind::NoHop;
    let rate = |taken: &Taken| taken.done.requests as f64 / taken.done.seconds;
    let cores = measured.series(way, load, per_core);
    let haproxy = measured.place(Kind::Haproxy).map(|place| measured.series(place, load, per_core));
    Throughput {
        load: name(load),
        way: kind,
        requests_per_s: Spread::of(measured.series(way, load, rate)),
        per_core: hop.then(|| Spread::of(cores.clone())),
        per_core_against_haproxy: haproxy
            .filter(|_| hop)
            .map(|haproxy| Spread::of_pairs(&cores, &haproxy, |ours, theirs| ours / theirs)),
    }
}

fn latency(measured: &Measured<'_>, way: usize, load: Load) -> Latency {
    let p50 = |way| measured.series(way, load, |taken| taken.done.p50 / 1e3);
    let p99 = |way| measured.series(way, load, |taken| taken.done.p99 / 1e3);
    let over = |ours: &[f64], theirs: &[f64]| Spread::of_pairs(ours, theirs, |l, r| l - r);
    let (none, haproxy) = (measured.place(Kind::NoHop), measured.place(Kind::Haproxy));
    let pace_per_s = match load {
        Load::Paced(connections) => measured.measured.paces.get(&connections).copied(),
        Load::AtOnce(_) | Load::Fresh => None,
    };
    Latency {
        load: name(load),
        way: measured.kinds[way],
        pace_per_s,
        p50: Spread::of(p50(way)),
        p99: Spread::of(p99(way)),
        p50_added: none.map(|none| over(&p50(way), &p50(none))),
        p99_added: none.map(|none| over(&p99(way), &p99(none))),
        p99_against_haproxy: haproxy
            .map(|haproxy| Spread::of_pairs(&p99(way), &p99(haproxy), |ours, theirs| ours / theirs)),
    }
}

/// Judged by the medians, at the precision that is shown.
fn aims(figures: &Figures) -> Vec<Aim> {
    const MEMORY: f64 = 30.0;
    let relay = |way: &Kind| *way == Kind::Relay;
    let mut aims = Vec::new();
    for t in figures.throughput.iter().filter(|t| relay(&t.way)) {
        let Some(against) = t.per_core_against_haproxy else { continue };
        let reached = against.median;
        let aim = format!("{}: requests per core, against HAProxy", t.load);
        aims.push(Aim { aim, at_least: Some(1.0), at_most: None, reached, met: reached >= 1.0 });
    }
    for l in figures.latency.iter().filter(|l| relay(&l.way)) {
        let Some(against) = l.p99_against_haproxy else { continue };
        let reached = against.median;
        let aim = format!("{}: p99, against HAProxy", l.load);
        aims.push(Aim { aim, at_least: None, at_most: Some(1.0), reached, met: reached <= 1.0 });
    }
    for m in figures.memory.iter().filter(|m| relay(&m.way) && m.connections == 1000) {
        let reached = m.loaded.resident.max(m.idle.resident);
        let aim = "1,000 connections: resident memory, MiB".to_owned();
        aims.push(Aim { aim, at_least: None, at_most: Some(MEMORY), reached, met: reached < MEMORY });
    }
    aims
}

fn name(load: Load) -> String {
    match load {
        Load::AtOnce(1) => "1 connection".to_owned(),
        Load::AtOnce(1000) | Load::Paced(1000) => "1,000 connections".to_owned(),
        Load::AtOnce(connections) | Load::Paced(connections) => format!("{connections} connections"),
        Load::Fresh => "a connection each".to_owned(),
    }
}

/// The figures for people.
pub(super) fn table(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, figures);
    out
}

fn write(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let Figures { machine, load_average: [before, after], cpus, .. } = figures;
    writeln!(
        out,
        "{} × {}, kernel {}; load average {before} before, {after} after\n\
         client on CPU {}, gateway on CPU {}, hops on CPUs {:?} with {} workers\n\
         {} rounds of {} ms; median over rounds (p10–p90)",
        machine["cpus"],
        machine["cpu"].as_str().unwrap_or_default(),
        machine["kernel"].as_str().unwrap_or_default(),
        cpus.client,
        cpus.gateway,
        cpus.hops,
        cpus.workers,
        figures.rounds,
        figures.batch_ms,
    )?;
    let or_none = |spread: Option<Spread>, show: fn(Spread) -> String| spread.map(show).unwrap_or_default();
    writeln!(
        out,
        "\n{:<20} {:<8} {:>22} {:>30} {:>22}",
        "As fast as it goes", "", "requests/s", "requests/s per core of the hop", "against HAProxy"
    )?;
    for t in &figures.throughput {
        writeln!(
            out,
            "{:<20} {:<8} {:>22} {:>30} {:>22}",
            t.load,
            t.way.name(),
            ns(t.requests_per_s),
            or_none(t.per_core, ns),
            or_none(t.per_core_against_haproxy, ratio)
        )?;
    }
    writeln!(
        out,
        "\n{:<20} {:<8} {:>10} {:>18} {:>18} {:>20} {:>20} {:>22}",
        "Latency, µs",
        "",
        "pace/s",
        "p50",
        "p99",
        "p50 over no hop",
        "p99 over no hop",
        "p99 against HAProxy"
    )?;
    for l in &figures.latency {
        writeln!(
            out,
            "{:<20} {:<8} {:>10} {:>18} {:>18} {:>20} {:>20} {:>22}",
            l.load,
            l.way.name(),
            l.pace_per_s.map(|pace| format!("{pace:.0}")).unwrap_or_default(),
            ns(l.p50),
            ns(l.p99),
            or_none(l.p50_added, difference),
            or_none(l.p99_added, difference),
            or_none(l.p99_against_haproxy, ratio)
        )?;
    }
    writeln!(
        out,
        "\n{:<20} {:<8} {:>14} {:>14} {:>14} {:>14}",
        "Memory, MiB", "", "VmRSS, load", "Pss, load", "VmRSS, idle", "Pss, idle"
    )?;
    for m in &figures.memory {
        writeln!(
            out,
            "{:<20} {:<8} {:>14.1} {:>14.1} {:>14.1} {:>14.1}",
            name(Load::AtOnce(m.connections)),
            m.way.name(),
            m.loaded.resident,
            m.loaded.proportional,
            m.idle.resident,
            m.idle.proportional
        )?;
    }
    if !figures.aims.is_empty() {
        writeln!(out, "\nAims")?;
    }
    for a in &figures.aims {
        let (bound, limit) = match (a.at_least, a.at_most) {
            (Some(limit), _) => ("at least", limit),
            (None, limit) => ("at most", limit.unwrap_or(f64::NAN)),
        };
        let met = if a.met { "met" } else { "NOT met" };
        writeln!(out, "{:<56} {bound:>8} {limit:>5.1}   reached {:>8.3}   {met}", a.aim, a.reached)?;
    }
    Ok(())
}
