//! Line 4: restart, upgrade and reload are no event for an application: every connect is redirected, none fails.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{
    Plan, STEADY,
    count::{add_growth, ms, ways},
    delay::Delay,
    record::{Outcome, now},
    report::Report,
    scene::{Place, Scene},
};
use crate::bpf;

/// The default.
const LEASE: &str = "3s";
const HEALTH: &str = "[gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n[failsafe]\n";
/// In the short form: a restart that takes longer than the lease misses connects, and how long one takes is a matter of
/// speed, which is not judged there.
const LONG_LEASE: &str = "60s";
const SOON: Duration = Duration::from_secs(20);

/// How the failsafe is set in all of this.
#[derive(Clone, Copy)]
struct Manner {
    health: &'static str,
    lease: &'static str,
}

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let times = plan.times(50, 5);
    let manner = if report.is_brief() {
        Manner { health: STEADY, lease: LONG_LEASE }
    } else {
        Manner { health: HEALTH, lease: LEASE }
    };
    report.show("lease", manner.lease);
    let mut scene = Scene::set("upgrade", Place::Local, &manner.failsafe(10))?;
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
    let moves = plan.times(10, 2);
    phase(plan, report, &mut scene, "agent of another ABI (SIGTERM, start)", moves, |scene, _| {
        scene.stop_agent()?;
        // Only the folder's name tells of what version pins are.
        let (pins, other) = (scene.pins().join(bpf::ABI), scene.pins().join("v0"));
        fs::rename(&pins, &other).with_context(|| format!("cannot rename {}", pins.display()))?;
        scene.start_agent()?;
        scene.ready()?;
        let agent = scene.agent.as_ref().context("no agent runs")?;
        agent.wait_for_line("pins of another version removed", SOON)?;
        if other.exists() {
            bail!("{} is still there", other.display());
        }
        Ok(())
    })?;
    let times = plan.times(50, 6);
    phase(plan, report, &mut scene, "configuration changed, `lunar-agent reload`", times, |scene, round| {
        let changed = change(scene, manner, round)?;
        let output = scene.run(&["reload"])?;
        if !output.status.success() {
            bail!("`lunar-agent reload` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        match unnamed(&said, &changed) {
            Some(missing) => bail!("`lunar-agent reload` does not name {missing}: {said}"),
            None => Ok(()),
        }
    })?;
    phase(plan, report, &mut scene, "configuration changed, SIGHUP", times, |scene, round| {
        change(scene, manner, round)?;
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

impl Manner {
    fn failsafe(self, cooldown: usize) -> String {
        format!("{}lease = {:?}\nexit_cooldown_after_sec = {cooldown}", self.health, self.lease)
    }
}

/// Another cooldown, another entry, another port: each time something that makes new programs and tables. Gives the
/// keys that change, each with its new value as JSON.
fn change(scene: &Scene, manner: Manner, round: usize) -> Result<[(&'static str, String); 3]> {
    let cooldown = 2 + round % 2;
    let block = format!("[\"192.0.2.{}\"]", round % 200);
    let ports = format!("[80,443,{}]", 8100 + round % 100);
    let failsafe = manner.failsafe(cooldown);
    scene.configure(&format!("{failsafe}\n[policy]\nblock = {block}\nports = {ports}"))?;
    Ok([
        ("failsafe.exit_cooldown_after_sec", cooldown.to_string()),
        ("policy.block", block),
        ("policy.ports", ports),
    ])
}

/// The first of these changes that the agent's answer does not tell, a line each: the key, and its new value last.
fn unnamed<'a>(said: &str, changed: &'a [(&str, String)]) -> Option<&'a str> {
    let told = |(key, value): &(&str, String)| {
        let lines = said.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        lines.map(|change| format!(" {change}")).any(|change| change.ends_with(&format!(" {value}")))
    };
    changed.iter().find(|change| !told(change)).map(|(key, _)| *key)
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
    // Read before each time, because the counters of another ABI begin anew.
    let (mut given, mut before) = (BTreeMap::new(), scene.verdicts()?);
    for round in 1..=times {
        plan.wait_up_to(300);
        let verdicts = scene.verdicts()?;
        add_growth(&mut given, &before, &verdicts);
        before = verdicts;
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
    add_growth(&mut given, &before, &scene.verdicts()?);
    let odd: Vec<_> = calm.records.iter().filter(|r| r.outcome != Outcome::Gateway).collect();
    let missed = ways(&calm.records, Outcome::Direct);
    report.show(what, format!("{times} times, {} connects", calm.records.len()));
    report.at_most(&format!("{what}: failed"), odd.len() - missed, 0);
    report.at_most(&format!("{what}: missed (not seen to come from the gateway)"), missed, 0);
    if missed > 0 {
        report.evidence([format!("{what}: verdicts given meanwhile: {given:?}")]);
    }
    let mut delay = Delay::default();
    delay.add(&calm.records, &[]);
    delay.judge(report, what);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_what_changed_with_its_new_value() {
        let changed =
            [("failsafe.exit_cooldown_after_sec", "2".to_owned()), ("policy.ports", "[80,443]".to_owned())];
        let said = "reloaded\nfailsafe.exit_cooldown_after_sec: 3 → 2\npolicy.ports: [80] → [80,443]\n";
        assert_eq!(unnamed(said, &changed), None);
        assert_eq!(
            unnamed("reloaded\nfailsafe.exit_cooldown_after_sec: 2\n", &changed),
            Some("policy.ports")
        );
        assert_eq!(unnamed(&said.replace("→ 2", "→ 12"), &changed), Some("failsafe.exit_cooldown_after_sec"));
        assert_eq!(unnamed("reloaded\nnothing has changed\n", &changed[1..]), Some("policy.ports"));
    }
}
