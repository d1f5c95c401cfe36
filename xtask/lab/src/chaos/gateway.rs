//! Line 1: a gateway on this host dies under load and comes back, again and again.

use anyhow::Result;

use super::{
    Plan,
    count::ms,
    kernel,
    record::Outcome,
    report::Report,
    scene::{Place, Scene},
    toll::Toll,
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
    let mut toll = Toll::default();
    toll.add(&calm, &deaths);
    report.show("gateway killed (SIGKILL) and started again", format!("{kills} times"));
    report.show("connects", toll.connects);
    report.show("through the gateway", toll.gateway);
    toll.tell(report);
    let pins = scene.pins();
    for map in kernel::entries(&pins)?.into_keys() {
        let left = || Ok(kernel::entries(&pins)?.get(&map).copied().unwrap_or(0));
        let what = format!("entries of {map} when all was over");
        if map == "RECORDS" {
            // None outlives its connection, so not one may stay.
            report.at_most(&what, kernel::until_none(left)?, 0);
        } else {
            report.show(&what, left()?);
        }
    }
    report.times("from `listening on` to the first redirected connect", &resumed, None);
    Ok(())
}
