//! How long applications had to wait for what they got in the end.

use super::{count::Window, record::Record, report::Report};

/// A connect that takes longer than this, from connect(2) to the provider's line, has met something: nothing in this
/// world is a hundredth as slow by itself, and it is less than any retransmission of a SYN. µs.
pub(super) const SLOW: u32 = 150_000;
/// One good connect among so many may be slow in the long form, whatever was done: it runs on machines that do other
/// things too, and the client, the gateway, and the provider each have to get the CPU in time.
const ONE_IN: usize = 10_000;

/// The times of good connects.
#[derive(Debug, Default)]
pub(super) struct Delay {
    ms: Vec<f64>,
    /// Slow ones that were not under way while a gateway died.
    slow: usize,
    /// Slow ones that were.
    slow_amid: usize,
}

impl Delay {
    /// Adds those among the records, which met these deaths of gateways.
    pub(super) fn add<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>, deaths: &[Window]) {
        for record in records.into_iter().filter(|record| record.is_good()) {
            self.ms.push(f64::from(record.took_us) / 1e3);
            if record.took_us > SLOW {
                let amid = deaths.iter().any(|death| death.meets(record.start, record.end()));
                *if amid { &mut self.slow_amid } else { &mut self.slow } += 1;
            }
        }
    }

    /// Shows them; `of` says whose they are.
    pub(super) fn show(&self, report: &mut Report, of: &str) {
        report.times(&format!("{of}: from connect(2) to the provider's line"), &self.ms, None);
        report.show(&slower(of), self.slow + self.slow_amid);
    }

    /// Shows them, and in the long form allows few slow ones; those that were under way while a gateway died apart.
    pub(super) fn judge(&self, report: &mut Report, of: &str) {
        report.times(&format!("{of}: from connect(2) to the provider's line"), &self.ms, None);
        if self.slow_amid > 0 {
            report.show(&format!("{}, under way when the gateway died", slower(of)), self.slow_amid);
        }
        if report.is_brief() {
            report.show(&slower(of), self.slow);
        } else {
            report.at_most(&slower(of), self.slow, self.ms.len().div_ceil(ONE_IN));
        }
    }
}

fn slower(of: &str) -> String {
    format!("{of}: slower than {} ms", SLOW / 1000)
}

#[cfg(test)]
mod tests {
    use super::super::record::Outcome;
    use super::*;

    fn record(start: u64, took_us: u32, outcome: Outcome) -> Record {
        Record { start, connect_us: 1, took_us, outcome }
    }

    #[test]
    fn only_good_connects_wait_and_those_amid_a_death_are_told_apart() {
        let mut delay = Delay::default();
        let records = [
            record(0, 1_000, Outcome::Direct),
            record(0, 150_000, Outcome::Gateway),
            record(0, 150_001, Outcome::Gateway), // over at 150.001 ms
            record(100_000_000, 900_000, Outcome::Gateway),
            record(0, 900_000, Outcome::ConnectFailed(111)),
            record(0, 900_000, Outcome::Silent),
        ];
        delay.add(&records, &[Window { from: 500_000_000, to: 501_000_000 }]);
        assert_eq!((delay.ms.len(), delay.slow, delay.slow_amid), (4, 1, 1));
    }

    #[test]
    fn slow_ones_are_judged_in_the_long_form_only() {
        let mut delay = Delay::default();
        delay.add(&[record(0, 200_000, Outcome::Gateway); 2], &[]);
        for (brief, breaches) in [(true, 0), (false, 1)] {
            let mut report = Report::new(1, brief, String::new());
            delay.judge(&mut report, "good connects");
            assert_eq!(report.breaches.len(), breaches);
        }
    }
}
