//! What each phase of the demo demands of the calls, and whether they did it.

use std::time::Duration;

use super::call::{Call, Way};
use super::scene::Counters;

/// How the calls that begin after a phase's event must go. None of them may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// All of them so.
    All(Way),
    /// The first so, and from some call on the other way.
    Then(Way, Way),
    /// From some call on so; the first may be so already.
    Finally(Way),
}

/// What is to happen in a phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// A word or two, for the summary.
    pub(super) name: &'static str,
    /// What happens, as it is announced.
    pub(super) title: &'static str,
    pub(super) expect: Expect,
    /// A reason that the kernel must have given at least once, if it is known for sure.
    pub(super) because: Option<&'static str>,
    /// Calls under way while the event happens may fail: their connections can be the gateway's already, and no
    /// interceptor can save what a killed gateway has accepted.
    pub(super) may_break: bool,
}

/// A phase as it went.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) plan: Plan,
    /// From just before the event to just after it, on the calls' clock.
    pub(super) event: (Duration, Duration),
    pub(super) calls: Vec<Call>,
    /// The kernel's reasons, counted over the phase.
    pub(super) reasons: Counters,
}

/// What a phase's calls add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) calls: usize,
    pub(super) gateway: usize,
    pub(super) direct: usize,
    /// Failed, and must not have.
    pub(super) failed: usize,
    /// Failed under way while the gateway was killed.
    pub(super) broken: usize,
    /// From the event to the beginning of the first call that went as the phase is to end.
    pub(super) turned: Option<Duration>,
    /// What did not go the way it should.
    pub(super) problems: Vec<String>,
}

impl Expect {
    /// The way calls go at the end of the phase.
    pub(super) const fn end(self) -> Way {
        match self {
            Self::All(way) | Self::Then(_, way) | Self::Finally(way) => way,
        }
    }
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "via the gateway",
            Self::Direct => "direct",
        }
    }
}

impl Phase {
    /// Whether the call began before the event was over: it may go either way.
    fn under_way(&self, call: &Call) -> bool {
        call.began < self.event.1
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally { calls: self.calls.len(), ..Tally::default() };
        let end = self.plan.expect.end();
        let mut after = 0_usize;
        for call in &self.calls {
            match &call.way {
                Ok(Way::Gateway) => tally.gateway += 1,
                Ok(Way::Direct) => tally.direct += 1,
                Err(_) if self.plan.may_break && self.under_way(call) => {
                    tally.broken += 1;
                    continue;
                }
                Err(reason) => {
                    tally.failed += 1;
                    tally.problems.push(format!("a call failed: {reason}"));
                    continue;
                }
            }
            if self.under_way(call) {
                continue;
            }
            after += 1;
            let way = call.way.as_ref().ok();
            let wrong = match self.plan.expect {
                Expect::All(all) => way != Some(&all),
                Expect::Then(first, _) if after == 1 => way != Some(&first),
                Expect::Then(..) | Expect::Finally(_) => tally.turned.is_some() && way != Some(&end),
            };
            if wrong && let Some(way) = way {
                tally.problems.push(format!("call {after} of the phase went {}", way.name()));
            }
            if way == Some(&end) && tally.turned.is_none() {
                tally.turned = Some(call.began.saturating_sub(self.event.0));
            }
        }
        if tally.turned.is_none() {
            tally.problems.push(format!("no call went {}", end.name()));
        }
        if let Some(because) = self.plan.because
            && !self.reasons.contains_key(because)
        {
            tally.problems.push(format!("the kernel never gave the reason {because}"));
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phase whose event takes from 1000 ms to 1010 ms. A call is given as its beginning and `g`, `d` or `x`.
    fn tally(expect: Expect, may_break: bool, calls: &[(u64, char)]) -> Tally {
        let ms = Duration::from_millis;
        let calls = calls
            .iter()
            .map(|(began, way)| Call {
                began: ms(*began),
                ended: ms(began + 20),
                way: match way {
                    'g' => Ok(Way::Gateway),
                    'd' => Ok(Way::Direct),
                    _ => Err("reset".to_owned()),
                },
            })
            .collect();
        let plan = Plan { name: "n", title: "t", expect, because: None, may_break };
        Phase { plan, event: (ms(1000), ms(1010)), calls, reasons: Counters::new() }.tally()
    }

    #[test]
    fn every_call_after_the_event_must_go_as_expected() {
        use Way::{Direct, Gateway};
        for (expect, calls, good) in [
            (Expect::All(Direct), &[(1100, 'd'), (1200, 'd')][..], true),
            (Expect::All(Direct), &[(1005, 'g'), (1200, 'd')], true), // under way
            (Expect::All(Direct), &[(1100, 'd'), (1200, 'g')], false),
            (Expect::All(Direct), &[], false),
            (Expect::Then(Direct, Gateway), &[(1100, 'd'), (1200, 'g'), (1300, 'g')], true),
            (Expect::Then(Direct, Gateway), &[(1100, 'g'), (1200, 'g')], false), // too early
            (Expect::Then(Direct, Gateway), &[(1100, 'd'), (1200, 'd')], false), // never
            (Expect::Then(Direct, Gateway), &[(1100, 'd'), (1200, 'g'), (1300, 'd')], false), // and back
            (Expect::Finally(Gateway), &[(1100, 'g'), (1200, 'g')], true),
            (Expect::Finally(Gateway), &[(1100, 'd'), (1200, 'g')], true),
            (Expect::Finally(Gateway), &[(1100, 'g'), (1200, 'd')], false),
        ] {
            let problems = tally(expect, false, calls).problems;
            assert_eq!(problems.is_empty(), good, "{expect:?} {calls:?}: {problems:?}");
        }
    }

    #[test]
    fn a_failure_is_excused_only_under_way_while_the_gateway_is_killed() {
        let direct = Expect::All(Way::Direct);
        let excused = tally(direct, true, &[(1005, 'x'), (1100, 'd')]);
        assert_eq!((excused.broken, excused.failed, excused.problems.len()), (1, 0, 0));
        let late = tally(direct, true, &[(1100, 'x'), (1200, 'd')]);
        assert_eq!((late.broken, late.failed, late.problems.len()), (0, 1, 1));
        let unkilled = tally(direct, false, &[(1005, 'x'), (1200, 'd')]);
        assert_eq!((unkilled.broken, unkilled.failed, unkilled.problems.len()), (0, 1, 1));
    }

    #[test]
    fn the_turn_is_timed_from_the_beginning_of_the_event() {
        let turned =
            tally(Expect::Then(Way::Direct, Way::Gateway), false, &[(1100, 'd'), (1350, 'g')]).turned;
        assert_eq!(turned, Some(Duration::from_millis(350)));
    }

    #[test]
    fn the_kernel_must_have_given_its_reason() {
        let mut phase = Phase {
            plan: Plan {
                name: "n",
                title: "t",
                expect: Expect::Finally(Way::Direct),
                because: Some("cooldown"),
                may_break: false,
            },
            event: (Duration::ZERO, Duration::ZERO),
            calls: vec![Call { began: Duration::ZERO, ended: Duration::ZERO, way: Ok(Way::Direct) }],
            reasons: Counters::new(),
        };
        assert_eq!(phase.tally().problems.len(), 1);
        phase.reasons.insert("cooldown".to_owned(), 1);
        assert!(phase.tally().problems.is_empty());
    }
}
