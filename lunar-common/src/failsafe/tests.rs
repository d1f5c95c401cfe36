//! The contract of DESIGN section 4, one test per row and per way of failing. [`transitions`] checks every
//! transition against a model, [`interleavings`] every order in which several can enter their results.

use super::*;

mod interleavings;
mod model;
mod transitions;

use Attempt::{Connect, Probe};
use Outcome::{Failure, Success};

const UNIT: u64 = 1 << 24;
const SECOND: u64 = 1_000_000_000;
const NOW: KtimeNs = KtimeNs(1_000 * SECOND + 1);
const COOLDOWN: SpanNs = SpanNs(10 * SECOND);
const GRACE: SpanNs = SpanNs(3 * SECOND / 2);
const BOTH: [Attempt; 2] = [Connect, Probe];

const fn limits(threshold: u32) -> Limits {
    Limits { cooldown: COOLDOWN, threshold, pad: 0 }
}

fn at(ns: u64) -> KtimeNs {
    KtimeNs(ns)
}

/// A word out of its fields, as the module's picture shows them.
fn word(deadline_units: u64, epoch: u64, connects: u64, probes: u64) -> Word {
    assert!(deadline_units < 1 << 36 && epoch < 1 << 14 && connects < 1 << 7 && probes < 1 << 7);
    Word(deadline_units << 28 | epoch << 14 | connects << 7 | probes)
}

/// The ticket of the word's own epoch.
fn ticket(word: Word) -> Ticket {
    Ticket((word.0 >> 14 & 0x3fff) as u32)
}

fn after(step: Step) -> Word {
    match step {
        Step::Counted(word) | Step::Opened(word) | Step::Closed(word) => word,
        Step::Dropped | Step::Unchanged => panic!("{step:?} makes no word"),
    }
}

/// The word after `count` failures of one kind, none of which opens it.
fn failed(mut word: Word, attempt: Attempt, count: u32, threshold: u32) -> Word {
    for _ in 0..count {
        let step = word.settle(attempt, Failure, ticket(word), limits(threshold), NOW);
        let Step::Counted(next) = step else { panic!("{step:?} of {word:?}") };
        assert_eq!(next.state(NOW), State::Closed);
        word = next;
    }
    word
}

/// A word that cools down since `NOW`.
fn cooling() -> Word {
    after(Word::default().settle(Connect, Failure, Ticket(0), limits(1), NOW))
}

fn deadline(word: Word) -> u64 {
    word.deadline().expect("it is open").0
}

#[test]
fn a_new_word_is_closed() {
    let word = Word::default();
    assert_eq!((word.state(NOW), word.deadline()), (State::Closed, None));
    assert_eq!((word.connect_failures(), word.probe_failures()), (0, 0));
    assert_eq!(word.begin(NOW), Some(Ticket(0)));
    assert_eq!(word.admit(NOW, GRACE), Some(Ticket(0)));
}

#[test]
fn the_nth_failure_opens_and_none_before() {
    for attempt in BOTH {
        for n in [1, 5, 100, MAX_FAILURES] {
            let most = failed(Word::default(), attempt, n - 1, n);
            let step = most.settle(attempt, Failure, ticket(most), limits(n), NOW);
            let Step::Opened(open) = step else { panic!("{attempt:?} {n}: {step:?}") };
            assert_eq!(open.state(NOW), State::Cooldown);
            assert_eq!(open.count(attempt), n, "the count stays to be shown");
            assert_eq!(ticket(open), Ticket(1));
        }
    }
}

#[test]
fn a_threshold_lowered_below_the_count_opens_with_the_next_failure() {
    let three = failed(Word::default(), Connect, 3, 5);
    assert!(matches!(three.settle(Connect, Failure, Ticket(0), limits(2), NOW), Step::Opened(_)));
}

#[test]
fn connects_and_probes_are_counted_apart() {
    let word = failed(failed(Word::default(), Connect, 4, 5), Probe, 4, 5);
    assert_eq!((word.connect_failures(), word.probe_failures()), (4, 4));
    assert_eq!(word.state(NOW), State::Closed, "eight in all, but five of neither");
    for (attempt, counts) in [(Connect, (5, 4)), (Probe, (4, 5))] {
        let open = after(word.settle(attempt, Failure, Ticket(0), limits(5), NOW));
        assert_eq!((open.connect_failures(), open.probe_failures()), counts);
    }
}

#[test]
fn a_success_resets_only_its_own_count() {
    let word = failed(failed(Word::default(), Connect, 3, 5), Probe, 2, 5);
    for (attempt, counts) in [(Connect, (0, 2)), (Probe, (3, 0))] {
        let step = word.settle(attempt, Success, Ticket(0), limits(5), NOW);
        let Step::Counted(reset) = step else { panic!("{step:?}") };
        assert_eq!((reset.connect_failures(), reset.probe_failures()), counts);
        assert_eq!((reset.state(NOW), ticket(reset)), (State::Closed, Ticket(0)), "the epoch stays");
        assert_eq!(reset.settle(attempt, Success, Ticket(0), limits(5), NOW), Step::Unchanged);
        failed(reset, attempt, 4, 5);
    }
}

#[test]
fn the_deadline_is_rounded_up_by_less_than_a_unit() {
    for now in [0, 1, UNIT - 1, UNIT, UNIT + 1, 7 * UNIT - 1, NOW.0, NOW.0 + 12_345_678] {
        for cooldown in [1, UNIT - 1, UNIT, UNIT + 1, SECOND, 10 * SECOND] {
            let limits = Limits { cooldown: SpanNs(cooldown), threshold: 1, pad: 0 };
            let open = after(Word::default().settle(Probe, Failure, Ticket(0), limits, at(now)));
            let over = deadline(open).checked_sub(now + cooldown).expect("never too short");
            assert!(over < UNIT, "{now} {cooldown}: {over}");
        }
    }
}

#[test]
fn a_cooldown_of_centuries_does_not_wrap_around() {
    for cooldown in [1 << 60, 1 << 62, u64::MAX - NOW.0, u64::MAX] {
        let limits = Limits { cooldown: SpanNs(cooldown), threshold: 1, pad: 0 };
        let open = after(Word::default().settle(Probe, Failure, Ticket(0), limits, NOW));
        assert_eq!(deadline(open), ((1 << 36) - 1) << 24);
        assert_eq!((ticket(open), open.probe_failures()), (Ticket(1), 1));
    }
}

#[test]
fn the_cooldown_ends_with_the_deadline_and_nobody_writes() {
    let open = cooling();
    assert_eq!(open.state(NOW), State::Cooldown);
    assert_eq!(open.state(at(deadline(open) - 1)), State::Cooldown);
    assert_eq!(open.state(at(deadline(open))), State::Probation);
}

#[test]
fn nothing_in_a_cooldown_changes_it() {
    let open = cooling();
    for now in [NOW.0, deadline(open) - 1] {
        for attempt in BOTH {
            for outcome in [Success, Failure] {
                for ticket in [ticket(open), Ticket(0), Ticket(7)] {
                    let step = open.settle(attempt, outcome, ticket, limits(1), at(now));
                    assert_eq!(step, Step::Dropped, "{now} {attempt:?} {outcome:?} {ticket:?}");
                }
            }
        }
    }
}

#[test]
fn no_attempt_begins_in_a_cooldown() {
    let open = cooling();
    assert_eq!(open.begin(NOW), None);
    assert_eq!(open.begin(at(deadline(open) - 1)), None);
    assert_eq!(open.begin(at(deadline(open))), Some(ticket(open)));
}

#[test]
fn connects_are_admitted_once_the_probe_had_its_time() {
    let open = cooling();
    let admitted = deadline(open) + GRACE.0;
    for now in [NOW.0, deadline(open) - 1, deadline(open), admitted - 1] {
        assert_eq!(open.admit(at(now), GRACE), None, "{now}");
    }
    assert_eq!(open.admit(at(admitted), GRACE), Some(ticket(open)));
    assert_eq!(open.admit(at(deadline(open)), SpanNs(0)), Some(ticket(open)));
}

#[test]
fn one_failure_in_probation_opens_another_full_cooldown() {
    for attempt in BOTH {
        let open = cooling();
        let now = at(deadline(open) + 5 * SECOND);
        let step = open.settle(attempt, Failure, ticket(open), limits(100), now);
        let Step::Opened(again) = step else { panic!("{step:?}") };
        assert_eq!(again.state(now), State::Cooldown);
        assert!(deadline(again) >= now.0 + COOLDOWN.0 && deadline(again) < now.0 + COOLDOWN.0 + UNIT);
        assert_ne!(ticket(again), ticket(open));
        assert_eq!(again.count(attempt), open.count(attempt) + 1);
    }
}

#[test]
fn one_success_in_probation_closes_with_counts_zero() {
    for attempt in BOTH {
        let open = word(64, 9, 3, 5);
        let step = open.settle(attempt, Success, Ticket(9), limits(5), at(64 * UNIT));
        assert_eq!(step, Step::Closed(word(0, 10, 0, 0)));
    }
}

#[test]
fn a_word_closed_by_hand_drops_what_began_before() {
    for open in [word(0, 4, 3, 1), word(u64::from(u32::MAX), 4, 5, 0)] {
        let closed = open.closed();
        assert_eq!(closed, word(0, 5, 0, 0));
        assert_eq!(closed.settle(Connect, Failure, Ticket(4), limits(1), NOW), Step::Dropped);
    }
}

#[test]
fn a_result_of_an_older_epoch_is_dropped() {
    // One that began before the breaker opened ends in probation, and one that began in probation after it closed.
    let open = cooling();
    let probation = at(deadline(open));
    let closed = after(open.settle(Probe, Success, ticket(open), limits(1), probation));
    for attempt in BOTH {
        for outcome in [Success, Failure] {
            assert_eq!(open.settle(attempt, outcome, Ticket(0), limits(1), probation), Step::Dropped);
            for late in [Ticket(0), ticket(open)] {
                assert_eq!(closed.settle(attempt, outcome, late, limits(1), probation), Step::Dropped);
            }
        }
    }
}

#[test]
fn the_epoch_wraps_around() {
    let last = (1 << 14) - 1;
    let open = after(word(0, last, 0, 0).settle(Connect, Failure, Ticket(last as u32), limits(1), NOW));
    assert_eq!(ticket(open), Ticket(0));
    let probation = at(deadline(open));
    for late in [Ticket(last as u32), Ticket(1 << 14)] {
        assert_eq!(open.settle(Connect, Failure, late, limits(1), probation), Step::Dropped);
    }
    assert!(matches!(open.settle(Connect, Success, Ticket(0), limits(1), probation), Step::Closed(_)));
    assert_eq!(word(0, last, 2, 3).closed(), word(0, 0, 0, 0));
}

#[test]
fn counts_saturate() {
    for (attempt, open) in [(Connect, word(1, 0, 127, 3)), (Probe, word(1, 0, 3, 127))] {
        let again = after(open.settle(attempt, Failure, Ticket(0), limits(127), NOW));
        assert_eq!(
            (again.connect_failures(), again.probe_failures()),
            (open.connect_failures(), open.probe_failures())
        );
        assert_eq!(ticket(again), Ticket(1), "nothing ran over into the epoch");
    }
}

/// A cell that somebody else changes before each swap.
struct Restless(core::cell::Cell<u32>);

impl Cell for Restless {
    fn load(&self) -> Word {
        Word::default()
    }

    fn swap(&self, _: Word, _: Word) -> bool {
        self.0.set(self.0.get() + 1);
        false
    }
}

#[test]
fn a_word_that_never_holds_still_is_given_up() {
    let cell = Restless(core::cell::Cell::new(0));
    assert_eq!(settle(&cell, Connect, Failure, Ticket(0), limits(1), NOW), Step::Dropped);
    assert_eq!(cell.0.get(), MAX_TRIES);
}
