use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn answer(last: u8, ttl: u64) -> Answer {
    (Ipv4Addr::new(203, 0, 113, last).into(), secs(ttl))
}

fn failed() -> Result<Vec<Answer>, LookupError> {
    Err(LookupError::NoSuchName { server: ([10, 0, 0, 2], 53).into() })
}

/// A schedule that follows these names, from `now`.
fn following(names: &[&str], now: Instant) -> Schedule {
    let mut schedule = Schedule::default();
    schedule.follow(&set(names), now);
    schedule
}

/// Begins the next look-up when it is due and ends it at once.
fn turn(
    schedule: &mut Schedule,
    result: Result<Vec<Answer>, LookupError>,
    random: f64,
) -> (Instant, Arc<str>) {
    let now = schedule.next_wake().expect("something is to be looked up");
    let name = schedule.begin(now).expect("it is due");
    assert!(schedule.on_done(&name, result, now, random));
    (now, name)
}

fn wait(schedule: &Schedule, name: &str, since: Instant) -> Duration {
    schedule.state(name).expect("followed").next.expect("not being asked").duration_since(since)
}

#[test]
fn a_new_name_is_asked_for_at_once_and_then_before_its_answer_expires() {
    let start = Instant::now();
    let mut s = following(&["a.example"], start);
    let (now, _) = turn(&mut s, Ok(vec![answer(1, 300), answer(2, 100)]), 0.0);
    assert_eq!(now, start);
    assert_eq!(wait(&s, "a.example", now), secs(70), "70 % of the shortest TTL");
    let (now, _) = turn(&mut s, Ok(vec![answer(1, 100)]), 1.0);
    assert_eq!(now, start + secs(70));
    assert_eq!(wait(&s, "a.example", now), secs(90));
    let state = s.state("a.example").expect("followed");
    assert_eq!((state.answered, &state.addresses), (Some(now), &vec![answer(1, 100)]));
}

#[test]
fn a_short_ttl_is_kept_to_and_none_is_too_short_or_too_long_for_that() {
    let mut s = following(&["a.example"], Instant::now());
    let (now, _) = turn(&mut s, Ok(vec![answer(1, 6)]), 1.0);
    assert!(wait(&s, "a.example", now) < secs(6), "it is asked for again when its TTL is over");
    let (now, _) = turn(&mut s, Ok(vec![answer(1, 0)]), 0.0);
    assert!(wait(&s, "a.example", now) > secs(3), "a server that says 0 is asked all the time");
    let (now, _) = turn(&mut s, Ok(vec![answer(1, u32::MAX.into())]), 1.0);
    assert_eq!(wait(&s, "a.example", now), LONGEST.mul_f64(0.9));
}

#[test]
fn a_failure_is_tried_again_ever_more_seldom_until_there_is_an_answer() {
    let mut s = following(&["a.example"], Instant::now());
    turn(&mut s, Ok(vec![answer(1, 60)]), 0.5);
    let waits: Vec<u64> = (0..9)
        .map(|_| {
            let (now, _) = turn(&mut s, failed(), 1.0);
            wait(&s, "a.example", now).as_secs()
        })
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let state = s.state("a.example").expect("followed");
    assert_eq!((state.failures, &state.addresses), (9, &vec![answer(1, 60)]), "the old ones are kept");
    assert!(state.failure.is_some());

    turn(&mut s, Ok(vec![answer(2, 60)]), 0.5);
    let state = s.state("a.example").expect("followed");
    assert_eq!((state.failures, &state.failure, &state.addresses), (0, &None, &vec![answer(2, 60)]));
    let (now, _) = turn(&mut s, failed(), 0.0);
    assert_eq!(wait(&s, "a.example", now), Duration::from_millis(750), "and it begins anew");
}

#[test]
fn ten_thousand_names_are_asked_for_one_after_the_other_and_few_at_a_time() {
    let names: BTreeSet<String> = (0..10_000).map(|i| format!("n{i}.example")).collect();
    let start = Instant::now();
    let mut s = Schedule::default();
    s.follow(&names, start);
    let mut under_way = Vec::new();
    let mut seen = BTreeSet::new();
    let mut now = start;
    while seen.len() < names.len() {
        if let Some(at) = s.next_wake() {
            now = now.max(at);
            let name = s.begin(now).expect("it is due");
            assert!(s.begin(now).is_none(), "two at the same moment");
            assert!(seen.insert(Arc::clone(&name)), "{name} twice");
            under_way.push(name);
        } else {
            assert_eq!(under_way.len(), IN_FLIGHT, "nothing to do only because enough are under way");
            now += Duration::from_millis(40);
            for name in under_way.drain(..) {
                assert!(s.on_done(&name, Ok(vec![answer(1, 3_600)]), now, 0.5));
            }
        }
        assert!(under_way.len() <= IN_FLIGHT);
    }
    assert!(now - start >= PACE * 9_999, "{:?}", now - start);
}

#[test]
fn names_that_stay_keep_what_is_known_and_those_that_go_are_forgotten() {
    let start = Instant::now();
    let mut s = following(&["a.example", "b.example"], start);
    turn(&mut s, Ok(vec![answer(1, 600)]), 0.5);
    turn(&mut s, failed(), 0.5);
    let kept = s.state("a.example").cloned();
    s.follow(&set(&["a.example", "c.example"]), start + secs(1));
    assert_eq!(s.state("a.example").cloned(), kept);
    assert_eq!(s.state("b.example"), None);
    let (_, next) = turn(&mut s, Ok(vec![answer(3, 600)]), 0.5);
    assert_eq!(&*next, "c.example");
    let (_, next) = turn(&mut s, Ok(vec![answer(1, 600)]), 0.5);
    assert_eq!(&*next, "a.example", "b.example is not tried again");
    assert_eq!(s.problems(), [""; 0]);
}

#[test]
fn what_ends_after_its_name_was_given_up_changes_nothing_but_makes_room() {
    let now = Instant::now();
    let mut s = following(&["a.example"], now);
    let name = s.begin(now).expect("due");
    s.follow(&set(&[]), now);
    assert!(!s.on_done(&name, Ok(vec![answer(1, 60)]), now, 0.5));
    assert_eq!((s.in_flight, s.state("a.example"), s.next_wake()), (0, None, None));

    s.follow(&set(&["a.example"]), now);
    let first = s.begin(now + secs(1)).expect("due");
    s.follow(&set(&[]), now);
    s.follow(&set(&["a.example"]), now);
    assert!(s.on_done(&first, Ok(vec![answer(1, 60)]), now, 0.5), "its answer is as good as any");
    assert_eq!((s.in_flight, s.due.len()), (0, 1));
}

#[test]
fn problems_name_a_few_and_count_the_rest() {
    let now = Instant::now();
    let names: Vec<String> = (0..8).map(|i| format!("n{i}.example")).collect();
    let mut s = Schedule::default();
    s.follow(&names.iter().cloned().collect(), now);
    assert_eq!(s.problems(), ["8 names of the policy not resolved yet"]);
    turn(&mut s, Ok(vec![answer(1, 60)]), 0.5);
    for _ in 1..8 {
        turn(&mut s, failed(), 0.5);
    }
    let problems = s.problems();
    assert_eq!(problems.len(), 6, "{problems:?}");
    assert_eq!(problems[0], "n1.example cannot be resolved: 10.0.0.2:53 says that there is no such name");
    assert_eq!(problems[5], "and 2 more names cannot be resolved");
    while turn(&mut s, failed(), 0.0).1.as_ref() != "n0.example" {}
    let problems = s.problems();
    assert_eq!(problems[5], "and 3 more names cannot be resolved", "those without addresses come first");
    s.follow(&set(&["n0.example"]), now);
    let [problem] = s.problems().try_into().expect("one problem");
    assert!(problem.ends_with("; using the addresses of before"), "{problem}");
}

#[derive(Clone, Debug)]
enum Act {
    Follow(BTreeSet<u8>),
    Pass(u64),
    Begin,
    End { which: usize, ttl: Option<u64>, random: f64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => prop::collection::btree_set(0..40_u8, 0..40).prop_map(Act::Follow),
        2 => (0..100_000_u64).prop_map(Act::Pass),
        6 => Just(Act::Begin),
        4 => (any::<usize>(), prop::option::of(0..200_000_u64), 0.0..1.0)
            .prop_map(|(which, ttl, random)| Act::End { which, ttl, random }),
    ]
}

proptest! {
    #[test]
    fn every_name_is_waiting_or_under_way_and_every_wait_is_within_its_bounds(
        acts in prop::collection::vec(act(), 0..300),
    ) {
        let mut s = Schedule::default();
        let mut now = Instant::now();
        let mut under_way: Vec<Arc<str>> = Vec::new();
        for act in acts {
            match act {
                Act::Follow(ids) => {
                    let names = ids.iter().map(|i| format!("n{i}.example")).collect();
                    s.follow(&names, now);
                    prop_assert!(s.names.keys().map(|name| name.to_string()).eq(names));
                }
                Act::Pass(ms) => now += Duration::from_millis(ms),
                Act::Begin => {
                    let due = s.next_wake();
                    let begun = s.begin(now);
                    prop_assert_eq!(begun.is_some(), due.is_some_and(|at| at <= now));
                    under_way.extend(begun);
                }
                Act::End { which, ttl, random } if !under_way.is_empty() => {
                    let name = under_way.swap_remove(which % under_way.len());
                    let result = ttl.map_or_else(failed, |ttl| Ok(vec![answer(1, ttl)]));
                    if s.on_done(&name, result, now, random) {
                        let wait = wait(&s, &name, now);
                        let (least, most) = match ttl {
                            Some(ttl) => {
                                let ttl = secs(ttl).clamp(SHORTEST, LONGEST);
                                (ttl.mul_f64(0.7), ttl.mul_f64(0.9))
                            }
                            None => (FIRST_RETRY.mul_f64(0.75), LAST_RETRY),
                        };
                        prop_assert!((least..=most).contains(&wait), "{wait:?}");
                    }
                }
                Act::End { .. } => {}
            }
            prop_assert_eq!(s.in_flight, under_way.len());
            prop_assert!(s.in_flight <= IN_FLIGHT);
            let waiting = s.names.iter().filter_map(|(name, state)| Some((state.next?, Arc::clone(name))));
            prop_assert_eq!(waiting.collect::<BTreeSet<_>>(), s.due.clone());
            for (name, _) in s.names.iter().filter(|(_, state)| state.next.is_none()) {
                prop_assert!(under_way.contains(name), "{name} is lost");
            }
        }
    }
}
