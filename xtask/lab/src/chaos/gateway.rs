//! Line 1: a gateway on this host dies under load and comes back, again and again.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    Plan,
    count::{allowance, losses, ms, nearest, ways},
    kernel,
    record::Outcome,
    report::Report,
    scene::{Place, Scene},
};

/// As a user would have it, but with quick probes and a short cooldown, so that the gateway is in use again before
/// each kill.
pub(super) const FAILSAFE: &str = "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
     [failsafe]\nenter_cooldown_after_attempts = 5\nexit_cooldown_after_sec = 1";

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let kills = plan.times(100, 12);
    let mut scene = Scene::set("gateway", Place::Local, FAILSAFE)?;
    let mut storm = scene.storm()?;
    let (mut deaths, mut resumed) = (Vec::new(), Vec::new());
    for round in 1..=kills {
        plan.wait_up_to(500);
        deaths.push(scene.kill_gateway()?);
        plan.wait_up_to(300);
        let listening = scene.start_gateway()?;
        let first = storm.wait_for(Outcome::Gateway, listening)?;
        resumed.push(ms(listening, first.start));
        if round % 10 == 0 {
            eprintln!("    {round} of {kills} kills");
        }
    }
    let calm = storm.stop()?;
    let lost = losses(&calm.records, &deaths);
    report.show("gateway killed (SIGKILL) and started again", format!("{kills} times"));
    report.show("connects", calm.records.len());
    report.show("through the gateway", ways(&calm.records, Outcome::Gateway));
    report.show("direct", ways(&calm.records, Outcome::Direct));
    report.show("begun over 50 ms late: the machine was busy", calm.late);
    report.at_most(
        "connects failed, SYN under way when the gateway died",
        lost.under_way.len(),
        allowance(kills),
    );
    report.at_most("connects failed at any other time", lost.outside.len(), 0);
    report.show("connections that the gateway had accepted and dropped by dying", lost.dropped.len());
    report.at_most("dropped by a living gateway, unanswered, or astray", lost.wrong.len(), 0);
    thread::sleep(Duration::from_secs(1));
    for (map, count) in kernel::entries(&scene.pins())? {
        report.show(&format!("entries of {map} when all was over"), count);
    }
    report.times("from `listening on` to the first redirected connect", &resumed, None);
    let told = lost.under_way.iter().chain(&lost.outside).chain(&lost.wrong).take(20);
    report.evidence(told.map(|record| format!("{} (from the kill)", record.tell(nearest(&deaths, record)))));
    Ok(())
}
