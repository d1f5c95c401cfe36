//! Line 2: a gateway elsewhere refuses, is black-holed, or answers the SYN and nothing more.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    Plan,
    count::{after_nth_failure, after_overdue, begun_in, ms},
    kernel,
    record::{Outcome, Record, now},
    report::Report,
    scene::{Place, Scene},
};

/// `enter_cooldown_after_attempts`
const ATTEMPTS: usize = 5;
const FAILSAFE: &str = "[gateway.health]\nkind = \"http\"\nport = 8040\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
     [failsafe]\nenter_cooldown_after_attempts = 5\nexit_cooldown_after_sec = 1";
/// As long as it takes until a health probe has failed often enough, at most, ms: each a timeout and an interval.
const PROBED: f64 = 5.0 * (200.0 + 200.0);
/// A connect that takes longer than this, from beginning to answer, was exposed to the fault, µs.
const SLOW: u32 = 150_000;
/// The oldest unanswered SYN may be this old, ns.
const OVERDUE: u64 = 200_000_000;
/// What may come on top: ticks of the kernel's coarse clock, and a client that is kept from the CPU between reading
/// its clock and connecting, ns.
const SLACK: u64 = 20_000_000;
/// A fault lasts for more than two cooldowns, so that their ends are met.
const LASTS: Duration = Duration::from_millis(3500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refused,
    BlackHoled,
    HalfDead,
}

impl Fault {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Refused, "refused (gateway killed)"),
        (Self::BlackHoled, "black-holed (its SYNs dropped)"),
        (Self::HalfDead, "SYN answered, probe never (SIGSTOP)"),
    ];
}

/// One fault; times in ns.
struct Episode {
    fault: Fault,
    from: u64,
    repaired: u64,
    redirected: u64,
}

pub(super) fn run(plan: &mut Plan, report: &mut Report) -> Result<()> {
    let rounds = plan.times(10, 2);
    let mut scene = Scene::set("remote", Place::Remote, FAILSAFE)?;
    let mut storm = scene.storm()?;
    let mut episodes = Vec::new();
    for _ in 0..rounds {
        for (fault, name) in Fault::ALL {
            eprintln!("    {name}");
            thread::sleep(Duration::from_millis(300));
            plan.wait_up_to(500);
            let from = now();
            harm(&mut scene, fault)?;
            thread::sleep(LASTS);
            plan.wait_up_to(1000);
            repair(&mut scene, fault)?;
            let repaired = now();
            let redirected = storm.wait_for(Outcome::Gateway, repaired)?.start;
            episodes.push(Episode { fault, from, repaired, redirected });
        }
    }
    let calm = storm.stop()?;
    report.show("connects", calm.records.len());
    report.show("begun over 50 ms late: the machine was busy", calm.late);
    for (fault, name) in Fault::ALL {
        let of: Vec<_> = episodes.iter().filter(|episode| episode.fault == fault).collect();
        tell(report, name, fault, &of, &calm.records);
    }
    let amid = |r: &Record| episodes.iter().any(|e| r.end() >= e.from && r.start <= e.redirected);
    let stray: Vec<_> = calm.records.iter().filter(|r| !r.is_good() && !amid(r)).collect();
    report.at_most("went wrong while there was no fault", stray.len(), 0);
    report.evidence(stray.iter().take(20).map(|r| r.tell(r.start)));
    // Sockets are given back when they close, the last ones right now.
    thread::sleep(Duration::from_millis(500));
    let reserved = usize::try_from(kernel::reserved(&scene.pins())?).unwrap_or(usize::MAX);
    report.at_most("sockhash slots still reserved when all was over", reserved, 0);
    Ok(())
}

fn harm(scene: &mut Scene, fault: Fault) -> Result<()> {
    match fault {
        Fault::Refused => scene.kill_gateway().map(drop),
        Fault::BlackHoled => scene.far.drop_tcp_to_port(8000),
        // The kernel goes on to shake hands for a stopped process, until the queue is full.
        Fault::HalfDead => signal(scene, Signal::SIGSTOP),
    }
}

fn repair(scene: &mut Scene, fault: Fault) -> Result<()> {
    match fault {
        Fault::Refused => scene.start_gateway().map(drop),
        Fault::BlackHoled => scene.far.accept_tcp_to_port(8000),
        Fault::HalfDead => signal(scene, Signal::SIGCONT),
    }
}

fn signal(scene: &mut Scene, signal: Signal) -> Result<()> {
    scene.gateway.as_mut().context("no gateway runs")?.signal(signal)
}

fn tell(report: &mut Report, name: &str, fault: Fault, episodes: &[&Episode], records: &[Record]) {
    let (mut failed, mut hung, mut direct, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut late, mut overdue) = (Vec::new(), Vec::new());
    for episode in episodes {
        // Those that had begun and were not answered when it happened are exposed too.
        let reach = begun_in(records, episode.from.saturating_sub(1_000_000_000), episode.repaired);
        let exposed = |r: &&Record| r.end() >= episode.from && (!r.is_good() || r.took_us > SLOW);
        let is_failed = |r: &&Record| matches!(r.outcome, Outcome::ConnectFailed(_));
        failed.push(reach.iter().filter(exposed).filter(is_failed).count());
        hung.push(reach.iter().filter(exposed).filter(|r| !is_failed(r)).count());
        let during = begun_in(records, episode.from, episode.repaired);
        // The first to be exposed tells when the fault took hold: several runs of `ip` make a black hole.
        let first = during.iter().filter(exposed).map(|r| r.start).min();
        let last = during.iter().filter(|r| r.outcome != Outcome::Direct).map(|r| r.start).max();
        direct.extend(first.zip(last).map(|(first, last)| ms(first, last)));
        back.push(ms(episode.repaired, episode.redirected));
        late.extend(after_nth_failure(&during, ATTEMPTS).into_iter().map(|r| (episode, r)));
        if fault == Fault::BlackHoled {
            // Only those that were not answered: the very first may have been sent before the fault took hold.
            let unanswered: Vec<_> =
                during.iter().filter(|r| r.outcome == Outcome::Direct || r.took_us > SLOW).copied().collect();
            overdue.extend(after_overdue(&unanswered, OVERDUE + SLACK).into_iter().map(|r| (episode, r)));
        }
    }
    report.show(name, format!("{} times, {} s each", episodes.len(), LASTS.as_secs_f64()));
    report.show(&format!("{name}: connects failed"), each(&failed));
    report.show(&format!("{name}: connected, and dropped, unanswered, or slower than 150 ms"), each(&hung));
    report.at_most(&format!("{name}: failed, begun when {ATTEMPTS} failures had been seen"), late.len(), 0);
    if fault == Fault::BlackHoled {
        // A matter of time, and so of the machine: shown in the short form, judged in the long.
        let what = format!("{name}: redirected, begun when the oldest SYN was over 200 ms old");
        if report.is_brief() {
            report.show(&what, overdue.len());
        } else {
            report.at_most(&what, overdue.len(), 0);
        }
    }
    let limit = match fault {
        // As soon as the fifth has failed, whenever that is: the count above is the limit.
        Fault::Refused => None,
        Fault::BlackHoled => Some((OVERDUE + SLACK) as f64 / 1e6),
        // The first probe may be an interval away.
        Fault::HalfDead => Some(PROBED + 200.0),
    };
    report.times(
        &format!("{name}: from the first connect exposed to the last one redirected"),
        &direct,
        limit,
    );
    report.times(&format!("{name}: from repair to the first redirected connect"), &back, None);
    report.evidence(
        late.iter()
            .chain(&overdue)
            .take(20)
            .map(|(episode, record)| format!("{name}: {} (from the fault)", record.tell(episode.from))),
    );
}

fn each(counts: &[usize]) -> String {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(max)) => {
            format!("median {median}, max {max}, {} in all", counts.iter().sum::<usize>())
        }
        _ => "none".to_owned(),
    }
}
