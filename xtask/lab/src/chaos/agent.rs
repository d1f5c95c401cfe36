//! Line 3: the agent dies under load, and the gateway lives.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    Plan, STEADY,
    count::{add_growth, ms, ways},
    delay::Delay,
    kernel,
    record::Outcome,
    report::Report,
    scene::{Place, Scene},
};

/// ns; short, to be quick.
const LEASE: u64 = 1_000_000_000;
const HEALTH: &str = "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n[failsafe]\n";

/// One death of the agent; times in ns.
struct Death {
    killed: u64,
    last_heartbeat: u64,
    started: u64,
    redirected: u64,
}

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let kills = plan.times(50, 6);
    let health = if report.is_brief() { STEADY } else { HEALTH };
    let mut scene = Scene::set("agent", Place::Local, &format!("{health}lease = \"1s\""))?;
    let verdicts = scene.verdicts()?;
    let mut storm = scene.storm()?;
    let mut deaths = Vec::new();
    for round in 1..=kills {
        plan.wait_up_to(500);
        let killed = scene.kill_agent()?;
        let last_heartbeat = kernel::last_heartbeat(&scene.pins())?;
        storm.wait_for(Outcome::Direct, killed.to)?;
        plan.wait_up_to(300);
        let started = scene.start_agent()?;
        let redirected = storm.wait_for(Outcome::Gateway, started)?.start;
        scene.ready()?;
        deaths.push(Death { killed: killed.from, last_heartbeat, started, redirected });
        if round % 10 == 0 {
            eprintln!("    {round} of {kills} kills");
        }
    }
    let calm = storm.stop()?;
    let bad: Vec<_> = calm.records.iter().filter(|record| !record.is_good()).collect();
    report.show("agent killed (SIGKILL) and started again", format!("{kills} times, lease 1 s"));
    report.show("connects", calm.records.len());
    report.show("through the gateway", ways(&calm.records, Outcome::Gateway));
    report.show("direct", ways(&calm.records, Outcome::Direct));
    report.show("begun over 50 ms late: the machine was busy", calm.late);
    report.at_most("failed", bad.len(), 0);
    let mut delay = Delay::default();
    delay.add(&calm.records, &[]);
    delay.judge(report, "good connects");

    let (mut early, mut to_direct, mut to_last) = (0, Vec::new(), Vec::new());
    let mut alive = 0;
    let mut redirecting_since = 0;
    for death in &deaths {
        let between = |record: &&super::record::Record| (death.killed..death.started).contains(&record.start);
        let first = calm.records.iter().filter(between).filter(|r| r.outcome == Outcome::Direct);
        // A connect may begin before the lease ends and be judged after; one that is over by then was judged early.
        early += first.clone().filter(|r| r.connected() < death.last_heartbeat + LEASE).count();
        to_direct.extend(first.map(|r| r.start).min().map(|start| ms(death.last_heartbeat + LEASE, start)));
        let last = calm.records.iter().filter(between).filter(|r| r.outcome == Outcome::Gateway);
        to_last.extend(last.map(|r| r.start).max().map(|start| ms(death.last_heartbeat + LEASE, start)));
        alive += calm
            .records
            .iter()
            .filter(|r| (redirecting_since..death.killed).contains(&r.start) && r.outcome == Outcome::Direct)
            .count();
        redirecting_since = death.redirected;
    }
    // An agent that is kept from the CPU for most of a second cannot renew a lease of one: a matter of speed.
    if report.is_brief() {
        report.show("direct while an agent was alive", alive);
    } else {
        report.at_most("direct while an agent was alive", alive, 0);
    }
    report.at_most("direct before the lease had ended", early, 0);
    if alive > 0 || early > 0 {
        let mut given = BTreeMap::new();
        add_growth(&mut given, &verdicts, &scene.verdicts()?);
        report.evidence([format!("verdicts given meanwhile: {given:?}")]);
    }
    report.times("from the end of the lease to the first direct connect", &to_direct, Some(100.0));
    report.times("from the end of the lease to the last redirected connect", &to_last, Some(100.0));
    let restarts: Vec<_> = deaths.iter().map(|death| ms(death.started, death.redirected)).collect();
    report.times("from the start of an agent to the first redirected connect", &restarts, Some(300.0));
    report.evidence(bad.iter().take(20).map(|record| {
        let origin = deaths.iter().map(|d| d.killed).min_by_key(|k| k.abs_diff(record.start));
        format!("{} (from the kill)", record.tell(origin.unwrap_or(record.start)))
    }));
    Ok(())
}
