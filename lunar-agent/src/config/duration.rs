//! Durations for people: `350ms`, `1.5s`, `10m`.

use std::fmt;
use std::time::Duration;

/// Longer texts say nothing that a shorter one could not, and humantime 2.4 panics when several huge numbers add up to just
/// more than `u64::MAX` seconds, which takes more digits than this.
const MAX_TEXT_LEN: usize = 16;

/// Reads a duration with a unit, such as `500ms`, `1.5s` or `1h 30m`.
///
/// # Errors
/// A sentence that goes on from the text itself.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    if text.len() > MAX_TEXT_LEN {
        return Err(format!(
            "is longer than {MAX_TEXT_LEN} characters; write it as \"500ms\", \"1.5s\" or \"10m\""
        ));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("is not a duration: {error}; write it as \"500ms\", \"1.5s\" or \"10m\""))
}

/// Shows a duration exactly, in the units a person would choose; [`humantime`] and the configuration can read it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let total = self.0.as_secs();
        if total == 0 && nanos > 0 {
            return write_decimal(f, u64::from(nanos), 6, "ms");
        }
        let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || nanos > 0 || total == 0 {
            write_decimal(f, seconds * 1_000_000_000 + u64::from(nanos), 9, "s")?;
        }
        Ok(())
    }
}

/// Writes `value / 10^places` without trailing zeros.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: u64, places: u32, unit: &str) -> fmt::Result {
    let scale = 10u64.pow(places);
    let fraction = format!("{:0width$}", value % scale, width = places as usize);
    match fraction.trim_end_matches('0') {
        "" => write!(f, "{}{unit}", value / scale),
        digits => write!(f, "{}.{digits}{unit}", value / scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shows_what_a_person_would_write() {
        for (duration, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_micros(1500), "1.5ms"),
            (Duration::from_millis(350), "350ms"),
            (Duration::from_secs(1), "1s"),
            (Duration::from_millis(1200), "1.2s"),
            (Duration::from_secs(90), "1m30s"),
            (Duration::from_secs(600), "10m"),
            (Duration::from_secs(3600), "1h"),
            (Duration::from_secs(86_400), "24h"),
            (Duration::from_millis(3_661_050), "1h1m1.05s"),
        ] {
            assert_eq!(HumanDuration(duration).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_has_no_unit_or_no_end() {
        for text in ["", "1", "abc", "-1s", "1.s", "1 parsec", "18446744073709551615s1000ms"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
    }

    proptest! {
        #[test]
        fn parse_never_panics(text in any::<String>(), near in "[0-9.]{0,20}(ms|s|m|h|y|months| )?[0-9]{0,9}(ms|s)?") {
            let _ = (parse(&text), parse(&near));
        }

        #[test]
        fn shows_what_it_can_read_back(millis in 0u64..100_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(humantime::parse_duration(&HumanDuration(duration).to_string()), Ok(duration));
        }
    }
}
