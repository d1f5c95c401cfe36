//! Line 2: a gateway elsewhere refuses, is black-holed, or answers the SYN and nothing more.

use std::{thread, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{
    Plan,
    count::{after_nth_failure, after_overdue, begun_in, ms},
    delay::{self, SLOW},
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
/// The oldest unanswered SYN may be this old, ns.
const OVERDUE: u64 = 200_000_000;
/// What may come on top: ticks of the kernel's coarse clock, and a client that is kept from the CPU between reading
/// its clock and connecting, ns.
const SLACK: u64 = 20_000_000;
/// The oldest unanswered SYN may not be this old in the short form either, however busy the machine, ns.
const FAR_OVERDUE: u64 = 600_000_000;
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
    /// When its repair was begun.
    until: u64,
    /// When that was done.
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
            let until = now();
            repair(&mut scene, fault)?;
            let repaired = now();
            let redirected = storm.wait_for(Outcome::Gateway, repaired)?.start;
            episodes.push(Episode { fault, from, until, repaired, redirected });
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
    // Those that hang are late by design; what goes direct has no reason to be.
    for (of, way) in [("direct", Outcome::Direct), ("through the gateway", Outcome::Gateway)] {
        delay::show(report, of, calm.records.iter().filter(|record| record.outcome == way));
    }
    // Sockets are given back when they close, the last ones right now.
    let pins = scene.pins();
    let reserved = || Ok(usize::try_from(kernel::reserved(&pins)?).unwrap_or(usize::MAX));
    let reserved = kernel::until_none(reserved)?;
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

/// What one fault did, each time that it was done.
#[derive(Default)]
struct Harm<'a> {
    /// Connects that failed in each round, and those that hung or were dropped.
    failed: Vec<usize>,
    hung: Vec<usize>,
    /// Rounds in which no connect met the fault, and in which none went direct.
    untouched: usize,
    never_direct: usize,
    /// From the first connect exposed to the last one redirected, and from the repair to the first, ms.
    to_direct: Vec<f64>,
    back: Vec<f64>,
    /// Connects that should not have been sent any more.
    late: Vec<(&'a Episode, Record)>,
    overdue: Vec<(&'a Episode, Record)>,
    far_overdue: Vec<(&'a Episode, Record)>,
}

/// Whether a connect was sent to the gateway and met a fault that began then.
fn is_exposed(record: &Record, from: u64) -> bool {
    record.outcome != Outcome::Direct && record.end() >= from && (!record.is_good() || record.took_us > SLOW)
}

impl<'a> Harm<'a> {
    fn add(&mut self, episode: &'a Episode, records: &[Record]) {
        // Those that had begun and were not answered when it happened are exposed too.
        let reach = begun_in(records, episode.from.saturating_sub(1_000_000_000), episode.until);
        let is_failed = |r: &&Record| matches!(r.outcome, Outcome::ConnectFailed(_));
        let exposed: Vec<_> = reach.iter().filter(|r| is_exposed(r, episode.from)).collect();
        let failed = exposed.iter().copied().filter(is_failed).count();
        self.failed.push(failed);
        self.hung.push(exposed.len() - failed);
        let during = begun_in(records, episode.from, episode.until);
        // The first to be exposed tells when the fault took hold: several runs of `ip` make a black hole.
        let first = during.iter().filter(|r| is_exposed(r, episode.from)).map(|r| r.start).min();
        let last = during.iter().filter(|r| r.outcome != Outcome::Direct).map(|r| r.start).max();
        // Whatever is exposed was redirected: with a first there is a last.
        self.to_direct.extend(first.zip(last).map(|(first, last)| ms(first, last)));
        self.untouched += usize::from(first.is_none());
        self.never_direct += usize::from(during.iter().all(|r| r.outcome != Outcome::Direct));
        self.back.push(ms(episode.repaired, episode.redirected));
        let of = |records: Vec<Record>| records.into_iter().map(move |record| (episode, record));
        self.late.extend(of(after_nth_failure(&during, ATTEMPTS)));
        if episode.fault == Fault::BlackHoled {
            // Only those that were not answered: the very first may have been sent before the fault took hold.
            let unanswered: Vec<_> = during.into_iter().filter(|r| is_exposed(r, episode.from)).collect();
            self.overdue.extend(of(after_overdue(&unanswered, OVERDUE + SLACK)));
            self.far_overdue.extend(of(after_overdue(&unanswered, FAR_OVERDUE)));
        }
    }
}

fn tell(report: &mut Report, name: &str, fault: Fault, episodes: &[&Episode], records: &[Record]) {
    let mut harm = Harm::default();
    for episode in episodes {
        harm.add(episode, records);
    }
    report.show(name, format!("{} times, {} s each", episodes.len(), LASTS.as_secs_f64()));
    report.at_most(&format!("{name}: rounds without an exposed connect"), harm.untouched, 0);
    report.at_most(&format!("{name}: rounds in which nothing went direct"), harm.never_direct, 0);
    report.show(&format!("{name}: connects failed"), each(&harm.failed));
    report.show(
        &format!("{name}: connected, and dropped, unanswered, or slower than 150 ms"),
        each(&harm.hung),
    );
    let what = format!("{name}: failed, begun when {ATTEMPTS} failures had been seen");
    report.at_most(&what, harm.late.len(), 0);
    if fault == Fault::BlackHoled {
        let what = |age: u64| format!("{name}: redirected, begun when the oldest SYN was over {age} ms old");
        // 200 ms are a matter of speed, and so of the machine: shown in the short form, judged in the long.
        if report.is_brief() {
            report.show(&what(OVERDUE / 1_000_000), harm.overdue.len());
            report.at_most(&what(FAR_OVERDUE / 1_000_000), harm.far_overdue.len(), 0);
        } else {
            report.at_most(&what(OVERDUE / 1_000_000), harm.overdue.len(), 0);
        }
    }
    let limit = match fault {
        // As soon as the fifth has failed, whenever that is: the count above is the limit.
        Fault::Refused => None,
        Fault::BlackHoled => Some((OVERDUE + SLACK) as f64 / 1e6),
        // The first probe may be an interval away.
        Fault::HalfDead => Some(PROBED + 200.0),
    };
    let what = format!("{name}: from the first connect exposed to the last one redirected");
    report.times(&what, &harm.to_direct, limit);
    report.times(&format!("{name}: from repair to the first redirected connect"), &harm.back, None);
    let told = harm.late.iter().chain(&harm.overdue).take(20);
    report.evidence(
        told.map(|(episode, record)| format!("{name}: {} (from the fault)", record.tell(episode.from))),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn record(start_ms: u64, took_ms: u32, outcome: Outcome) -> Record {
        Record { start: start_ms * MS, connect_us: took_ms * 1000, took_us: took_ms * 1000, outcome }
    }

    fn black_hole() -> Episode {
        Episode {
            fault: Fault::BlackHoled,
            from: 1000 * MS,
            until: 4000 * MS,
            repaired: 4050 * MS,
            redirected: 4100 * MS,
        }
    }

    #[test]
    fn a_fault_that_never_took_hold_is_counted() {
        let episode = black_hole();
        let (mut harm, mut met) = (Harm::default(), Harm::default());
        // Slow, but not by way of the gateway; and one that began when the repair had.
        harm.add(&episode, &[record(2000, 1, Outcome::Gateway), record(4010, 900, Outcome::Gateway)]);
        assert_eq!((harm.untouched, harm.never_direct, harm.to_direct.len()), (1, 1, 0));
        met.add(
            &episode,
            &[record(2000, 900, Outcome::Direct), record(900, 1000, Outcome::ConnectFailed(110))],
        );
        assert_eq!((met.untouched, met.never_direct, &met.failed[..]), (1, 0, &[1][..]));
    }

    #[test]
    fn a_black_hole_is_judged_by_the_oldest_unanswered_syn() {
        let episode = black_hole();
        let mut harm = Harm::default();
        let timed_out = Outcome::ConnectFailed(110);
        let records = [1001, 1100, 1230, 1650].map(|start| record(start, 1000, timed_out));
        harm.add(&episode, &[&records[..], &[record(1300, 1, Outcome::Direct)]].concat());
        assert_eq!((harm.untouched, harm.never_direct), (0, 0));
        assert_eq!((harm.overdue.len(), harm.far_overdue.len()), (2, 1));
        assert_eq!(harm.to_direct, [649.0]);
    }
}
