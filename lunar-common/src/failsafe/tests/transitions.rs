//! Every transition that small parameters can reach, breadth first, against the model.

use super::{
    model::{Breaker, Effect, Model, effect},
    *,
};
use std::collections::{HashSet, VecDeque};

/// How many openings and closings deep. Behind them only the epoch's number is new.
const EPOCHS: u64 = 4;

/// The moments at which the answer of a word may differ.
fn moments(model: &Model) -> Vec<u64> {
    match model.breaker {
        Breaker::Closed => vec![NOW.0, NOW.0 + UNIT / 2],
        Breaker::Open { until } => {
            let admitted = until + GRACE.0;
            vec![until - COOLDOWN.0, until - 1, until, until + 1, admitted - 1, admitted]
        }
    }
}

fn assert_looks_alike(word: Word, model: &Model, now: u64) {
    let grace_over = match model.breaker {
        Breaker::Closed => true,
        Breaker::Open { until } => now >= until + GRACE.0,
    };
    let state = match model.breaker {
        Breaker::Closed => State::Closed,
        Breaker::Open { .. } if model.cooling(now) => State::Cooldown,
        Breaker::Open { .. } => State::Probation,
    };
    let own = Ticket((model.epoch % (1 << 14)) as u32);
    assert_eq!(word.state(at(now)), state, "{model:?} at {now}");
    assert_eq!(word.begin(at(now)), (!model.cooling(now)).then_some(own), "{model:?} at {now}");
    assert_eq!(word.admit(at(now), GRACE), grace_over.then_some(own), "{model:?} at {now}");
    assert_eq!([word.connect_failures(), word.probe_failures()], model.failures);
    match model.breaker {
        Breaker::Closed => assert_eq!(word.deadline(), None),
        Breaker::Open { until } => assert_eq!(word.deadline(), Some(at(until))),
    }
}

/// Explores from a closed word of epoch `start`; returns how many words and transitions there were, and which effects.
fn explore(start: u64, threshold: u32) -> (usize, usize, Vec<Effect>) {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([Model::new(start)]);
    let (mut transitions, mut effects) = (0, Vec::new());
    while let Some(model) = queue.pop_front() {
        let before = model.word();
        if !seen.insert(before.0) {
            continue;
        }
        for now in moments(&model) {
            assert_looks_alike(before, &model, now);
            for (attempt, outcome) in BOTH.into_iter().flat_map(|a| [(a, Success), (a, Failure)]) {
                // Of this epoch, the last ones, the next, and one whose number is this one's but for the width.
                for began in [0, 1, 2, 3]
                    .map(|back| model.epoch.saturating_sub(back))
                    .into_iter()
                    .chain([model.epoch + 1, model.epoch + (1 << 13)])
                {
                    let shown = Ticket((began % (1 << 14)) as u32);
                    let mut next = model;
                    let expected = next.enter(attempt, outcome, began, threshold, now);
                    let step = before.settle(attempt, outcome, shown, limits(threshold), at(now));
                    let what = format!("{model:?} at {now}: {attempt:?} {outcome:?} of epoch {began}");
                    assert_eq!(effect(step, before), (expected, next.word()), "{what}");
                    transitions += 1;
                    if !effects.contains(&expected) {
                        effects.push(expected);
                    }
                    if next.epoch <= start + EPOCHS {
                        queue.push_back(next);
                    }
                }
            }
            let closed = Model::new(model.epoch + 1);
            assert_eq!(before.closed(), closed.word());
        }
    }
    (seen.len(), transitions, effects)
}

#[test]
fn every_transition_is_the_models() {
    // The last start is three epochs before the number wraps around.
    for start in [0, 5, (1 << 14) - 3] {
        for threshold in 1..=3 {
            let (words, transitions, effects) = explore(start, threshold);
            // Unchanged words and lost branches would make this test hollow.
            assert!(words > 50 && transitions > 5_000, "{words} words, {transitions} transitions");
            assert_eq!(effects.len(), 4 + usize::from(threshold > 1), "{effects:?}");
        }
    }
}
