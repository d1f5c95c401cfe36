//! What happens when the gateway fails a request, and what the failsafe is told (DESIGN section 5, "Replay").
//!
//! | the gateway | the request | next | the failsafe |
//! |---|---|---|---|
//! | cannot be connected to | body whole | direct | failure |
//! | | otherwise | close | failure |
//! | is not asked, for no reason of its own | body whole | direct | nothing |
//! | | otherwise | close | nothing |
//! | dies or hangs before an answer | idempotent, body whole | direct | as the direct attempt shows |
//! | | otherwise | close | nothing |
//! | answers with what is not understood | idempotent, body whole | direct | as the direct attempt shows |
//! | | otherwise | pass the answer | nothing |
//! | has part of a body that turns out to be none | idempotent, body whole | direct | nothing |
//! | | otherwise | close | nothing |
//! | shows an indicator, code 1 or 10 | body whole | direct | failure |
//! | | otherwise | pass the answer | failure |
//! | shows an indicator, code 2 or 5 | body whole | direct | as the direct attempt shows |
//! | | otherwise | pass the answer | nothing |
//! | shows an indicator, another code or none | idempotent, body whole | direct | as the direct attempt shows |
//! | | otherwise | pass the answer | nothing |
//! | answers, and wants the request again | body whole, within the bounds | again, after the time | success |
//! | | otherwise | pass the answer | success |
//! | answers | any | pass the answer | success |
//!
//! | the direct attempt | next | the failsafe, where it was to show |
//! |---|---|---|
//! | brings a complete head without an indicator | pass the answer | failure: the gateway's own |
//! | brings a complete head with an indicator | pass the answer | nothing: the provider's |
//! | answers with what is not understood | pass the answer | nothing |
//! | fails | close | nothing: the provider's |
//!
//! That is [`Mode::Safe`]. In [`Mode::Idempotent`] what an answer says of itself, a code or the wish for a repetition, makes
//! nothing be sent twice that is not idempotent. In [`Mode::Never`] nothing is sent twice; what could not be sent at all still
//! goes direct.

use std::time::Duration;

use http::HeaderValue;
use lunar_common::failsafe::Outcome;
use serde::{Deserialize, Serialize};

use super::http::head::{ResponseHead, Retry};

/// The codes of `x-lunar-error` by which the gateway says that the request did not reach the provider: no host, connection
/// refused, name not resolved, draining.
const NEVER_ARRIVED: [u32; 4] = [1, 2, 5, 10];
/// Those of them that are about the gateway itself, so they need no evidence.
const ALWAYS_THE_GATEWAYS: [u32; 2] = [1, 10];

/// What may be sent twice (`relay.replay`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// What is idempotent, and what the gateway says never arrived.
    Safe,
    /// What is idempotent.
    Idempotent,
    /// Nothing.
    Never,
}

/// What the configuration says of replays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What may be sent twice.
    pub mode: Mode,
    /// How often a request is sent again because the gateway wants it (`relay.retry_max`).
    pub retry_max: u32,
    /// How old a request may be when it is sent again for that (`relay.retry_total`).
    pub retry_total: Duration,
}

/// How an attempt at the gateway ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtGateway<'a> {
    /// No byte of the request was sent.
    ConnectFailed,
    /// The same, and nothing shows that the gateway is in trouble: this side could not so much as ask (no socket, no mark, no
    /// certificate to trust, no name to trust it by), or the gateway does not speak the request's protocol.
    NotAsked,
    /// It may have been sent, and no answer came: the gateway died, or took too long.
    Lost,
    /// An answer came whose head is not understood, or too large. Its bytes can still pass, until the connection closes.
    NotUnderstood,
    /// The attempt was broken off: the application's body is malformed. Two readers could find its end in two places, so the
    /// rest may not go to the gateway, which might find in it a request that is none.
    BrokenOff,
    /// The head of a final answer came.
    Answered(&'a ResponseHead),
}

/// How an attempt at the provider ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtProvider<'a> {
    /// No connection, or it ended before the head of an answer was complete.
    Failed,
    /// An answer came whose head is not understood, or too large. Its bytes can still pass, until the connection closes.
    NotUnderstood,
    /// The head of a final answer came.
    Answered(&'a ResponseHead),
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// With the request.
    pub next: Next,
    /// What to settle into the failsafe word, with the ticket of the attempt at the gateway.
    pub settle: Option<Outcome>,
}

/// What to do with the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The answer goes to the application as it is.
    Pass,
    /// The request goes to the provider; what comes of it is to be told to the [`DirectAttempt`].
    Direct(DirectAttempt),
    /// The application's connection is closed, as it would be without a gateway.
    Close,
    /// The request goes to the gateway again.
    Retry {
        /// After this time.
        after: Duration,
        /// With this `x-lunar-sequence-id`.
        sequence_id: HeaderValue,
    },
}

/// One request on its way through the gateway.
#[derive(Clone, Debug)]
pub struct Exchange {
    rules: Rules,
    idempotent: bool,
    retries: u32,
}

/// What stands at the time an attempt at the gateway ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    /// Whether all of the body that the application has sent so far is still in the replay buffer; true without a body.
    pub body_whole: bool,
    /// How old the request is.
    pub age: Duration,
}

impl Exchange {
    /// A request that is about to be sent.
    pub fn new(rules: Rules, idempotent: bool) -> Self {
        Self { rules, idempotent, retries: 0 }
    }

    /// What follows from an attempt at the gateway.
    pub fn gateway(&mut self, outcome: AtGateway<'_>, situation: Situation) -> Step {
        let Situation { body_whole, age } = situation;
        match outcome {
            // Sent for the first time; no mode forbids that.
            AtGateway::ConnectFailed | AtGateway::NotAsked => {
                let next = if body_whole { direct(false) } else { Next::Close };
                let failed = outcome == AtGateway::ConnectFailed;
                Step { next, settle: failed.then_some(Outcome::Failure) }
            }
            AtGateway::Lost | AtGateway::NotUnderstood => {
                let otherwise = if outcome == AtGateway::Lost { Next::Close } else { Next::Pass };
                let again = body_whole && self.repeatable(false);
                Step { next: if again { direct(true) } else { otherwise }, settle: None }
            }
            AtGateway::BrokenOff => {
                let again = body_whole && self.repeatable(false);
                Step { next: if again { direct(false) } else { Next::Close }, settle: None }
            }
            AtGateway::Answered(head) if head.indicated => {
                let code_is = |codes: &[u32]| head.error_code.is_some_and(|code| codes.contains(&code));
                let certain = code_is(&ALWAYS_THE_GATEWAYS);
                let again = body_whole && self.repeatable(code_is(&NEVER_ARRIVED));
                let next = if again { direct(!certain) } else { Next::Pass };
                Step { next, settle: certain.then_some(Outcome::Failure) }
            }
            AtGateway::Answered(head) => {
                let retry = head.retry.as_ref().filter(|retry| body_whole && self.may_retry(retry, age));
                let next = match retry {
                    None => Next::Pass,
                    Some(Retry { after, sequence_id }) => {
                        self.retries += 1;
                        Next::Retry { after: *after, sequence_id: sequence_id.clone() }
                    }
                };
                Step { next, settle: Some(Outcome::Success) }
            }
        }
    }

    /// Whether the request may be sent once more; `disclaimed`: the gateway says that it was not executed.
    fn repeatable(&self, disclaimed: bool) -> bool {
        match self.rules.mode {
            Mode::Safe => self.idempotent || disclaimed,
            Mode::Idempotent => self.idempotent,
            Mode::Never => false,
        }
    }

    fn may_retry(&self, retry: &Retry, age: Duration) -> bool {
        let in_time = age.checked_add(retry.after).is_some_and(|then| then <= self.rules.retry_total);
        in_time && self.retries < self.rules.retry_max && self.repeatable(true)
    }
}

fn direct(decides: bool) -> Next {
    Next::Direct(DirectAttempt { decides })
}

/// An attempt at the provider after one at the gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectAttempt {
    /// Whether it shows whose fault it was; otherwise that was certain.
    decides: bool,
}

impl DirectAttempt {
    /// What follows from it.
    pub fn ended(self, outcome: AtProvider<'_>) -> Step {
        match outcome {
            AtProvider::Failed => Step { next: Next::Close, settle: None },
            AtProvider::NotUnderstood => Step { next: Next::Pass, settle: None },
            AtProvider::Answered(head) => {
                let gateways = self.decides && !head.indicated;
                Step { next: Next::Pass, settle: gateways.then_some(Outcome::Failure) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
