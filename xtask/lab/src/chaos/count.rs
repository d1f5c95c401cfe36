//! What the records say, given when things were done. Pure.

use std::collections::BTreeMap;

use super::record::{Outcome, Record};

/// A time from which to which something happened, ns. For a death: from right before the signal until the process was
/// reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub from: u64,
    pub to: u64,
}

impl Window {
    /// Whether a connect had begun before this was over and was not over when this began.
    pub(super) fn meets(self, start: u64, end: u64) -> bool {
        start <= self.to && end >= self.from
    }
}

/// The connects that went wrong, by whose fault it can have been.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// connect(2) failed; it had begun before the gateway was killed and was not over then.
    pub before_signal: Vec<Record>,
    /// connect(2) failed; it began when the signal had been sent, and before the gateway was reaped.
    pub amid_death: Vec<Record>,
    /// connect(2) failed at any other time.
    pub outside: Vec<Record>,
    /// Connected, and dropped by the gateway's death.
    pub dropped: Vec<Record>,
    /// Dropped at any other time, not answered at all, or by the wrong one.
    pub wrong: Vec<Record>,
}

impl Losses {
    /// Adds those of another storm.
    pub(super) fn append(&mut self, mut more: Self) {
        self.before_signal.append(&mut more.before_signal);
        self.amid_death.append(&mut more.amid_death);
        self.outside.append(&mut more.outside);
        self.dropped.append(&mut more.dropped);
        self.wrong.append(&mut more.wrong);
    }
}

/// Sorts what went wrong, given the deaths of gateways.
pub(super) fn losses(records: &[Record], deaths: &[Window]) -> Losses {
    let mut losses = Losses::default();
    for record in records {
        let list = match record.outcome {
            Outcome::Gateway | Outcome::Direct => continue,
            Outcome::ConnectFailed(_) => match met(deaths, record.start, record.connected()) {
                Some(death) if record.start < death.from => &mut losses.before_signal,
                Some(_) => &mut losses.amid_death,
                None => &mut losses.outside,
            },
            Outcome::Dropped(_) if met(deaths, record.start, record.end()).is_some() => &mut losses.dropped,
            Outcome::Dropped(_) | Outcome::Silent | Outcome::Astray => &mut losses.wrong,
        };
        list.push(*record);
    }
    losses
}

fn met(deaths: &[Window], start: u64, end: u64) -> Option<&Window> {
    deaths.iter().find(|death| death.meets(start, end))
}

/// The death nearest to a record, to tell times by.
pub(super) fn nearest(deaths: &[Window], record: &Record) -> u64 {
    let origins = deaths.iter().map(|death| death.from);
    origins.min_by_key(|origin| origin.abs_diff(record.start)).unwrap_or(record.start)
}

/// How many connects may fail under way in so many deaths of a gateway: 5 in 100. The few deaths of the short form
/// tell nothing about a rate, so they may have as many.
pub(super) fn allowance(deaths: usize, brief: bool) -> usize {
    (deaths / 20).max(if brief { 5 } else { 0 })
}

/// How many took this way.
pub(super) fn ways(records: &[Record], outcome: Outcome) -> usize {
    records.iter().filter(|record| record.outcome == outcome).count()
}

/// Those that began within a time, its end left out.
pub(super) fn begun_in(records: &[Record], from: u64, to: u64) -> Vec<Record> {
    records.iter().filter(|record| (from..to).contains(&record.start)).copied().collect()
}

/// Of connects, those that failed although they began when the `threshold`th failure had been seen. One that was reset
/// when its handshake was done is none that the failsafe sees.
pub(super) fn after_nth_failure(records: &[Record], threshold: usize) -> Vec<Record> {
    let mut failed: Vec<_> =
        records.iter().filter(|r| matches!(r.outcome, Outcome::ConnectFailed(_))).copied().collect();
    failed.sort_by_key(Record::connected);
    let mut seen = failed.iter().filter(|record| !record.is_reset());
    let Some(seen) = threshold.checked_sub(1).and_then(|n| seen.nth(n)).map(Record::connected) else {
        return Vec::new();
    };
    failed.retain(|record| record.start > seen);
    failed
}

/// Of connects, those that were still sent to a gateway that does not answer although they began when the oldest of
/// those had waited for `limit` ns.
pub(super) fn after_overdue(records: &[Record], limit: u64) -> Vec<Record> {
    let sent = |record: &&Record| record.outcome != Outcome::Direct;
    let Some(oldest) = records.iter().filter(sent).map(|record| record.start).min() else {
        return Vec::new();
    };
    records.iter().filter(sent).filter(|record| record.start > oldest + limit).copied().collect()
}

/// When a client that should begin a connect every `period` ns was kept from it for longer than `late` ns: from when a
/// connect was due until it began. The first is taken to have begun in time.
pub(super) fn held_up(records: &[Record], period: u64, late: u64) -> Vec<Window> {
    let mut starts: Vec<_> = records.iter().map(|record| record.start).collect();
    starts.sort_unstable();
    let mut due = starts.first().copied().unwrap_or(0);
    let mut windows: Vec<Window> = Vec::new();
    for start in starts {
        if start > due + late {
            match windows.last_mut() {
                Some(last) if due <= last.to => last.to = start,
                _ => windows.push(Window { from: due, to: start }),
            }
        }
        due += period;
    }
    windows
}

/// Adds to a sum by how much counters have grown. One that is lower than it was has begun anew.
pub(super) fn add_growth(
    sum: &mut BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) {
    for (name, after) in after {
        let grown = after.checked_sub(before.get(name).copied().unwrap_or(0)).unwrap_or(*after);
        *sum.entry(name.clone()).or_default() += grown;
    }
}

/// Milliseconds from one time to a later one.
pub(super) fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Outcome = Outcome::ConnectFailed(111);

    fn record(start_us: u64, took_us: u32, outcome: Outcome) -> Record {
        Record { start: start_us * 1000, connect_us: took_us, took_us, outcome }
    }

    fn window(from_us: u64, to_us: u64) -> Window {
        Window { from: from_us * 1000, to: to_us * 1000 }
    }

    #[test]
    fn failures_are_told_by_the_gateways_death() {
        let deaths = [window(1000, 1500), window(9000, 9100)];
        let records = [
            record(500, 100, REFUSED), // over before the kill
            record(950, 60, REFUSED),  // begun before, over after
            record(1200, 10, REFUSED), // while it died
            record(1501, 10, REFUSED), // after it was reaped
            record(9050, 10, Outcome::Dropped(104)),
            record(900, 300, Outcome::Dropped(0)),
            record(2000, 300, Outcome::Dropped(0)), // by a living gateway
            record(3000, 5_000_000, Outcome::Silent),
            record(4000, 10, Outcome::Direct),
            record(4001, 10, Outcome::Gateway),
        ];
        let losses = losses(&records, &deaths);
        assert_eq!(losses.before_signal, records[1..2]);
        assert_eq!(losses.amid_death, records[2..3]);
        assert_eq!(losses.outside, [records[0], records[3]]);
        assert_eq!(losses.dropped, records[4..6]);
        assert_eq!(losses.wrong, records[6..8]);
    }

    #[test]
    fn a_failure_is_told_by_connect_and_not_by_the_whole_call() {
        // Connected long before the kill and dropped by it: the connect was good.
        let mut dropped = record(100, 1000, Outcome::Dropped(104));
        dropped.connect_us = 10;
        let losses = losses(&[dropped], &[window(1000, 1200)]);
        assert_eq!((losses.dropped.len(), losses.wrong.len()), (1, 0));
    }

    #[test]
    fn a_reset_told_by_connect_itself_is_a_connect_that_failed() {
        let reset = Outcome::ConnectFailed(104);
        let records = [record(900, 300, reset), record(3000, 10, reset)];
        let losses = losses(&records, &[window(1000, 1500)]);
        assert_eq!((&losses.before_signal[..], &losses.outside[..]), (&records[..1], &records[1..]));
        assert!(records[0].is_reset());
        // The failsafe has seen one failure here, not two.
        assert!(
            after_nth_failure(&[records[0], record(950, 10, REFUSED), record(2000, 1, REFUSED)], 3)
                .is_empty()
        );
    }

    #[test]
    fn a_client_that_begins_late_was_held_up() {
        // One a millisecond; then 60 ms nothing, and what was due meanwhile all at once; the last are in time again.
        let late = (10..=70).map(|_| record(70_000, 10, Outcome::Direct));
        let mut records: Vec<_> = (0..10).map(|ms| record(ms * 1000, 10, Outcome::Direct)).collect();
        records.extend(late);
        records.extend((71..80).map(|ms| record(ms * 1000, 10, Outcome::Direct)));
        records.reverse();
        assert_eq!(held_up(&records, 1_000_000, 50_000_000), [window(10_000, 70_000)]);
        assert!(held_up(&records, 1_000_000, 60_000_000).is_empty());
        assert!(held_up(&[], 1_000_000, 50_000_000).is_empty());
    }

    #[test]
    fn five_in_a_hundred_deaths_and_no_more() {
        assert_eq!([0, 19, 20, 100, 277].map(|deaths| allowance(deaths, false)), [0, 0, 1, 5, 13]);
        assert_eq!([0, 12, 100, 139, 140].map(|deaths| allowance(deaths, true)), [5, 5, 5, 6, 7]);
    }

    #[test]
    fn counters_that_begin_anew_are_counted_from_there() {
        let counters = |redirected, cooldown| {
            BTreeMap::from([("redirected".to_owned(), redirected), ("cooldown".to_owned(), cooldown)])
        };
        let mut sum = BTreeMap::new();
        add_growth(&mut sum, &counters(100, 2), &counters(150, 2));
        add_growth(&mut sum, &counters(150, 2), &counters(30, 0));
        assert_eq!(sum, counters(80, 0));
    }

    #[test]
    fn those_in_flight_when_the_last_failure_is_seen_are_exposed_rightly() {
        let records = [
            record(0, 1000, REFUSED),
            record(100, 1000, REFUSED),  // seen at 1100: the second
            record(1050, 1000, REFUSED), // in flight then
            record(1200, 1000, REFUSED), // began later
            record(1300, 1000, Outcome::Direct),
        ];
        assert_eq!(after_nth_failure(&records, 2), [records[3]]);
        assert!(after_nth_failure(&records, 5).is_empty());
    }

    #[test]
    fn after_the_oldest_is_overdue_none_may_follow() {
        let records = [
            record(1000, 5_000, REFUSED),
            record(1100, 5_000, REFUSED),
            record(1250, 5_000, REFUSED),
            record(1300, 10, Outcome::Direct),
        ];
        assert_eq!(after_overdue(&records, 200_000), [records[2]]);
        assert!(after_overdue(&records[3..], 200_000).is_empty());
    }
}
