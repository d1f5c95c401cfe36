use lunar_common::verdict::REASONS;

use super::*;

#[test]
fn slots_that_there_are_none_of_are_left_out() {
    let endpoints = [3, 255, 0, 3, 8, 7, 0, 1];
    let settings = |endpoint_count| Settings { endpoints, endpoint_count, ..Settings::default() };
    assert_eq!(endpoint_slots(&settings(u32::MAX)), [3, 0, 7, 1]);
    assert_eq!(endpoint_slots(&settings(3)), [3, 0]);
    assert!(endpoint_slots(&settings(0)).is_empty());
}

#[test]
fn counters_that_somebody_scribbled_on_add_up_to_the_most_there_is() {
    let wild = Counters { verdicts: [u64::MAX; REASONS], failed: 7, ..Counters::default() };
    let sum = sum_counters([wild, wild].into_iter());
    assert_eq!((sum.verdicts, sum.failed, sum.abandoned), ([u64::MAX; REASONS], 14, 0));
    let wild = Totals { records_taken: u64::MAX, events_lost: 3, ..Totals::default() };
    let sum = sum_totals([wild, wild].into_iter());
    assert_eq!((sum.records_taken, sum.events_lost, sum.headers_failed), (u64::MAX, 6, 0));
}
