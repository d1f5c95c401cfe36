//! The failsafe: one 64-bit word per endpoint, changed only by compare-and-swap, by the kernel's
//! programs and by the agent, through the transitions of this module (DESIGN section 4).
//!
//! ```text
//! 63                              28 27        14 13      7 6       0
//! | deadline, units of 2^24 ns      | epoch      | connects| probes  |
//! ```
//!
//! There are no state bits: closed is "no deadline", cooldown is "the deadline lies ahead" and
//! probation "the deadline has passed". So the state shown anywhere is computed from the word at that
//! moment, and the end of a cooldown needs nobody to write anything.

use crate::time::{KtimeNs, SpanNs};

/// Log2 of the deadline's unit in nanoseconds: 16.8 ms. A shift, because BPF pays for a division;
/// 36 bits of it last 36 years of uptime.
const UNIT_SHIFT: u32 = 24;
const DEADLINE_BITS: u32 = 36;
const EPOCH_BITS: u32 = 14;
const COUNT_BITS: u32 = 7;

const PROBES_AT: u32 = 0;
const CONNECTS_AT: u32 = COUNT_BITS;
const EPOCH_AT: u32 = 2 * COUNT_BITS;
const DEADLINE_AT: u32 = EPOCH_AT + EPOCH_BITS;

const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const EPOCH_MASK: u64 = (1 << EPOCH_BITS) - 1;
const DEADLINE_MASK: u64 = (1 << DEADLINE_BITS) - 1;
const _: () = assert!(DEADLINE_AT + DEADLINE_BITS == 64);

/// The most consecutive failures a word can count, and so the largest threshold there can be.
pub const MAX_FAILURES: u32 = COUNT_MASK as u32;

/// How often a compare-and-swap is tried before the result is given up (each failed try means that
/// somebody else's result went in, and the verifier wants a bound).
const MAX_TRIES: u32 = 8;

/// What the word says at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Traffic goes to the endpoint.
    Closed,
    /// Traffic goes direct until the deadline.
    Cooldown,
    /// The deadline has passed; one attempt decides.
    Probation,
}

/// Which of the two counts a result belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// An application's redirected connect, or the relay's own connection to the gateway.
    Connect,
    /// The agent's health probe.
    Probe,
}

/// How an attempt ended. One that was given up has no outcome and is not reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The endpoint answered.
    Success,
    /// It did not.
    Failure,
}

/// Proof of when an attempt began; a result without a ticket of the word's epoch is dropped.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticket(pub u32);

/// The two figures of the configuration that the transitions need.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `exit_cooldown_after_sec`.
    pub cooldown: SpanNs,
    /// `enter_cooldown_after_attempts`, 1 to [`MAX_FAILURES`].
    pub threshold: u32,
    /// Always zero.
    pub pad: u32,
}

/// What a result did to the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing: the attempt began in an older epoch, or the word is cooling down.
    Dropped,
    /// Nothing changes: a success where nothing was counted.
    Unchanged,
    /// The counts change, the state does not.
    Counted(Word),
    /// The breaker opens: from closed by the last of its failures, or from probation by one.
    Opened(Word),
    /// A success in probation closes the breaker.
    Closed(Word),
}

/// The word itself. Zero, what a new map holds, is closed with nothing counted.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Word(pub u64);

impl Word {
    const fn pack(deadline: u64, epoch: u64, connects: u64, probes: u64) -> Self {
        Self(
            (deadline & DEADLINE_MASK) << DEADLINE_AT
                | (epoch & EPOCH_MASK) << EPOCH_AT
                | (connects & COUNT_MASK) << CONNECTS_AT
                | (probes & COUNT_MASK) << PROBES_AT,
        )
    }

    #[inline(always)]
    const fn deadline_units(self) -> u64 {
        self.0 >> DEADLINE_AT
    }

    #[inline(always)]
    const fn epoch(self) -> u64 {
        self.0 >> EPOCH_AT & EPOCH_MASK
    }

    /// Consecutive failed connects.
    #[inline(always)]
    pub const fn connect_failures(self) -> u32 {
        (self.0 >> CONNECTS_AT & COUNT_MASK) as u32
    }

    /// Consecutive failed probes.
    #[inline(always)]
    pub const fn probe_failures(self) -> u32 {
        (self.0 >> PROBES_AT & COUNT_MASK) as u32
    }

    /// When the cooldown ends or ended; `None` while closed.
    #[inline(always)]
    pub const fn deadline(self) -> Option<KtimeNs> {
        match self.deadline_units() {
            0 => None,
            units => Some(KtimeNs(units << UNIT_SHIFT)),
        }
    }

    /// The state at `now`.
    #[inline(always)]
    pub const fn state(self, now: KtimeNs) -> State {
        match self.deadline() {
            None => State::Closed,
            Some(deadline) if now.0 < deadline.0 => State::Cooldown,
            Some(_) => State::Probation,
        }
    }

    /// Begins an attempt at `now`: the ticket its result must show, or `None` in a cooldown, during
    /// which nothing that happens may change the word.
    #[inline(always)]
    pub const fn begin(self, now: KtimeNs) -> Option<Ticket> {
        match self.state(now) {
            State::Cooldown => None,
            State::Closed | State::Probation => Some(Ticket(self.epoch() as u32)),
        }
    }

    /// Whether an application's connect may go to the endpoint at `now`: when closed, and in
    /// probation only once the agent's probe has had `grace` (interval + timeout) to decide.
    #[inline(always)]
    pub const fn admit(self, now: KtimeNs, grace: SpanNs) -> Option<Ticket> {
        match self.deadline() {
            Some(deadline) if now.0 < deadline.after(grace).0 => None,
            _ => Some(Ticket(self.epoch() as u32)),
        }
    }

    /// What a result at `now`, of an attempt that began with `ticket`, makes of the word.
    #[inline(always)]
    pub const fn settle(
        self,
        attempt: Attempt,
        outcome: Outcome,
        ticket: Ticket,
        limits: Limits,
        now: KtimeNs,
    ) -> Step {
        if ticket.0 as u64 != self.epoch() {
            return Step::Dropped;
        }
        match (self.state(now), outcome) {
            (State::Cooldown, _) => Step::Dropped,
            (State::Closed, Outcome::Success) => {
                let reset = self.with_count(attempt, 0);
                if reset.0 == self.0 { Step::Unchanged } else { Step::Counted(reset) }
            }
            (State::Probation, Outcome::Success) => Step::Closed(self.closed()),
            (State::Closed, Outcome::Failure) => {
                let failed = self.with_count(attempt, self.count(attempt) + 1);
                if failed.count(attempt) >= limits.threshold {
                    Step::Opened(failed.opened(limits.cooldown, now))
                } else {
                    Step::Counted(failed)
                }
            }
            (State::Probation, Outcome::Failure) => {
                Step::Opened(self.with_count(attempt, self.count(attempt) + 1).opened(limits.cooldown, now))
            }
        }
    }

    /// The word closed by hand or by a success: counts zero, a new epoch, so that nothing that began
    /// before counts.
    #[inline(always)]
    pub const fn closed(self) -> Self {
        Self::pack(0, self.epoch() + 1, 0, 0)
    }

    #[inline(always)]
    const fn opened(self, cooldown: SpanNs, now: KtimeNs) -> Self {
        // Rounded up, so that a cooldown is never shorter than configured; and held to what the field can say, so
        // that one of centuries does not wrap around into the past.
        let until = now.after(cooldown).after(SpanNs((1 << UNIT_SHIFT) - 1)).0 >> UNIT_SHIFT;
        let until = if until > DEADLINE_MASK { DEADLINE_MASK } else { until };
        Self::pack(until, self.epoch() + 1, self.connect_failures() as u64, self.probe_failures() as u64)
    }

    #[inline(always)]
    const fn count(self, attempt: Attempt) -> u32 {
        match attempt {
            Attempt::Connect => self.connect_failures(),
            Attempt::Probe => self.probe_failures(),
        }
    }

    #[inline(always)]
    const fn with_count(self, attempt: Attempt, count: u32) -> Self {
        let count = if count > MAX_FAILURES { COUNT_MASK } else { count as u64 };
        let at = match attempt {
            Attempt::Connect => CONNECTS_AT,
            Attempt::Probe => PROBES_AT,
        };
        Self(self.0 & !(COUNT_MASK << at) | count << at)
    }
}

/// Where a word lies: a map value in the kernel, a mapped page in the agent.
pub trait Cell {
    /// The word now.
    fn load(&self) -> Word;
    /// Replaces `old` by `new` and says whether the word was still `old`.
    fn swap(&self, old: Word, new: Word) -> bool;
}

/// Enters a result. Returns what it did; [`Step::Dropped`] also when the word would not hold still.
pub fn settle(
    cell: &impl Cell,
    attempt: Attempt,
    outcome: Outcome,
    ticket: Ticket,
    limits: Limits,
    now: KtimeNs,
) -> Step {
    persist(|| settle_once(cell, attempt, outcome, ticket, limits, now)).unwrap_or(Step::Dropped)
}

/// Tries as often as a result is worth; `None` when none of the tries came to anything.
#[inline(always)]
pub fn persist<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..MAX_TRIES {
        let done = attempt();
        if done.is_some() {
            return done;
        }
    }
    None
}

/// One try of [`settle`]; `None` when the word did not hold still.
#[inline(always)]
pub fn settle_once(
    cell: &impl Cell,
    attempt: Attempt,
    outcome: Outcome,
    ticket: Ticket,
    limits: Limits,
    now: KtimeNs,
) -> Option<Step> {
    let old = cell.load();
    let step = old.settle(attempt, outcome, ticket, limits, now);
    match step {
        Step::Dropped | Step::Unchanged => Some(step),
        Step::Counted(new) | Step::Opened(new) | Step::Closed(new) => cell.swap(old, new).then_some(step),
    }
}

/// Closes the breaker by hand, whatever else happens to it meanwhile. Returns the word it made.
pub fn close(cell: &impl Cell) -> Word {
    loop {
        let old = cell.load();
        let new = old.closed();
        if cell.swap(old, new) {
            return new;
        }
    }
}

#[cfg(test)]
mod tests;
