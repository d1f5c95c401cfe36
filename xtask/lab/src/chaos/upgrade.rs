//! Line 4: restart, upgrade and reload are no event for an application: every connect is redirected, none fails.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{
    Plan,
    count::{ms, ways},
    record::{Outcome, now},
    report::Report,
    scene::{Place, Scene},
};

/// The default.
const LEASE: &str = "3s";
/// In the short form: a restart that takes longer than the lease misses connects, and how long one takes is a matter of
/// speed, which is not judged there.
const LONG_LEASE: &str = "60s";
const SOON: Duration = Duration::from_secs(20);

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let times = plan.times(50, 5);
    let lease = if report.is_brief() { LONG_LEASE } else { LEASE };
    report.show("lease", lease);
    let mut scene = Scene::set("upgrade", Place::Local, &failsafe(lease, 10))?;
    let copy = scene.copy_of_agent()?;

    phase(plan, report, &mut scene, "agent restarted (SIGTERM, start)", times, |scene, _| {
        scene.stop_agent()?;
        scene.start_agent()?;
        scene.ready()
    })?;
    phase(
        plan,
        report,
        &mut scene,
        "agent upgraded (SIGTERM, start of another binary)",
        times,
        |scene, round| {
            scene.stop_agent()?;
            if round % 2 == 1 {
                scene.start_agent_from(&copy)?
            } else {
                scene.start_agent()?
            };
            scene.ready()
        },
    )?;
    let times = plan.times(50, 6);
    phase(plan, report, &mut scene, "configuration changed, `lunar-agent reload`", times, |scene, round| {
        change(scene, lease, round)?;
        let output = scene.run(&["reload"])?;
        if !output.status.success() {
            bail!("`lunar-agent reload` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    })?;
    phase(plan, report, &mut scene, "configuration changed, SIGHUP", times, |scene, round| {
        change(scene, lease, round)?;
        let agent = scene.agent.as_mut().context("no agent runs")?;
        let mark = agent.mark();
        agent.signal(Signal::SIGHUP)?;
        let said = agent.wait_for_line_after(mark, "reloaded", SOON)?;
        if said.contains("not reloaded") {
            bail!("SIGHUP: {said}");
        }
        Ok(())
    })
}

fn failsafe(lease: &str, cooldown: usize) -> String {
    format!(
        "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
         [failsafe]\nlease = {lease:?}\nexit_cooldown_after_sec = {cooldown}"
    )
}

/// Another cooldown, another entry, another port: each time something that makes new programs and tables.
fn change(scene: &Scene, lease: &str, round: usize) -> Result<()> {
    scene.configure(&format!(
        "{}\n[policy]\nblock = [\"192.0.2.{}\"]\nports = [80, 443, {}]",
        failsafe(lease, 2 + round % 2),
        round % 200,
        8100 + round % 100,
    ))
}

/// Does something many times under load, which nobody may notice.
fn phase(
    plan: &mut Plan,
    report: &mut Report,
    scene: &mut Scene,
    what: &str,
    times: usize,
    mut work: impl FnMut(&mut Scene, usize) -> Result<()>,
) -> Result<()> {
    let mut storm = scene.storm()?;
    let (mut begun, mut took) = (Vec::new(), Vec::new());
    for round in 1..=times {
        plan.wait_up_to(300);
        let start = now();
        work(scene, round).with_context(|| format!("{what}, round {round}"))?;
        begun.push(start);
        took.push(ms(start, now()));
        if round % 10 == 0 {
            eprintln!("    {what}: {round} of {times}");
        }
    }
    // At least one that began after the last of it.
    storm.wait_for(Outcome::Gateway, now())?;
    let calm = storm.stop()?;
    let odd: Vec<_> = calm.records.iter().filter(|r| r.outcome != Outcome::Gateway).collect();
    let missed = ways(&calm.records, Outcome::Direct);
    report.show(what, format!("{times} times, {} connects", calm.records.len()));
    report.at_most(&format!("{what}: failed"), odd.len() - missed, 0);
    report.at_most(&format!("{what}: missed (not seen to come from the gateway)"), missed, 0);
    report.times(&format!("{what}: until it was done"), &took, None);
    report.evidence(odd.iter().take(20).map(|record| {
        let origin = begun.iter().copied().min_by_key(|b| b.abs_diff(record.start));
        format!(
            "{what}: {} (from the nearest of its beginnings)",
            record.tell(origin.unwrap_or(record.start))
        )
    }));
    Ok(())
}
