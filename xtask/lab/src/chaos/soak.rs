//! Line 5: everything dies, again and again, for a long time. Nothing may be lost that way, and nothing may grow.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Plan, kernel,
    record::{Outcome, now},
    report::Report,
    scene::{Place, Scene},
    toll::Toll,
};

const FAILSAFE: &str = "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
     [failsafe]\nexit_cooldown_after_sec = 1\nlease = \"1s\"";
/// Connects in the long form: in all, and through the gateway. Most go direct, since each death of the gateway is
/// followed by at least a second's cooldown.
const LEAST: usize = 500_000;
const LEAST_REDIRECTED: usize = 150_000;
/// How often descriptors are counted, and how long to wait between: a probe or somebody who asks for the status has
/// one open at times.
const READINGS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(37);
/// Growth of an agent's memory that may be an allocator's whim, KiB.
const WHIM: u64 = 512;

/// What must not grow, at a moment when nothing is in flight.
struct Weight {
    rss_kib: u64,
    descriptors: usize,
    pins: usize,
    entries: BTreeMap<String, usize>,
    reserved: u64,
    losses: Value,
}

/// What was done so far, and what has come of the connects.
#[derive(Default)]
struct Sum {
    toll: Toll,
    agent_kills: usize,
}

/// Who is killed in a part of the soak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victims {
    Both,
    /// So that the same agent can be weighed before and after.
    GatewayOnly,
}

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let seconds = plan.times(600, 15) as u64;
    let part = |percent: u64| Duration::from_millis(seconds * percent * 10);
    let mut scene = Scene::set("soak", Place::Local, FAILSAFE)?;
    let mut sum = Sum::default();

    blow(plan, &mut scene, part(20), Victims::Both, &mut sum)?;
    let warm = Weight::of(&scene)?;
    eprintln!("    warm: {} connects", sum.toll.connects);
    blow(plan, &mut scene, part(40), Victims::Both, &mut sum)?;
    let middle = Weight::of(&scene)?;
    eprintln!("    the agent is left alone from here on: {} connects", sum.toll.connects);
    blow(plan, &mut scene, part(40), Victims::GatewayOnly, &mut sum)?;
    let end = Weight::of(&scene)?;

    report.show("length", format!("{seconds} s"));
    let (connects, redirected) = (sum.toll.connects, sum.toll.gateway);
    if report.is_brief() {
        report.show("connects in all", connects);
        report.show("of these redirected", redirected);
    } else {
        report.holds("connects in all", connects, &format!("at least {LEAST}"), connects >= LEAST);
        let limit = format!("at least {LEAST_REDIRECTED}");
        report.holds("of these redirected", redirected, &limit, redirected >= LEAST_REDIRECTED);
    }
    report.show("gateway killed", format!("{} times", sum.toll.deaths()));
    report.show("agent killed", format!("{} times", sum.agent_kills));
    sum.toll.tell(report);
    weigh(report, &warm, &middle, &end);
    Ok(())
}

/// Lets the storm blow for so long, with kills.
fn blow(plan: &mut Plan, scene: &mut Scene, time: Duration, victims: Victims, sum: &mut Sum) -> Result<()> {
    let mut storm = scene.storm()?;
    let end = now() + time.as_nanos() as u64;
    let mut deaths = Vec::new();
    while now() < end {
        // The first round kills both, so that the short form does so at least once.
        let first = sum.toll.connects == 0 && deaths.is_empty();
        let agent = first || victims == Victims::Both && plan.random.u8(..3) == 0;
        let gateway = first || !agent || plan.random.bool();
        plan.wait_up_to(1500);
        if agent {
            scene.kill_agent()?;
            sum.agent_kills += 1;
        }
        if gateway {
            deaths.push(scene.kill_gateway()?);
        }
        // Sometimes longer than the lease.
        plan.wait_up_to(2000);
        let agent_first = plan.random.bool();
        if agent && agent_first {
            scene.start_agent()?;
        }
        if gateway {
            scene.start_gateway()?;
        }
        if agent && !agent_first {
            scene.start_agent()?;
        }
        if plan.random.bool() {
            storm.wait_for(Outcome::Gateway, now())?;
        }
    }
    // In use again, so that those weighed next are in the same state each time.
    storm.wait_for(Outcome::Gateway, now())?;
    let calm = storm.stop()?;
    sum.toll.add(&calm, &deaths);
    Ok(())
}

fn weigh(report: &mut Report, warm: &Weight, middle: &Weight, end: &Weight) {
    let grown = end.rss_kib.saturating_sub(middle.rss_kib);
    let rss = format!("{} KiB, then {} KiB", middle.rss_kib, end.rss_kib);
    if report.is_brief() {
        report.show("memory of the same agent (VmRSS)", rss);
    } else {
        let limit = format!("{WHIM} KiB more");
        report.holds("memory of the same agent (VmRSS)", rss, &limit, grown <= WHIM);
    }
    let mut steady = |what: &str, before: u64, after: u64| {
        report.holds(what, format!("{before}, then {after}"), "no more", after <= before);
    };
    steady("descriptors of the same agent", middle.descriptors as u64, end.descriptors as u64);
    steady("descriptors of the agent", warm.descriptors as u64, end.descriptors as u64);
    steady("pins", warm.pins as u64, end.pins as u64);
    steady("sockhash slots reserved", warm.reserved, end.reserved);
    for (map, count) in &end.entries {
        let before = warm.entries.get(map).copied().unwrap_or(0);
        steady(&format!("entries of {map}"), before as u64, *count as u64);
    }
    for (name, count) in end.losses.as_object().into_iter().flatten() {
        report.show(&format!("losses.{name}"), count);
    }
}

impl Weight {
    fn of(scene: &Scene) -> Result<Self> {
        scene.ready()?;
        // What looks at the gateway's processes does so once a second.
        thread::sleep(Duration::from_secs(2));
        let pid = scene.agent.as_ref().context("no agent runs")?.id();
        let status = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&status).with_context(|| format!("cannot read {status}"))?;
        let rss =
            text.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let pins = scene.pins();
        Ok(Self {
            rss_kib: rss.with_context(|| format!("{status} has no VmRSS"))?,
            descriptors: descriptors(pid)?,
            pins: kernel::below(&pins)?.len(),
            entries: kernel::entries(&pins)?,
            reserved: kernel::reserved(&pins)?,
            losses: scene.status()?["losses"].clone(),
        })
    }
}

/// What an agent has open all the time.
fn descriptors(pid: u32) -> Result<usize> {
    let fds = format!("/proc/{pid}/fd");
    let mut least = usize::MAX;
    for _ in 0..READINGS {
        thread::sleep(BETWEEN);
        let open = fs::read_dir(&fds).with_context(|| format!("cannot read {fds}"))?.count();
        least = least.min(open);
    }
    Ok(least)
}
