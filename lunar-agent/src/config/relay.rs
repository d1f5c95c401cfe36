//! `[relay]`: what the relay may do with requests.

use std::time::Duration;

use super::check::{self, Checker, Refusal};
use super::keyword::keyword;
use super::layer::RawValue;
use crate::relay::http::head::ErrorIndicator;
use crate::relay::replay::Mode;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes that are kept of one request's body.
const MOST_KEPT: u64 = 16 << 20;

keyword! {
    /// What may be sent twice.
    Replay {
        /// What is idempotent, and what the gateway says never arrived.
        Safe = "safe",
        /// What is idempotent.
        Idempotent = "idempotent",
        /// Nothing.
        Never = "never",
    }
}

impl From<Replay> for Mode {
    fn from(replay: Replay) -> Self {
        match replay {
            Replay::Safe => Self::Safe,
            Replay::Idempotent => Self::Idempotent,
            Replay::Never => Self::Never,
        }
    }
}

/// `[relay]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// What shows in a response that the gateway is in trouble; may be empty.
    pub error_indicators: Vec<ErrorIndicator>,
    /// What may be sent twice.
    pub replay: Replay,
    /// So many bytes of a request's body are kept for that, at most 16 MiB.
    pub replay_buffer: Bytes,
    /// How often a request is sent again because the gateway wants it, at most 1,000.
    pub retry_max: u16,
    /// How old it may be then, at most a day.
    pub retry_total: Duration,
    /// How long a relay that another has taken over from may finish its requests, at most a day.
    pub drain_timeout: Duration,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            n if n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

pub(super) fn check(c: &mut Checker<'_>) -> Option<Relay> {
    const INDICATORS: &str = "relay.error_indicators";
    let indicators = c.list(INDICATORS, |item| check::parsed(&item.value).map_err(|refusal| vec![refusal]));
    let indicators = indicators.map(|list| list.into_iter().map(|(i, _)| i).collect::<Vec<ErrorIndicator>>());
    if let Some(indicators) = &indicators {
        c.record(INDICATORS.to_owned(), indicators, &c.source(INDICATORS));
    }
    let replay = c.value("relay.replay", check::parsed);
    let replay_buffer = c.value("relay.replay_buffer", bytes);
    let retry_max = c.value("relay.retry_max", retry_max);
    let retry_total = c.value("relay.retry_total", check::duration(Duration::ZERO..=DAY));
    let drain_timeout = c.value("relay.drain_timeout", check::duration(Duration::ZERO..=DAY));
    Some(Relay {
        error_indicators: indicators?,
        replay: replay?,
        replay_buffer: replay_buffer?,
        retry_max: retry_max?,
        retry_total: retry_total?,
        drain_timeout: drain_timeout?,
    })
}

fn bytes(value: &RawValue) -> Result<Bytes, Refusal> {
    let text = check::text(value)?.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(factor).map(|(n, factor)| n.saturating_mul(factor));
    match bytes {
        Some(bytes) if bytes <= MOST_KEPT => Ok(Bytes(bytes)),
        Some(_) => Err(Refusal::invalid(format!("{text:?} is out of range; use 0B to {}", Bytes(MOST_KEPT)))),
        None => Err(Refusal::invalid(format!(
            "{text:?} is no number of bytes; write it like \"64KiB\" (B, KiB or MiB)"
        ))),
    }
}

fn retry_max(value: &RawValue) -> Result<u16, Refusal> {
    let number = check::integer(value)?;
    match u16::try_from(number) {
        Ok(times @ 0..=1000) => Ok(times),
        _ => Err(Refusal::invalid(format!("{number} is out of range; use 0 to 1000"))),
    }
}
