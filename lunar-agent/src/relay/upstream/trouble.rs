//! What keeps the gateway from being reached, and how often that is told of.

use std::time::Duration;

use tokio::time::Instant;

/// How long the same reason is not told of again.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The most reasons that are told of in that time: endpoints may each have one.
const MAX_TOLD: usize = 16;

/// The trouble of all connects together.
#[derive(Default)]
pub struct Trouble {
    /// Why the last connect failed, if it did.
    pub last: Option<String>,
    /// What was told of, and when.
    told: Vec<(String, Instant)>,
}

impl Trouble {
    /// A connect has failed. Says whether that is to be told of: the reason is another, or long ago.
    pub fn failed(&mut self, reason: &str, now: Instant) -> bool {
        if self.last.as_deref() != Some(reason) {
            self.last = Some(reason.to_owned());
        }
        self.told.retain(|(_, at)| now.duration_since(*at) < TELL_EVERY);
        let new = self.told.len() < MAX_TOLD && self.told.iter().all(|(told, _)| told != reason);
        if new {
            self.told.push((reason.to_owned(), now));
        }
        new
    }

    /// A connect has come about.
    pub fn over(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_of_when_it_is_new_and_every_ten_seconds() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let mut told = |reason, at| trouble.failed(reason, start + Duration::from_millis(at));
        assert!(told("refused", 0) && !told("refused", 1), "once");
        assert!(told("timed out", 2), "another");
        assert!(!told("refused", 3) && !told("timed out", 4), "endpoints take turns");
        assert!(!told("refused", 9_999) && told("refused", 10_000), "again after a while");
    }

    #[test]
    fn the_last_reason_is_known_until_a_success_and_its_return_is_no_news() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        assert!(trouble.failed("refused", now));
        assert!(trouble.failed("timed out", now));
        assert_eq!(trouble.last.as_deref(), Some("timed out"));
        trouble.over();
        assert_eq!(trouble.last, None);
        assert!(!trouble.failed("refused", now));
        assert_eq!(trouble.last.as_deref(), Some("refused"));
    }

    #[test]
    fn reasons_without_number_are_not_all_told_of() {
        let (mut trouble, now) = (Trouble::default(), Instant::now());
        let told = (0..1000).filter(|nth| trouble.failed(&nth.to_string(), now)).count();
        assert_eq!(told, MAX_TOLD);
    }
}
