//! Which endpoint a request goes to, and what the failsafe is told of it. The words are the kernel's own.

use lunar_common::{
    failsafe::{self, Attempt, Cell, Outcome, Step, Ticket},
    time::KtimeNs,
};

use super::{route::Gateway, setup::Settings};
use crate::kernel::breaker::Breaker;

/// An endpoint that takes a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admitted {
    /// Its place in [`Setup::endpoints`](super::setup::Setup::endpoints).
    pub nth: usize,
    /// Its slot.
    pub slot: u32,
    /// The failsafe's ticket.
    pub ticket: Ticket,
}

/// The failsafe, as the relay uses it.
pub struct Gateways(Breaker);

impl Gateways {
    /// With the kernel's words.
    pub fn new(breaker: Breaker) -> Self {
        Self(breaker)
    }

    /// The words and the control block.
    #[cfg(test)]
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.0
    }

    /// The endpoint that takes the next request, the search beginning at a random one, or why there is none.
    ///
    /// # Errors
    /// [`Gateway::Forced`], [`Gateway::LeaseStale`] or [`Gateway::Cooldown`].
    pub fn admit(&self, settings: &Settings, now: KtimeNs) -> Result<Admitted, Gateway> {
        if now.since(self.0.heartbeat()) >= settings.lease {
            return Err(Gateway::LeaseStale);
        }
        if self.0.forced() {
            return Err(Gateway::Forced);
        }
        let endpoints = &settings.setup.endpoints;
        let (count, unready) = (endpoints.len(), self.0.unready());
        let first = if count > 1 { fastrand::usize(..count) } else { 0 };
        (0..count)
            .map(|step| (first + step) % count)
            .find_map(|nth| {
                let slot = endpoints[nth].slot;
                let ready = unready >> (slot & 31) & 1 == 0;
                let ticket = ready.then(|| self.0.word(slot).load().admit(now, settings.grace)).flatten()?;
                Some(Admitted { nth, slot, ticket })
            })
            .ok_or(Gateway::Cooldown)
    }

    /// Whether the failsafe of its endpoint has opened since a request was admitted. A stale lease does not count, since the agent's
    /// death says nothing of a gateway that has the request already, and neither does a bypass.
    pub fn opened(&self, settings: &Settings, admitted: Admitted, now: KtimeNs) -> bool {
        self.0.word(admitted.slot).load().admit(now, settings.grace).is_none()
    }

    /// Enters how a request went into the word of its endpoint.
    pub fn settle(&self, settings: &Settings, admitted: Admitted, outcome: Outcome, now: KtimeNs) -> Step {
        let word = self.0.word(admitted.slot);
        let step = failsafe::settle(&word, Attempt::Connect, outcome, admitted.ticket, settings.limits, now);
        let endpoint = settings.setup.endpoints.get(admitted.nth).map(|e| e.address);
        match step {
            Step::Opened(_) => {
                tracing::warn!(?endpoint, "failsafe opened by requests: traffic goes direct");
            }
            Step::Closed(_) => {
                tracing::info!(?endpoint, "failsafe closed by a request: traffic is redirected");
            }
            Step::Dropped | Step::Unchanged | Step::Counted(_) => {}
        }
        step
    }

    /// Renews the relay's lease.
    pub fn beat(&self) {
        self.0.relay_beat();
    }

    /// Ends the relay's lease: connects go direct from now on.
    pub fn rest(&self) {
        self.0.relay_rest();
    }
}
