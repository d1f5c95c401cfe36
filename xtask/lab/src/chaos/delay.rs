//! How long applications had to wait for what they got in the end.

use super::{
    count::{Window, held_up},
    record::Record,
    report::Report,
    storm::RATE,
};

/// What is measured.
const TAKEN: &str = "from connect(2) to the provider's line";

/// A connect that takes longer than this, from connect(2) to the provider's line, has met something: nothing in this
/// world is a hundredth as slow by itself, and it is less than any retransmission of a SYN. µs.
pub(super) const SLOW: u32 = 150_000;
/// One good connect among so many may be slow in the long form, whatever was done: gateway and provider have to get the
/// CPU in time, on a machine that does other things too.
const ONE_IN: usize = 10_000;
/// A client that begins so late is held up itself, and hears late of everything: it tells about the machine, ns.
const HELD_UP: u64 = 50_000_000;
/// Lines of evidence.
const TOLD: usize = 20;

/// The times of good connects.
#[derive(Debug, Default)]
pub(super) struct Delay {
    ms: Vec<f64>,
    /// Slow ones, other than those below.
    slow: Vec<Record>,
    /// Slow ones that were under way while a gateway died.
    amid_death: usize,
    /// Slow ones that were under way while the machine was too busy for the client to begin others in time.
    held_up: usize,
}

impl Delay {
    /// Adds those among a storm's records, which met these deaths of gateways.
    pub(super) fn add(&mut self, records: &[Record], deaths: &[Window]) {
        let busy = held_up(records, 1_000_000_000 / RATE, HELD_UP);
        for record in records.iter().filter(|record| record.is_good()) {
            self.ms.push(f64::from(record.took_us) / 1e3);
            let met = |windows: &[Window]| windows.iter().any(|w| w.meets(record.start, record.end()));
            match record.took_us > SLOW {
                false => {}
                true if met(deaths) => self.amid_death += 1,
                true if met(&busy) => self.held_up += 1,
                true => self.slow.push(*record),
            }
        }
    }

    /// Shows them, and in the long form allows few slow ones; `of` says whose they are.
    pub(super) fn judge(self, report: &mut Report, of: &str) {
        report.times(&format!("{of}: {TAKEN}"), &self.ms, None);
        let slower = format!("{of}: slower than {} ms", SLOW / 1000);
        let limit = self.ms.len().div_ceil(ONE_IN);
        if self.amid_death > 0 {
            report.show(&format!("{slower}, under way when the gateway died"), self.amid_death);
        }
        if self.held_up > 0 {
            report.show(&format!("{slower} while the machine was busy"), self.held_up);
        }
        if report.is_brief() {
            report.show(&slower, self.slow.len());
        } else {
            report.at_most(&slower, self.slow.len(), limit);
        }
        if self.slow.len() > limit {
            report.evidence(
                self.slow.iter().take(TOLD).map(|record| format!("{of}: {}", record.tell(record.start))),
            );
        }
    }
}

/// Shows how long the good connects among these took, and how many were slow, whatever the reason.
pub(super) fn show<'a>(report: &mut Report, of: &str, records: impl Iterator<Item = &'a Record>) {
    let took: Vec<_> = records.filter(|record| record.is_good()).map(|record| record.took_us).collect();
    report.times(
        &format!("{of}: {TAKEN}"),
        &took.iter().map(|us| f64::from(*us) / 1e3).collect::<Vec<_>>(),
        None,
    );
    let slow = took.iter().filter(|us| **us > SLOW).count();
    report.show(&format!("{of}: slower than {} ms", SLOW / 1000), slow);
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::*;

    fn record(start: u64, took_us: u32, outcome: Outcome) -> Record {
        Record { start, connect_us: 1, took_us, outcome }
    }

    /// The first begins at 0, so that the client is in time with the others.
    fn in_time(ms: usize, took_us: u32, outcome: Outcome) -> Vec<Record> {
        let mut records: Vec<_> =
            (0..ms as u64).map(|ms| record(ms * 1_000_000, 100, Outcome::Direct)).collect();
        records.push(record(ms as u64 * 1_000_000, took_us, outcome));
        records
    }

    #[test]
    fn a_good_connect_is_slow_unless_a_death_or_the_machine_tells_why() {
        let death = Window { from: 400_000_000, to: 401_000_000 };
        for (took_us, outcome, deaths, expected) in [
            (150_000, Outcome::Gateway, &[][..], (0, 0)),
            (150_001, Outcome::Gateway, &[], (1, 0)),
            (900_000, Outcome::ConnectFailed(111), &[], (0, 0)),
            (900_000, Outcome::Silent, &[], (0, 0)),
            // From 300 ms on: amid the death, and before it.
            (150_001, Outcome::Direct, &[death], (0, 1)),
            (150_001, Outcome::Direct, &[Window { from: 460_000_000, to: 461_000_000 }], (1, 0)),
        ] {
            let mut delay = Delay::default();
            delay.add(&in_time(300, took_us, outcome), deaths);
            assert_eq!((delay.slow.len(), delay.amid_death), expected, "{took_us} µs, {outcome:?}");
            assert_eq!(delay.held_up, 0);
        }
        // The next begins 60 ms late.
        let mut records = in_time(300, 200_000, Outcome::Gateway);
        records.push(record(361_000_000, 100, Outcome::Gateway));
        let mut delay = Delay::default();
        delay.add(&records, &[]);
        assert_eq!((delay.slow.len(), delay.held_up, delay.ms.len()), (0, 1, 302));
    }

    #[test]
    fn slow_ones_are_judged_in_the_long_form_only() {
        for (brief, breaches) in [(true, 0), (false, 1)] {
            let mut delay = Delay::default();
            delay.add(&[record(0, 200_000, Outcome::Gateway); 2], &[]);
            let mut report = Report::new(1, brief, String::new());
            delay.judge(&mut report, "good connects");
            assert_eq!(report.breaches.len(), breaches);
        }
    }
}
