//! When to probe an endpoint. Pure: the word and the time come in, the next moment comes out.
//!
//! Normally one probe each interval. The end of a cooldown is an appointment: the probe made then is the attempt
//! that decides, so no application pays for it. Probes during a cooldown only show in `status`; one that could still
//! be under way at its end is not begun, lest it make the attempt late.

use std::time::Duration;

use lunar_common::{
    failsafe::{State, Word},
    time::KtimeNs,
};

use crate::kernel::layout::span;

/// The rhythm of an endpoint's probes.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// From the beginning of one probe to the next.
    pub interval: Duration,
    /// The longest that a probe takes.
    pub timeout: Duration,
}

impl Schedule {
    /// When the next probe begins, given when the last one began.
    pub fn next(&self, word: Word, now: KtimeNs, last: Option<KtimeNs>) -> KtimeNs {
        let Some(last) = last else { return now };
        let regular = last.after(span(self.interval));
        match (word.state(now), word.deadline()) {
            (State::Cooldown, Some(deadline)) if regular.after(span(self.timeout)) > deadline => deadline,
            // The attempt is due; one that began in this probation decides it.
            (State::Probation, Some(deadline)) if last < deadline => now,
            _ => regular,
        }
    }
}

#[cfg(test)]
mod tests {
    use lunar_common::{
        failsafe::{Attempt, Limits, Outcome, Step, Ticket},
        time::SpanNs,
    };

    use super::*;

    const SCHEDULE: Schedule =
        Schedule { interval: Duration::from_secs(1), timeout: Duration::from_millis(500) };

    fn at(ms: u64) -> KtimeNs {
        KtimeNs(SpanNs::from_ms(ms).0)
    }

    /// A word that entered a cooldown of ten seconds at 100 s.
    fn open() -> Word {
        let limits = Limits { cooldown: SpanNs::from_ms(10_000), threshold: 1, pad: 0 };
        match Word::default().settle(Attempt::Probe, Outcome::Failure, Ticket(0), limits, at(100_000)) {
            Step::Opened(word) => word,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_probe_is_made_at_once_and_then_one_each_interval() {
        assert_eq!(SCHEDULE.next(Word::default(), at(5), None), at(5));
        assert_eq!(SCHEDULE.next(Word::default(), at(700), Some(at(500))), at(1_500));
    }

    #[test]
    fn the_end_of_the_cooldown_is_an_appointment() {
        let word = open();
        let deadline = word.deadline().expect("open");
        assert_eq!(
            SCHEDULE.next(word, at(101_000), Some(at(100_500))),
            at(101_500),
            "early on, the rhythm goes on"
        );
        assert_eq!(
            SCHEDULE.next(word, at(108_900), Some(at(108_700))),
            deadline,
            "108.7 + 1 + 0.5 would be late"
        );
        assert_eq!(SCHEDULE.next(word, deadline, Some(at(108_700))), deadline, "it is due");
        let later = deadline.after(SpanNs::from_ms(300));
        assert_eq!(SCHEDULE.next(word, later, Some(at(108_700))), later, "and still due when it was missed");
        assert_eq!(
            SCHEDULE.next(word, later, Some(deadline)),
            deadline.after(SpanNs::from_ms(1_000)),
            "one that began in the probation is the attempt"
        );
    }
}
