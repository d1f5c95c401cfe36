//! The failsafe once more, as its contract reads: states by name, times in nanoseconds, epochs without end.

use super::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breaker {
    Closed,
    /// Open until then, and on probation from then on.
    Open {
        until: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Model {
    pub breaker: Breaker,
    pub epoch: u64,
    /// Of connects, of probes.
    pub failures: [u32; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Dropped,
    Unchanged,
    Counted,
    Opened,
    Closed,
}

impl Model {
    pub fn new(epoch: u64) -> Self {
        Self { breaker: Breaker::Closed, epoch, failures: [0, 0] }
    }

    pub fn cooling(&self, now: u64) -> bool {
        matches!(self.breaker, Breaker::Open { until } if now < until)
    }

    /// Enters a result of an attempt that began in epoch `began`.
    pub fn enter(
        &mut self,
        attempt: Attempt,
        outcome: Outcome,
        began: u64,
        threshold: u32,
        now: u64,
    ) -> Effect {
        if began != self.epoch || self.cooling(now) {
            return Effect::Dropped;
        }
        let on_probation = self.breaker != Breaker::Closed;
        let own = &mut self.failures[usize::from(attempt == Probe)];
        if outcome == Success {
            if on_probation {
                *self = Self::new(self.epoch + 1);
                return Effect::Closed;
            }
            return if core::mem::take(own) == 0 { Effect::Unchanged } else { Effect::Counted };
        }
        *own += 1;
        if !on_probation && *own < threshold {
            return Effect::Counted;
        }
        let exactly = now + COOLDOWN.0;
        self.breaker = Breaker::Open { until: exactly.next_multiple_of(UNIT) };
        self.epoch += 1;
        Effect::Opened
    }

    /// Closes by hand.
    pub fn resume(&mut self) -> Effect {
        *self = Self::new(self.epoch + 1);
        Effect::Closed
    }

    /// The word that says the same.
    pub fn word(&self) -> Word {
        let units = match self.breaker {
            Breaker::Closed => 0,
            Breaker::Open { until } => until / UNIT,
        };
        word(units, self.epoch % (1 << 14), self.failures[0].into(), self.failures[1].into())
    }
}

/// What a step of the real thing did, and the word after it.
pub fn effect(step: Step, before: Word) -> (Effect, Word) {
    match step {
        Step::Dropped => (Effect::Dropped, before),
        Step::Unchanged => (Effect::Unchanged, before),
        Step::Counted(word) => (Effect::Counted, word),
        Step::Opened(word) => (Effect::Opened, word),
        Step::Closed(word) => (Effect::Closed, word),
    }
}
