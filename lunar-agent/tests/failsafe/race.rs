//! Both sides on one word: the kernel's programs, fed by a crowd of connects that fail and succeed, and user space, which
//! settles probes and resumes through the pinned map.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use lunar_agent::kernel::{
    breaker::{Breaker, WordCell},
    layout::{now, span},
    pins::Pins,
};
use lunar_common::failsafe::{self, Attempt, Cell, Limits, Outcome, State, Step, Word};

use crate::{
    crowd::{CLIENTS, clients, results},
    scene::{OPENED, OPENED_BY_PROBES, Plan, Scene, lines},
    world::eventually,
};

const THRESHOLD: u32 = 3;
const COOLDOWN: Duration = Duration::from_millis(100);
/// Connects of each client.
const CONNECTS: u64 = 20_000;
/// Epochs that a word can tell apart.
const EPOCHS: u64 = 1 << 14;

/// What user space saw and did.
#[derive(Default, Debug)]
struct Tally {
    settled: u64,
    /// By probes of this side.
    opened: u64,
    closed: u64,
    resumed: u64,
    /// Swaps that failed because the other side had come first.
    beaten: u64,
    /// Looks at each state.
    states: [u64; 3],
}

/// Asserts that a word is one that the transitions lead to.
fn assert_sound(word: Word) {
    let (connects, probes) = (word.connect_failures(), word.probe_failures());
    match word.deadline() {
        None => assert!(connects < THRESHOLD && probes < THRESHOLD, "closed with {connects} and {probes}"),
        Some(until) => {
            assert!(connects >= THRESHOLD || probes >= THRESHOLD, "open with {connects} and {probes}");
            // A cooldown is as long as configured, and no longer than that and the deadline's unit.
            let left = until.since(now());
            assert!(left.0 <= span(COOLDOWN).0 + (1 << 24), "{} ms left", left.0 / 1_000_000);
        }
    }
}

fn settle_and_resume(breaker: Breaker, over: &AtomicBool) -> Tally {
    let limits = Limits { cooldown: span(COOLDOWN), threshold: THRESHOLD, pad: 0 };
    let cell = Slow { cell: breaker.word(0), beaten: AtomicU64::new(0) };
    let mut tally = Tally::default();
    for round in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let word = cell.load();
        assert_sound(word);
        tally.states[match word.state(now()) {
            State::Closed => 0,
            State::Cooldown => 1,
            State::Probation => 2,
        }] += 1;
        // By turns: closed again and again, and left alone for longer than a cooldown. While the endpoint refuses, the
        // kernel's failures follow upon a closing at once, and so does a probe's.
        let resumes = round / 512 % 2 == 0 && round % 8 == 7;
        if resumes {
            breaker.word(0).close();
            tally.resumed += 1;
        }
        if let Some(ticket) = cell.load().begin(now()) {
            let outcome = if resumes || round / 3 % 32 == 0 { Outcome::Failure } else { Outcome::Success };
            tally.settled += 1;
            match failsafe::settle(&cell, Attempt::Probe, outcome, ticket, limits, now()) {
                Step::Opened(word) => {
                    assert_sound(word);
                    tally.opened += 1;
                }
                Step::Closed(word) => {
                    assert_eq!((word.connect_failures(), word.probe_failures()), (0, 0));
                    tally.closed += 1;
                }
                Step::Counted(word) => assert_sound(word),
                Step::Dropped | Step::Unchanged => {}
            }
        }
        thread::sleep(Duration::from_micros(200));
    }
    tally.beaten = cell.beaten.into_inner();
    tally
}

/// The word, looked at by somebody slow: between a look and the swap the other side has its time.
struct Slow<'a> {
    cell: WordCell<'a>,
    beaten: AtomicU64,
}

impl Cell for Slow<'_> {
    fn load(&self) -> Word {
        let word = self.cell.load();
        thread::sleep(Duration::from_micros(50));
        word
    }

    fn swap(&self, old: Word, new: Word) -> bool {
        let done = self.cell.swap(old, new);
        self.beaten.fetch_add(u64::from(!done), Ordering::Relaxed);
        done
    }
}

/// Ends the race when it is dropped, so also when the side that would end it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// At every moment the word is one that the transitions allow; and each transition, whoever made it, began one epoch: as
/// many as were told begin, none is lost, none is doubled.
#[test]
fn both_sides_race_and_no_transition_is_lost() {
    let scene = Scene::new("race");
    scene.open();
    let plan = Plan {
        kind: "tcp",
        threshold: THRESHOLD,
        interval: "100ms",
        probe_timeout: "100ms",
        cooldown_sec: COOLDOWN.as_secs_f64(),
        ..Plan::default()
    };
    let agent = scene.agent(&plan);
    let epoch = |breaker: &Breaker| {
        let mut ticket = None;
        eventually("no cooldown", || {
            ticket = breaker.word(0).load().begin(now());
            ticket.is_some()
        });
        u64::from(ticket.unwrap().0)
    };
    let pins = Pins::new(&agent.pins);
    let mine = Breaker::open(&pins).unwrap();
    let first = epoch(&mine);
    let mut crowd = clients(&scene, &CONNECTS.to_string());

    let over = AtomicBool::new(false);
    let racing = Breaker::open(&pins).unwrap();
    let (tally, by_hand) = thread::scope(|scope| {
        let ends = Over(&over);
        let flag = ends.0;
        let racer = scope.spawn(move || settle_and_resume(racing, flag));
        let mut by_hand = 0;
        let mut turn = 0;
        while crowd.iter_mut().any(|client| client.try_wait().unwrap().is_none()) {
            match turn % 4 {
                1 => scene.shut(),
                3 => scene.open(),
                _ if turn % 12 == 0 => {
                    scene.failsafe(&["resume"]);
                    by_hand += 1;
                }
                _ => {}
            }
            turn += 1;
            thread::sleep(Duration::from_millis(20));
        }
        drop(ends);
        (racer.join().unwrap(), by_hand)
    });
    let (ok, refused) = results(&mut crowd);
    assert_eq!(ok + refused, CLIENTS * CONNECTS);
    scene.shut();
    scene.open();
    eventually("the breaker closes", || scene.word().0 == "closed");

    // The kernel's and the agent's transitions are in the agent's log; `resume` closes every word, so of each slot.
    let status = scene.world.status();
    let lost = status["losses"]["events"].as_u64().unwrap();
    eventually("the agent has told what it heard", || {
        lines(&agent, "redirected connect failed") as u64 + lost >= scene.outcomes().1
    });
    let opened = lines(&agent, OPENED);
    let [of_connects, of_probes] =
        [["failsafe closed by a connect", OPENED], ["failsafe closed: traffic", OPENED_BY_PROBES]]
            .map(|texts| texts.map(|text| lines(&agent, text) as u64).iter().sum::<u64>());
    let told = of_connects + of_probes + tally.opened + tally.closed + tally.resumed + by_hand;
    let begun = (epoch(&mine) + EPOCHS - first) % EPOCHS;
    println!(
        "{} connects, {refused} refused; {of_connects} transitions by connects, {of_probes} by the agent's probes, \
         {by_hand} by `resume`; user space: {tally:?}; {told} in all, {lost} events lost",
        CLIENTS * CONNECTS
    );
    let missing = (begun + EPOCHS - told % EPOCHS) % EPOCHS;
    assert!(missing <= lost, "{begun} epochs (mod {EPOCHS}) begun by {told} transitions, {lost} events lost");

    // With as many lost as there were told, one that is doubled or not made would not show.
    assert!(lost < told / 4, "{lost} events lost, {told} transitions told");

    // All of it has happened, or this shows nothing.
    assert!(
        opened > 0 && tally.opened > 0 && tally.resumed > 0 && by_hand > 0,
        "{opened}, {by_hand}, {tally:?}"
    );
    assert!(refused > 0 && tally.beaten > 0, "{refused}, {tally:?}");
    assert!(tally.states.iter().all(|looks| *looks > 0), "{tally:?}");
}
