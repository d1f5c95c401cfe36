//! `[failsafe]`: when traffic goes direct, and for how long.

use std::time::Duration;

use super::check::{self, Checker, Refusal};
use super::keyword::keyword;
use super::layer::RawValue;

keyword! {
    /// What SIGTERM does to the pins.
    OnStop {
        /// They stay; the lease bounds their effect, and a restart misses nothing.
        Keep = "keep",
        /// They go.
        Detach = "detach",
    }
}

/// `[failsafe]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafe {
    /// So many failures in a row start a cooldown; 1 to 100.
    pub enter_cooldown_after_attempts: u8,
    /// How long a cooldown lasts; 100 ms to 24 h.
    pub exit_cooldown_after: Duration,
    /// How old the agent's heartbeat may be before everything goes direct; 500 ms to 1 min.
    pub lease: Duration,
    /// What SIGTERM does to the pins.
    pub on_stop: OnStop,
}

pub(super) fn check(c: &mut Checker<'_>) -> Option<Failsafe> {
    let attempts = c.value("failsafe.enter_cooldown_after_attempts", attempts);
    let seconds = c.value("failsafe.exit_cooldown_after_sec", cooldown_seconds);
    let lease =
        c.value("failsafe.lease", check::duration(Duration::from_millis(500)..=Duration::from_secs(60)));
    let on_stop = c.value("failsafe.on_stop", check::parsed);
    Some(Failsafe {
        enter_cooldown_after_attempts: attempts?,
        exit_cooldown_after: Duration::from_secs_f64(seconds?),
        lease: lease?,
        on_stop: on_stop?,
    })
}

fn attempts(value: &RawValue) -> Result<u8, Refusal> {
    let number = check::integer(value)?;
    match u8::try_from(number) {
        Ok(attempts @ 1..=100) => Ok(attempts),
        _ => Err(Refusal::invalid(format!("{number} is out of range; use 1 to 100"))),
    }
}

fn cooldown_seconds(value: &RawValue) -> Result<f64, Refusal> {
    let seconds = check::number(value)?;
    if (0.1..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(Refusal::invalid(format!("{seconds} is out of range; use 0.1 to 86400 seconds")))
    }
}
