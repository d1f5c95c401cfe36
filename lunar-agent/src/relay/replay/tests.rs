//! Every row of the tables, and what holds for all sequences.

use super::*;
use crate::relay::http::head::{Framing, Version};
use Mode::{Idempotent, Never, Safe};
use Outcome::{Failure, Success};
use proptest::prelude::*;

const TOTAL: Duration = Duration::from_secs(60);

/// What the gateway does, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Does {
    RefusesToConnect,
    IsNotAsked,
    Dies,
    Babbles,
    /// Gets a body that is none.
    IsSpared,
    /// With an indicator.
    Errs(Option<u32>),
    /// And wants the request again after so many seconds.
    Answers(Option<u64>),
}
use Does::{Answers, Babbles, Dies, Errs, IsNotAsked, IsSpared, RefusesToConnect};

fn head(does: Does) -> ResponseHead {
    let (indicated, error_code, again) = match does {
        Errs(code) => (true, code, None),
        Answers(again) => (false, None, again),
        RefusesToConnect | IsNotAsked | Dies | Babbles | IsSpared => panic!("no answer"),
    };
    let sequence_id = HeaderValue::from_static("7");
    ResponseHead {
        length: 19,
        version: Version::Http11,
        status: 503,
        framing: Framing::Length(0),
        persists: true,
        keep_alive: false,
        error_code,
        retry: again.map(|after| Retry { after: Duration::from_secs(after), sequence_id }),
        indicated,
    }
}

fn tell(exchange: &mut Exchange, does: Does, body_whole: bool, age: u64) -> Step {
    let situation = Situation { body_whole, age: Duration::from_secs(age) };
    match does {
        RefusesToConnect => exchange.gateway(AtGateway::ConnectFailed, situation),
        IsNotAsked => exchange.gateway(AtGateway::NotAsked, situation),
        Dies => exchange.gateway(AtGateway::Lost, situation),
        Babbles => exchange.gateway(AtGateway::NotUnderstood, situation),
        IsSpared => exchange.gateway(AtGateway::BrokenOff, situation),
        answer => exchange.gateway(AtGateway::Answered(&head(answer)), situation),
    }
}

fn exchange(mode: Mode, idempotent: bool) -> Exchange {
    Exchange::new(Rules { mode, retry_max: 10, retry_total: TOTAL }, idempotent)
}

/// What a step says, without what goes with it.
#[derive(PartialEq, Eq, Debug)]
enum Short {
    Pass,
    /// And its answer decides.
    DirectAsks,
    Direct,
    Close,
    Retry,
}
use Short::{Close, Direct, DirectAsks, Pass, Retry as Again};

fn short(step: Step) -> (Short, Option<Outcome>) {
    let short = match step.next {
        Next::Pass => Pass,
        Next::Direct(DirectAttempt { decides: true }) => DirectAsks,
        Next::Direct(DirectAttempt { decides: false }) => Direct,
        Next::Close => Close,
        Next::Retry { after, sequence_id } => {
            assert_eq!((after.as_secs(), sequence_id.as_bytes()), (3, &b"7"[..]));
            Again
        }
    };
    (short, step.settle)
}

#[test]
fn every_row_of_the_gateway() {
    let failure = Some(Failure);
    let success = Some(Success);
    // By mode: a request that is idempotent, and one that is not, both with their bodies whole; then either without.
    for (does, modes, idempotent, other, not_whole) in [
        (
            RefusesToConnect,
            &[Safe, Idempotent, Never][..],
            (Direct, failure),
            (Direct, failure),
            (Close, failure),
        ),
        (IsNotAsked, &[Safe, Idempotent, Never], (Direct, None), (Direct, None), (Close, None)),
        (Dies, &[Safe, Idempotent], (DirectAsks, None), (Close, None), (Close, None)),
        (Dies, &[Never], (Close, None), (Close, None), (Close, None)),
        (Babbles, &[Safe, Idempotent], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Babbles, &[Never], (Pass, None), (Pass, None), (Pass, None)),
        (IsSpared, &[Safe, Idempotent], (Direct, None), (Close, None), (Close, None)),
        (IsSpared, &[Never], (Close, None), (Close, None), (Close, None)),
        (Errs(Some(1)), &[Safe], (Direct, failure), (Direct, failure), (Pass, failure)),
        (Errs(Some(10)), &[Safe], (Direct, failure), (Direct, failure), (Pass, failure)),
        (Errs(Some(2)), &[Safe], (DirectAsks, None), (DirectAsks, None), (Pass, None)),
        (Errs(Some(5)), &[Safe], (DirectAsks, None), (DirectAsks, None), (Pass, None)),
        (Errs(Some(3)), &[Safe], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(Some(4)), &[Safe], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(None), &[Safe], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(Some(1)), &[Idempotent], (Direct, failure), (Pass, failure), (Pass, failure)),
        (Errs(Some(10)), &[Idempotent], (Direct, failure), (Pass, failure), (Pass, failure)),
        (Errs(Some(2)), &[Idempotent], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(Some(5)), &[Idempotent], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(Some(3)), &[Idempotent], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(None), &[Idempotent], (DirectAsks, None), (Pass, None), (Pass, None)),
        (Errs(Some(1)), &[Never], (Pass, failure), (Pass, failure), (Pass, failure)),
        (Errs(Some(10)), &[Never], (Pass, failure), (Pass, failure), (Pass, failure)),
        (Errs(Some(2)), &[Never], (Pass, None), (Pass, None), (Pass, None)),
        (Errs(Some(3)), &[Never], (Pass, None), (Pass, None), (Pass, None)),
        (Errs(None), &[Never], (Pass, None), (Pass, None), (Pass, None)),
        (Answers(None), &[Safe, Idempotent, Never], (Pass, success), (Pass, success), (Pass, success)),
        (Answers(Some(3)), &[Safe], (Again, success), (Again, success), (Pass, success)),
        (Answers(Some(3)), &[Idempotent], (Again, success), (Pass, success), (Pass, success)),
        (Answers(Some(3)), &[Never], (Pass, success), (Pass, success), (Pass, success)),
    ] {
        for &mode in modes {
            let of = |idempotent, whole| short(tell(&mut exchange(mode, idempotent), does, whole, 0));
            assert_eq!(of(true, true), idempotent, "{does:?} {mode:?}, idempotent");
            assert_eq!(of(false, true), other, "{does:?} {mode:?}, not idempotent");
            for idempotent in [true, false] {
                assert_eq!(of(idempotent, false), not_whole, "{does:?} {mode:?}, body not whole");
            }
        }
    }
}

#[test]
fn every_row_of_the_direct_attempt() {
    let (fine, indicating) = (head(Answers(Some(3))), head(Errs(Some(10))));
    for (decides, outcome, next, settle) in [
        (true, AtProvider::Answered(&fine), Next::Pass, Some(Failure)),
        (true, AtProvider::Answered(&indicating), Next::Pass, None),
        (true, AtProvider::NotUnderstood, Next::Pass, None),
        (true, AtProvider::Failed, Next::Close, None),
        (false, AtProvider::Answered(&fine), Next::Pass, None),
        (false, AtProvider::Answered(&indicating), Next::Pass, None),
        (false, AtProvider::NotUnderstood, Next::Pass, None),
        (false, AtProvider::Failed, Next::Close, None),
    ] {
        assert_eq!(DirectAttempt { decides }.ended(outcome), Step { next, settle }, "{decides} {outcome:?}");
    }
}

#[test]
fn an_error_goes_direct_and_is_not_waited_for() {
    let both = ResponseHead { indicated: true, error_code: Some(10), ..head(Answers(Some(3))) };
    let situation = Situation { body_whole: true, age: Duration::ZERO };
    let step = exchange(Safe, true).gateway(AtGateway::Answered(&both), situation);
    assert_eq!(short(step), (Direct, Some(Failure)));
    let unseen = ResponseHead { error_code: Some(10), ..head(Answers(None)) };
    let step = exchange(Safe, true).gateway(AtGateway::Answered(&unseen), situation);
    assert_eq!(short(step), (Pass, Some(Success)), "the header is no configured indicator");
}

#[test]
fn repetitions_are_bounded_in_number_and_time() {
    let rules = Rules { mode: Safe, retry_max: 2, retry_total: TOTAL };
    let mut exchange = Exchange::new(rules, false);
    let mut next = |age| short(tell(&mut exchange, Answers(Some(3)), true, age)).0;
    assert_eq!([next(0), next(57), next(0)], [Again, Again, Pass]);
    assert_eq!(short(tell(&mut Exchange::new(rules, false), Answers(Some(3)), true, 58)).0, Pass);
    let mut exchange = Exchange::new(rules, false);
    assert_eq!(short(tell(&mut exchange, Answers(Some(61)), true, 0)).0, Pass);
    assert_eq!(short(tell(&mut exchange, Answers(Some(u64::MAX)), true, u64::MAX)).0, Pass);
    assert_eq!(
        short(tell(&mut exchange, Answers(Some(3)), true, 0)).0,
        Again,
        "what was not done does not count"
    );
    assert_eq!(short(tell(&mut exchange, RefusesToConnect, true, 3)), (Direct, Some(Failure)));
    let none = Rules { retry_max: 0, ..rules };
    assert_eq!(short(tell(&mut Exchange::new(none, true), Answers(Some(3)), true, 0)).0, Pass);
}

fn any_doing() -> impl Strategy<Value = Does> {
    prop_oneof![
        Just(RefusesToConnect),
        Just(IsNotAsked),
        Just(Dies),
        Just(Babbles),
        Just(IsSpared),
        proptest::option::of(0_u32..12).prop_map(Errs),
        proptest::option::weighted(0.9, 0_u64..20).prop_map(Answers),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_executed_twice_and_nothing_counts_without_evidence(
        mode in proptest::sample::select(&[Safe, Idempotent, Never][..]),
        idempotent: bool,
        doings in proptest::collection::vec((any_doing(), any::<bool>(), 0_u64..30), 1..12),
        retry_max in 0_u32..8,
        provider in proptest::sample::select(&[None, Some(false), Some(true)][..]),
    ) {
        let mut exchange = Exchange::new(Rules { mode, retry_max, retry_total: TOTAL }, idempotent);
        let (mut retries, mut sent, mut executed, mut age) = (0, false, false, 0);
        for (does, whole, pause) in doings {
            age += pause;
            let step = tell(&mut exchange, does, whole, age);
            // What the gateway did with it, as far as the mode believes what it says.
            let disclaimed = match does {
                RefusesToConnect | IsNotAsked => true,
                Dies | Babbles | IsSpared | Answers(None) => false,
                Errs(code) => mode == Safe && matches!(code, Some(1 | 2 | 5 | 10)),
                Answers(Some(_)) => mode == Safe,
            };
            executed |= !disclaimed;
            sent |= !matches!(does, RefusesToConnect | IsNotAsked);
            let evident = matches!(does, RefusesToConnect | Errs(Some(1 | 10)));
            let expected = match does {
                Answers(_) => Some(Success),
                _ => evident.then_some(Failure),
            };
            prop_assert_eq!(step.settle, expected);
            let repeated = matches!(step.next, Next::Direct(_) | Next::Retry { .. });
            prop_assert!(!repeated || whole, "half a body");
            prop_assert!(!repeated || idempotent || !executed, "executed twice");
            prop_assert!(!repeated || mode != Never || !sent, "sent twice");
            match step.next {
                Next::Retry { after, .. } => {
                    retries += 1;
                    prop_assert!(retries <= retry_max && Duration::from_secs(age) + after <= TOTAL);
                    age += after.as_secs();
                }
                Next::Direct(attempt) => {
                    let answer = head(if provider == Some(true) { Errs(Some(2)) } else { Answers(None) });
                    let outcome = provider.map_or(AtProvider::Failed, |_| AtProvider::Answered(&answer));
                    let last = attempt.ended(outcome);
                    let proved = !evident && !matches!(does, IsSpared | IsNotAsked) && provider == Some(false);
                    prop_assert_eq!(last.settle, proved.then_some(Failure), "once, and with evidence");
                    prop_assert_eq!(last.next, if provider.is_some() { Next::Pass } else { Next::Close });
                    return Ok(());
                }
                Next::Pass => {
                    prop_assert!(matches!(does, Errs(_) | Answers(_) | Babbles), "an invented answer");
                    return Ok(());
                }
                Next::Close => {
                    prop_assert!(matches!(does, RefusesToConnect | IsNotAsked | Dies | IsSpared), "an answer thrown away");
                    return Ok(());
                }
            }
        }
    }
}
