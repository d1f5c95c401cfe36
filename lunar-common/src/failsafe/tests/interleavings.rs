//! Several actors on one word: in every order in which their loads and swaps can fall, and on real threads.
//!
//! A word changes in one swap, so what an actor does takes effect at that moment, or at its last load if it changes
//! nothing. If the model, given the results in the order of these moments, does the same each time, nothing is lost,
//! doubled or counted late (linearisability).

use super::{
    model::{Breaker, Effect, Model, effect},
    *,
};
use core::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering},
};

/// One attempt: begun at one moment, its result entered at another. Or, without an attempt, a person's `resume`.
#[derive(Clone, Copy)]
struct Try {
    attempt: Option<Attempt>,
    outcome: Outcome,
    begins: u64,
    ends: u64,
}

/// What the word answered to a load or a swap.
#[derive(Clone, Copy)]
enum Answered {
    Loaded(Word),
    Swapped(bool),
}

#[derive(Clone, Copy)]
enum Asked {
    Load,
    Swap(Word, Word),
}

/// Plays back what was answered so far and notes the first question beyond it; from there on it answers anything, as
/// the run is thrown away. So one call of the real `settle` can be stopped at each of its steps.
struct Playback<'a> {
    answered: RefCell<core::slice::Iter<'a, Answered>>,
    asked: RefCell<Option<Asked>>,
}

impl Cell for Playback<'_> {
    fn load(&self) -> Word {
        match self.answered.borrow_mut().next() {
            Some(Answered::Loaded(word)) => *word,
            Some(Answered::Swapped(_)) => panic!("the same answers, and another question"),
            None => {
                self.asked.borrow_mut().get_or_insert(Asked::Load);
                Word::default()
            }
        }
    }

    fn swap(&self, old: Word, new: Word) -> bool {
        match self.answered.borrow_mut().next() {
            Some(Answered::Swapped(done)) => *done,
            Some(Answered::Loaded(_)) => panic!("the same answers, and another question"),
            None => {
                self.asked.borrow_mut().get_or_insert(Asked::Swap(old, new));
                true
            }
        }
    }
}

#[derive(Clone)]
struct Actor {
    tries: Vec<Try>,
    /// Ticket and epoch in which the present try began.
    began: Option<(Ticket, u64)>,
    answered: Vec<Answered>,
}

#[derive(Clone)]
struct World {
    word: Word,
    model: Model,
    threshold: u32,
    actors: Vec<Actor>,
    effects: Vec<Effect>,
}

impl World {
    /// Lets one actor do its next load or swap.
    fn step(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        let now = actor.tries[0];
        let Some((ticket, epoch)) = actor.began.or(now.attempt.is_none().then_some((Ticket(0), 0))) else {
            actor.began = self.word.begin(at(now.begins)).map(|ticket| (ticket, self.model.epoch));
            if actor.began.is_none() {
                actor.tries.remove(0);
            }
            return;
        };
        let run = |answered: &[Answered]| {
            let cell = Playback { answered: RefCell::new(answered.iter()), asked: RefCell::new(None) };
            let step = match now.attempt {
                Some(attempt) => {
                    settle(&cell, attempt, now.outcome, ticket, limits(self.threshold), at(now.ends))
                }
                None => Step::Closed(close(&cell)),
            };
            (step, cell.asked.into_inner())
        };
        let before = self.word;
        actor.answered.push(match run(&actor.answered).1 {
            Some(Asked::Load) => Answered::Loaded(self.word),
            Some(Asked::Swap(old, new)) => {
                let still = self.word == old;
                if still {
                    self.word = new;
                }
                Answered::Swapped(still)
            }
            None => panic!("a try that has ended goes on"),
        });
        if let (step, None) = run(&actor.answered) {
            let expected = match now.attempt {
                Some(attempt) => self.model.enter(attempt, now.outcome, epoch, self.threshold, now.ends),
                None => self.model.resume(),
            };
            assert_eq!(effect(step, before), (expected, self.model.word()), "{:?}", self.effects);
            self.effects.push(expected);
            actor.tries.remove(0);
            actor.began = None;
            actor.answered.clear();
        }
        assert_eq!(self.word, self.model.word());
    }
}

/// Runs every order to its end and gives each end to `check`; returns how many there were.
fn explore(world: &World, check: &impl Fn(&World)) -> usize {
    let mut ends = 0;
    for who in 0..world.actors.len() {
        if !world.actors[who].tries.is_empty() {
            let mut next = world.clone();
            next.step(who);
            ends += explore(&next, check);
        }
    }
    if ends == 0 {
        check(world);
        return 1;
    }
    ends
}

fn world(model: Model, threshold: u32, actors: &[&[Try]]) -> World {
    let actors = actors.iter().map(|tries| Actor { tries: tries.to_vec(), began: None, answered: vec![] });
    World { word: model.word(), model, threshold, actors: actors.collect(), effects: vec![] }
}

const fn tried(attempt: Attempt, outcome: Outcome, now: u64) -> Try {
    Try { attempt: Some(attempt), outcome, begins: now, ends: now }
}

fn count(world: &World, effect: Effect) -> usize {
    world.effects.iter().filter(|e| **e == effect).count()
}

#[test]
fn no_failure_is_lost() {
    let connect = tried(Connect, Failure, NOW.0);
    let probe = tried(Probe, Failure, NOW.0);
    let start = world(Model::new(0), 100, &[&[connect, connect], &[connect], &[probe]]);
    let ends = explore(&start, &|end| {
        assert_eq!(count(end, Effect::Counted), 4);
        assert_eq!((end.word.connect_failures(), end.word.probe_failures()), (3, 1));
    });
    assert!(ends > 1_000, "{ends}");
}

#[test]
fn the_breaker_opens_once() {
    let failure = tried(Connect, Failure, NOW.0);
    let start = world(Model::new(0), 2, &[&[failure], &[failure], &[failure, failure]]);
    let ends = explore(&start, &|end| {
        assert_eq!((count(end, Effect::Counted), count(end, Effect::Opened)), (1, 1));
        assert_eq!(end.word.connect_failures(), 2, "what was in flight does not count any more");
        assert_eq!(end.word.state(NOW), State::Cooldown);
    });
    assert!(ends > 1_000, "{ends}");
}

#[test]
fn a_success_between_failures_falls_into_one_place() {
    let failure = tried(Connect, Failure, NOW.0);
    let success = tried(Connect, Success, NOW.0);
    let start = world(Model::new(0), 3, &[&[failure, failure], &[success], &[failure]]);
    let opened = core::cell::Cell::new(0);
    let ends = explore(&start, &|end| opened.set(opened.get() + count(end, Effect::Opened)));
    assert!(0 < opened.get() && opened.get() < ends, "{} of {ends}", opened.get());
}

#[test]
fn one_attempt_decides_a_probation() {
    let until = (NOW.0 + COOLDOWN.0).next_multiple_of(UNIT);
    let open = Model { breaker: Breaker::Open { until }, epoch: 1, failures: [1, 0] };
    let tries = |outcome| [tried(Probe, outcome, until), tried(Connect, outcome, until)];
    let start = world(open, 1, &[&tries(Success), &tries(Failure), &[tried(Connect, Failure, until)]]);
    explore(&start, &|end| {
        assert!(matches!(end.effects[0], Effect::Closed | Effect::Opened));
        // A closed breaker can be opened by what begins then; one that cools down is not touched again.
        let decided = count(end, Effect::Closed) + count(end, Effect::Opened);
        assert_eq!(end.model.epoch, 1 + decided as u64);
        assert_eq!(count(end, Effect::Closed), usize::from(end.effects[0] == Effect::Closed));
    });
}

#[test]
fn what_began_before_the_cooldown_does_not_decide_after_it() {
    let until = (NOW.0 + COOLDOWN.0).next_multiple_of(UNIT);
    let slow = |outcome| Try { attempt: Some(Connect), outcome, begins: NOW.0, ends: until };
    let (failure, probe) = (tried(Connect, Failure, NOW.0), tried(Probe, Success, until));
    for outcome in [Success, Failure] {
        let start = world(Model::new(0), 1, &[&[failure], &[slow(outcome)], &[probe]]);
        let decided = core::cell::Cell::new(0);
        explore(&start, &|end| {
            // Opened by the first, then closed by the probe: what the slow one brought was too late.
            if end.effects == [Effect::Opened, Effect::Dropped, Effect::Closed] {
                assert_eq!(end.word, word(0, 2, 0, 0));
                decided.set(decided.get() + 1);
            }
        });
        assert!(decided.get() > 0);
    }
}

/// A person resumes while failures come in: it falls into one place among them, and what began before it counts no more.
#[test]
fn a_resume_falls_into_one_place() {
    const RESUME: Try = Try { attempt: None, outcome: Success, begins: 0, ends: 0 };
    let failure = tried(Connect, Failure, NOW.0);
    let start = world(Model::new(0), 2, &[&[failure, failure], &[RESUME], &[failure, RESUME]]);
    let open = core::cell::Cell::new(0);
    let ends = explore(&start, &|end| {
        assert_eq!(count(end, Effect::Closed), 2);
        assert_eq!(end.model.epoch, 2 + count(end, Effect::Opened) as u64);
        open.set(open.get() + usize::from(end.word.state(NOW) == State::Cooldown));
    });
    assert!(ends > 1_000 && open.get() < ends, "{} of {ends}", open.get());
}

/// The word as the agent has it.
struct Shared(AtomicU64);

impl Cell for Shared {
    fn load(&self) -> Word {
        Word(self.0.load(Ordering::SeqCst))
    }

    fn swap(&self, old: Word, new: Word) -> bool {
        self.0.compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[test]
fn on_real_threads_every_epoch_has_its_one_opening_and_closing() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 20_000;
    // Short, to meet thousands of cooldowns.
    let limits = Limits { cooldown: SpanNs(SECOND / 4), threshold: 3, pad: 0 };
    let cell = Shared(AtomicU64::new(0));
    // Each thread has a clock of its own, so all states are met at once.
    let run = |thread: u64| {
        let mut changes = Vec::new();
        for round in 0..ROUNDS {
            let now = at(NOW.0 + (round * THREADS + thread) * SECOND / 100);
            let Some(ticket) = cell.load().begin(now) else { continue };
            let attempt = BOTH[(round % 2) as usize];
            let outcome = if (round / 16 + thread).is_multiple_of(3) { Success } else { Failure };
            match settle(&cell, attempt, outcome, ticket, limits, now) {
                Step::Opened(word) => changes.push((true, super::ticket(word).0)),
                Step::Closed(word) => changes.push((false, super::ticket(word).0)),
                Step::Counted(word) => assert_eq!(super::ticket(word), ticket, "counted in its own epoch"),
                Step::Dropped | Step::Unchanged => {}
            }
        }
        changes
    };
    let mut changes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || run(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it asserts")).collect()
    });
    changes.sort_unstable_by_key(|change| change.1);
    let epochs: Vec<_> = changes.iter().map(|change| change.1).collect();
    let all: Vec<_> = (1..=changes.len() as u32).collect();
    assert_eq!(epochs, all, "each epoch begins with one change, and no change is of an epoch gone by");
    assert!(changes.iter().any(|c| c.0) && changes.iter().any(|c| !c.0));
    assert!(changes.len() > 100, "{}", changes.len());
    assert!(changes[0].0, "it was closed");
    assert!(changes.windows(2).all(|two| two[0].0 || two[1].0), "nothing closes twice in a row");
    assert_eq!(ticket(cell.load()).0 as usize, changes.len());
}

#[test]
fn on_real_threads_no_failure_is_lost() {
    // As many results as there are tries: none can find the word changed under it more often.
    const THREADS: u32 = MAX_TRIES;
    for _ in 0..200 {
        let cell = Shared(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| settle(&cell, Connect, Failure, Ticket(0), limits(100), NOW));
            }
        });
        assert_eq!(cell.load().connect_failures(), THREADS);
    }
}
