//! The figures of `bench dns`, as JSON and as tables.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::{
    programs::{Measured as Programs, Workload},
    scene::Kind,
    transfer::{COMPARED, Way},
    verdicts::Verdict,
};
use crate::bench::{
    machine,
    report::{difference, ns, ratio},
    statistics::Spread,
};

/// What was measured.
pub(super) struct Measured<'a> {
    pub load: [f64; 2],
    /// Of transfers, verdicts and programs.
    pub rounds: [usize; 3],
    pub millis: u64,
    pub ways: &'a [Way],
    pub verdicts: &'a [Verdict],
    pub workloads: &'a [Workload],
    pub programs: &'a Programs,
    /// Of the places.
    pub kinds: &'a [Kind],
}

/// All figures; times in nanoseconds unless a name says otherwise.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    machine: Value,
    /// Load average before and after.
    load_average: [f64; 2],
    transfer_rounds: usize,
    transfer_ms: u64,
    transfers: Vec<Transfer>,
    connect_rounds: usize,
    connects: Vec<Connect>,
    program_rounds: usize,
    programs: Vec<Program>,
    aims: Vec<Aim>,
}

#[derive(Debug, Serialize)]
struct Transfer {
    way: String,
    attached: Kind,
    /// The same as a line before.
    again: bool,
    gbit_per_s: Spread,
    /// Round by round, against nothing attached.
    ratio: Spread,
}

#[derive(Debug, Serialize)]
struct Connect {
    connect: String,
    ns: Spread,
    /// Round by round, over the empty program.
    over_empty: Spread,
    /// Round by round, over the same where the policy has addresses alone.
    over_addresses: Spread,
}

#[derive(Debug, Serialize)]
struct Program {
    workload: &'static str,
    program: &'static str,
    attached: Kind,
    runs: u64,
    ns: Spread,
    /// Round by round, over the empty program; none where that has no such runs.
    over_empty: Option<Spread>,
    #[serde(skip)]
    tcp: bool,
}

#[derive(Debug, Serialize)]
struct Aim {
    aim: String,
    at_most: Option<f64>,
    at_least: Option<f64>,
    reached: f64,
    met: bool,
}

pub(super) fn figures(measured: &Measured<'_>) -> Figures {
    let (transfers, connects, programs) = (transfers(measured), connects(measured), programs(measured));
    let aims = aims(&transfers, &programs);
    let [transfer_rounds, connect_rounds, program_rounds] = measured.rounds;
    Figures {
        machine: machine::describe(),
        load_average: measured.load,
        transfer_rounds,
        transfer_ms: measured.millis,
        transfers,
        connect_rounds,
        connects,
        program_rounds,
        programs,
        aims,
    }
}

fn transfers(measured: &Measured<'_>) -> Vec<Transfer> {
    let of_way = |way: &Way| {
        let line = |nth: usize| Transfer {
            way: way.to_string(),
            attached: COMPARED[nth],
            again: COMPARED[..nth].contains(&COMPARED[nth]),
            gbit_per_s: Spread::of(way.rates[nth].clone()),
            ratio: Spread::of_pairs(&way.rates[nth], &way.rates[0], |with, without| with / without),
        };
        (0..COMPARED.len()).map(line).collect::<Vec<_>>()
    };
    measured.ways.iter().flat_map(of_way).collect()
}

fn connects(measured: &Measured<'_>) -> Vec<Connect> {
    let over = |l: &[f64], r: &[f64]| Spread::of_pairs(l, r, |l, r| l - r);
    let of = |kind, hits| {
        let found = measured.verdicts.iter().find(|v| v.kind == kind && v.hits == hits);
        found.map_or(&[][..], |v| v.ns.as_slice())
    };
    let line = |v: &Verdict| {
        let what = if v.hits { "hit" } else { "miss" };
        Connect {
            connect: match v.kind {
                Kind::Empty => v.kind.name().to_owned(),
                kind => format!("{what}, policy of {}", kind.name()),
            },
            ns: Spread::of(v.ns.clone()),
            over_empty: over(&v.ns, of(Kind::Empty, false)),
            over_addresses: over(&v.ns, of(Kind::Addresses, v.hits)),
        }
    };
    measured.verdicts.iter().map(line).collect()
}

fn programs(measured: &Measured<'_>) -> Vec<Program> {
    let mut lines = Vec::new();
    for ((w, program, p), series) in measured.programs {
        let empty = measured
            .kinds
            .iter()
            .position(|kind| *kind == Kind::Empty)
            .and_then(|empty| measured.programs.get(&(*w, *program, empty)));
        lines.push(Program {
            workload: measured.workloads[*w].name,
            program,
            attached: measured.kinds[*p],
            runs: series.runs,
            ns: Spread::of(series.ns.clone()),
            over_empty: empty.map(|e| Spread::of_pairs(&series.ns, &e.ns, |l, r| l - r)),
            tcp: measured.workloads[*w].tcp,
        });
    }
    lines
}

/// Judged by the unrounded medians.
fn aims(transfers: &[Transfer], programs: &[Program]) -> Vec<Aim> {
    const NS: f64 = 5.0;
    const RATIO: f64 = 0.99;
    let ours = |kind| matches!(kind, Kind::Names | Kind::ManyNames);
    let packets =
        programs.iter().filter(|p| p.tcp && p.program == "answers" && ours(p.attached)).filter_map(|p| {
            let reached = p.over_empty?.median;
            let aim = format!("{}, policy of {}: ns over an empty program", p.workload, p.attached.name());
            Some(Aim { aim, at_most: Some(NS), at_least: None, reached, met: reached <= NS })
        });
    let carried = transfers.iter().filter(|t| ours(t.attached)).map(|t| {
        let aim = format!("{}, policy of {}: throughput against nothing attached", t.way, t.attached.name());
        let reached = t.ratio.median;
        Aim { aim, at_most: None, at_least: Some(RATIO), reached, met: reached >= RATIO }
    });
    packets.chain(carried).collect()
}

/// The figures for people.
pub(super) fn table(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, figures);
    out
}

fn write(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let Figures { machine, load_average: [before, after], .. } = figures;
    writeln!(
        out,
        "{} × {}, kernel {}; load average {before} before, {after} after\nmedian over rounds (p10–p90)",
        machine["cpus"],
        machine["cpu"].as_str().unwrap_or_default(),
        machine["kernel"].as_str().unwrap_or_default(),
    )?;
    writeln!(
        out,
        "\nRun-time statistics, {} rounds, ns per run (the kernel's own timing included: see the empty program)\n\
         {:<36} {:<10} {:<16} {:>9} {:>22} {:>22}",
        figures.program_rounds, "", "program", "policy", "runs", "ns per run", "over empty program"
    )?;
    for p in &figures.programs {
        let over =
            p.over_empty.map(|over| format!("{:+.1} ({:+.1}–{:+.1})", over.median, over.p10, over.p90));
        writeln!(
            out,
            "{:<36} {:<10} {:<16} {:>9} {:>22} {:>22}",
            p.workload,
            p.program,
            p.attached.name(),
            p.runs,
            format!("{:.1} ({:.1}–{:.1})", p.ns.median, p.ns.p10, p.ns.p90),
            over.unwrap_or_default()
        )?;
    }
    writeln!(
        out,
        "\nconnect(2), random destinations, steady, {} rounds\n{:<36} {:>22} {:>22} {:>22}",
        figures.connect_rounds, "", "ns", "over empty program", "over addresses alone"
    )?;
    for c in &figures.connects {
        let (over_empty, over_addresses) = (difference(c.over_empty), difference(c.over_addresses));
        writeln!(out, "{:<36} {:>22} {:>22} {:>22}", c.connect, ns(c.ns), over_empty, over_addresses)?;
    }
    writeln!(
        out,
        "\nBulk TCP, {} rounds of {} ms\n{:<44} {:<24} {:>22} {:>24}",
        figures.transfer_rounds, figures.transfer_ms, "", "attached", "Gbit/s", "against nothing"
    )?;
    for t in &figures.transfers {
        let rate = format!("{:.2} ({:.2}–{:.2})", t.gbit_per_s.median, t.gbit_per_s.p10, t.gbit_per_s.p90);
        let again = if t.again { ", again" } else { "" };
        let attached = format!("{}{again}", t.attached.name());
        writeln!(out, "{:<44} {attached:<24} {rate:>22} {:>24}", t.way, ratio(t.ratio))?;
    }
    writeln!(out, "\nAims")?;
    for a in &figures.aims {
        let (bound, limit) = match (a.at_most, a.at_least) {
            (Some(limit), _) => ("at most", limit),
            (_, limit) => ("at least", limit.unwrap_or(f64::NAN)),
        };
        let met = if a.met { "met" } else { "NOT met" };
        writeln!(out, "{:<86} {bound:>8} {limit:>5}   reached {:>8.4}   {met}", a.aim, a.reached)?;
    }
    Ok(())
}
