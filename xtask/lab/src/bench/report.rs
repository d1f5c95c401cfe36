//! The figures of `bench connect`, as JSON and as a table.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::{
    connect::{Destination, Kind, Variant},
    entries::Family,
    latency::Latencies,
    machine,
    programs::Program,
    statistics::Spread,
};

/// What was measured.
pub(super) struct Measured<'a> {
    pub rounds: usize,
    pub calls: usize,
    pub load: [f64; 2],
    pub variants: &'a [Variant],
    pub latencies: &'a Latencies,
    pub programs: &'a [Program],
    pub starts: &'a [(String, f64)],
}

/// All figures; times in nanoseconds unless a name says otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Figures<'a> {
    machine: Value,
    /// Load average before and after.
    load_average: [f64; 2],
    rounds: usize,
    calls_per_batch: usize,
    connect: Vec<Cost>,
    latency: Vec<Latency>,
    programs: &'a [Program],
    start_to_ready_ms: &'a [(String, f64)],
    aims: Vec<Aim>,
}

/// The cost of one variant: medians of batches, over the rounds.
#[derive(Debug, Serialize)]
struct Cost {
    variant: String,
    destinations: Destination,
    connect: Spread,
    /// Round by round, what it takes longer than the empty program of its family (same destinations).
    connect_over_empty: Spread,
    /// socket(2), connect(2) and close(2) together.
    life: Spread,
    life_over_empty: Spread,
    #[serde(skip)]
    key: (Family, Kind, &'static str),
}

/// The latency of one way to the listener.
#[derive(Debug, Serialize)]
struct Latency {
    way: &'static str,
    p50: Spread,
    p99: Spread,
    /// socket(2), connect(2) and close(2) together.
    life_p50: Spread,
    /// Round by round, against the direct one.
    p50_ratio: Spread,
    p99_ratio: Spread,
    p50_over_direct: Spread,
    life_over_direct: Spread,
}

/// An aim and what was reached.
#[derive(Debug, Serialize)]
struct Aim {
    aim: &'static str,
    at_most: f64,
    reached: f64,
    met: bool,
}

/// A variant, for people.
pub(super) fn name(variant: &Variant) -> String {
    let family = match variant.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    match variant.kind {
        Kind::Nothing => format!("{family} nothing attached"),
        Kind::Empty => format!("{family} empty program"),
        Kind::Miss => format!("{family} miss, {} entries", variant.policy),
        Kind::Hit if variant.policy == "none" => format!("{family} hit, no allow list"),
        Kind::Hit => format!("{family} hit, {} entries", variant.policy),
    }
    .replace("addresses entries", "addresses")
    .replace("CIDRs entries", "CIDRs")
}

pub(super) fn figures<'a>(measured: &Measured<'a>) -> Figures<'a> {
    let connect: Vec<Cost> = measured.variants.iter().filter_map(|v| cost(measured.variants, v)).collect();
    let latency = latencies(measured.latencies);
    let aims = aims(&connect, &latency);
    Figures {
        machine: machine::describe(),
        load_average: measured.load,
        rounds: measured.rounds,
        calls_per_batch: measured.calls,
        connect,
        latency,
        programs: measured.programs,
        start_to_ready_ms: measured.starts,
        aims,
    }
}

fn cost(all: &[Variant], variant: &Variant) -> Option<Cost> {
    let connects = |v: &Variant| v.times.iter().map(|t| t.0.p50).collect::<Vec<_>>();
    let lives = |v: &Variant| v.times.iter().map(|t| t.1.p50).collect::<Vec<_>>();
    let empty =
        all.iter().find(|v| v.kind == Kind::Empty && v.family == variant.family && v.to == variant.to)?;
    let over = |l: f64, r: f64| l - r;
    Some(Cost {
        variant: name(variant),
        destinations: variant.to,
        connect: Spread::of(connects(variant)),
        connect_over_empty: Spread::of_pairs(&connects(variant), &connects(empty), over),
        life: Spread::of(lives(variant)),
        life_over_empty: Spread::of_pairs(&lives(variant), &lives(empty), over),
        key: (variant.family, variant.kind, variant.policy),
    })
}

fn latencies(latencies: &Latencies) -> Vec<Latency> {
    let Some(direct) = latencies.all.first() else { return Vec::new() };
    type Pick = fn(&super::worker::Times) -> f64;
    let p50: Pick = |t| t.connect.p50;
    let p99: Pick = |t| t.connect.p99;
    let life: Pick = |t| t.life.p50;
    let list = |l: &super::latency::Latency, pick: Pick| l.times.iter().map(pick).collect::<Vec<_>>();
    latencies
        .all
        .iter()
        .map(|l| {
            let against = |pick: Pick, what: fn(f64, f64) -> f64| {
                Spread::of_pairs(&list(l, pick), &list(direct, pick), what)
            };
            Latency {
                way: l.name,
                p50: Spread::of(list(l, p50)),
                p99: Spread::of(list(l, p99)),
                life_p50: Spread::of(list(l, life)),
                p50_ratio: against(p50, |l, r| l / r),
                p99_ratio: against(p99, |l, r| l / r),
                p50_over_direct: against(p50, |l, r| l - r),
                life_over_direct: against(life, |l, r| l - r),
            }
        })
        .collect()
}

fn aims(costs: &[Cost], latency: &[Latency]) -> Vec<Aim> {
    let over_empty = |family, kind, policy| {
        costs
            .iter()
            .find(|c| c.key == (family, kind, policy) && c.destinations == Destination::Steady)
            .map(|c| c.connect_over_empty.median)
    };
    let ratio = latency.get(1).map(|l| l.p50_ratio.median);
    [
        (
            "miss, 100,000 addresses: ns over an empty hook",
            60.0,
            over_empty(Family::V4, Kind::Miss, "100,000 addresses"),
        ),
        (
            "miss, 100,000 CIDRs: ns over an empty hook",
            150.0,
            over_empty(Family::V4, Kind::Miss, "100,000 CIDRs"),
        ),
        ("hit: ns over an empty hook", 200.0, over_empty(Family::V4, Kind::Hit, "none")),
        ("p50 of a redirected TCP connect against direct", 1.02, ratio),
    ]
    .into_iter()
    .filter_map(|(aim, at_most, reached)| {
        reached.map(|reached| Aim { aim, at_most, reached, met: reached <= at_most })
    })
    .collect()
}

/// The figures for people; whether an aim is met is judged by the unrounded figure.
pub(super) fn table(figures: &Figures<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, figures);
    out
}

fn write(out: &mut String, figures: &Figures<'_>) -> std::fmt::Result {
    let Figures { machine, load_average: [before, after], rounds, calls_per_batch, .. } = figures;
    writeln!(
        out,
        "{} × {}, kernel {}, clock {}; load average {before} before, {after} after\n\
         {rounds} rounds over all variants in random order; ns; median over rounds (p10–p90)",
        machine["cpus"],
        machine["cpu"].as_str().unwrap_or_default(),
        machine["kernel"].as_str().unwrap_or_default(),
        machine["clock"].as_str().unwrap_or_default(),
    )?;
    for (to, title) in [
        (Destination::Steady, "random destinations, steady"),
        (Destination::Cold, "random destinations, tables not in the caches"),
        (Destination::Same, "always the same destination"),
    ] {
        writeln!(out, "\nconnect(2), {title}, {calls_per_batch} calls a batch")?;
        writeln!(
            out,
            "{:<34} {:>20} {:>22} {:>20} {:>22}",
            "", "connect(2)", "over empty program", "socket+connect+close", "over empty program"
        )?;
        for c in figures.connect.iter().filter(|c| c.destinations == to) {
            writeln!(
                out,
                "{:<34} {:>20} {:>22} {:>20} {:>22}",
                c.variant,
                ns(c.connect),
                difference(c.connect_over_empty),
                ns(c.life),
                difference(c.life_over_empty)
            )?;
        }
    }
    writeln!(out, "\nTCP connect until established, to a listener on this host")?;
    writeln!(
        out,
        "{:<28} {:>22} {:>24} {:>24} {:>24} {:>24} {:>22}",
        "",
        "p50",
        "p50 against direct",
        "p50 over direct",
        "p99",
        "p99 against direct",
        "whole life over direct"
    )?;
    for l in &figures.latency {
        writeln!(
            out,
            "{:<28} {:>22} {:>24} {:>24} {:>24} {:>24} {:>22}",
            l.way,
            ns(l.p50),
            ratio(l.p50_ratio),
            difference(l.p50_over_direct),
            ns(l.p99),
            ratio(l.p99_ratio),
            difference(l.life_over_direct)
        )?;
    }
    writeln!(out, "\nThe kernel's run-time statistics (its own timing included: see the empty program)")?;
    writeln!(out, "{:<34} {:<16} {:>18} {:>22}", "", "program", "runs per connect", "ns per run")?;
    for p in figures.programs {
        writeln!(out, "{:<34} {:<16} {:>18.2} {:>22}", p.workload, p.program, p.runs_per_connect, ns(p.ns))?;
    }
    writeln!(out, "\nAgent, from start to ready")?;
    for (agent, ms) in figures.start_to_ready_ms.iter().filter(|(name, _)| name.starts_with("miss")) {
        writeln!(out, "{agent:<34} {ms:>9.0} ms")?;
    }
    writeln!(out, "\nAims")?;
    for a in &figures.aims {
        let met = if a.met { "met" } else { "NOT met" };
        writeln!(out, "{:<50} at most {:>6}   reached {:>9.4}   {met}", a.aim, a.at_most, a.reached)?;
    }
    Ok(())
}

pub(super) fn ns(s: Spread) -> String {
    format!("{:.0} ({:.0}–{:.0})", s.median, s.p10, s.p90)
}

pub(super) fn difference(s: Spread) -> String {
    format!("{:+.0} ({:+.0}–{:+.0})", s.median, s.p10, s.p90)
}

pub(super) fn ratio(s: Spread) -> String {
    format!("{:.4} ({:.3}–{:.3})", s.median, s.p10, s.p90)
}
