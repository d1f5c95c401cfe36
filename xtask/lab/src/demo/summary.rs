//! What the whole demo adds up to.

use std::time::Duration;

use super::call::Way;
use super::phase::{Phase, Tally};
use super::scene::Counters;

/// The table of the phases, one line each.
pub(super) fn table(phases: &[Phase]) -> Vec<String> {
    let row = |name: &str, tally: &Tally, reasons: &Counters| {
        format!(
            "  {name:<22} {:>5}  {:>11}  {:>6}  {:>6}   {}",
            tally.calls,
            tally.gateway,
            tally.direct,
            tally.failed + tally.broken,
            in_words(reasons)
        )
    };
    let mut lines = vec![format!(
        "  {:<22} {:>5}  {:>11}  {:>6}  {:>6}   {}",
        "PHASE", "CALLS", "VIA GATEWAY", "DIRECT", "FAILED", "THE KERNEL'S REASONS"
    )];
    let (mut all, mut reasons) = (Tally::default(), Counters::new());
    for (number, phase) in (1..).zip(phases) {
        let tally = phase.tally();
        lines.push(row(&format!("{number}  {}", phase.plan.name), &tally, &phase.reasons));
        all = sum(all, &tally);
        for (reason, count) in &phase.reasons {
            *reasons.entry(reason.clone()).or_default() += count;
        }
    }
    lines.push(row("   in all", &all, &reasons));
    lines
}

/// How soon the calls went the other way, for each phase in which they had to.
pub(super) fn turns(phases: &[Phase]) -> Vec<String> {
    let line = |phase: &Phase| {
        let turned = phase.tally().turned?;
        let way = match phase.plan.expect.end() {
            Way::Gateway => "redirected again",
            Way::Direct => "first direct call",
        };
        Some(format!("  {:<22} {way:<18} after {:>5.2} s", phase.plan.name, turned.as_secs_f64()))
    };
    // In the first phase nothing turns.
    phases.iter().skip(1).filter_map(line).collect()
}

/// Everything that did not go as it should. `counters` is the whole demo's, with the client stopped.
pub(super) fn problems(phases: &[Phase], counters: &Counters) -> Vec<String> {
    let mut problems = Vec::new();
    let mut all = Tally::default();
    for (number, phase) in (1..).zip(phases) {
        let tally = phase.tally();
        let name = phase.plan.name;
        problems.extend(tally.problems.iter().map(|problem| format!("phase {number}, {name}: {problem}")));
        all = sum(all, &tally);
    }
    let redirected = counters.get("redirected").copied().unwrap_or(0);
    // A call that failed may have been redirected or not.
    let possible = all.gateway as u64..=(all.gateway + all.failed + all.broken) as u64;
    if !possible.contains(&redirected) {
        problems.push(format!(
            "the kernel counted {redirected} redirected connects, the provider {} calls from the gateway",
            all.gateway
        ));
    }
    let verdicts: u64 = counters.values().sum();
    if verdicts != all.calls as u64 {
        problems.push(format!("the kernel counted {verdicts} verdicts, the client made {} calls", all.calls));
    }
    problems
}

/// The whole demo's calls.
pub(super) fn total(phases: &[Phase]) -> Tally {
    phases.iter().fold(Tally::default(), |all, phase| sum(all, &phase.tally()))
}

fn sum(all: Tally, one: &Tally) -> Tally {
    Tally {
        calls: all.calls + one.calls,
        gateway: all.gateway + one.gateway,
        direct: all.direct + one.direct,
        failed: all.failed + one.failed,
        broken: all.broken + one.broken,
        turned: None::<Duration>,
        problems: Vec::new(),
    }
}

/// `redirected 3, cooldown 1`, without those that are 0.
pub(super) fn in_words(reasons: &Counters) -> String {
    let some: Vec<String> = reasons
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    some.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::call::Call;
    use super::super::phase::{Expect, Plan};
    use super::*;

    fn phases() -> Vec<Phase> {
        let plan = Plan {
            name: "calm",
            title: "Calm",
            expect: Expect::All(Way::Gateway),
            because: None,
            may_break: false,
        };
        let call = |began| Call { began, ended: began, way: Ok(Way::Gateway) };
        let calls = vec![call(Duration::from_secs(1)), call(Duration::from_secs(2))];
        vec![Phase { plan, event: (Duration::ZERO, Duration::ZERO), calls, reasons: Counters::new() }]
    }

    #[test]
    fn the_kernel_and_the_provider_must_agree() {
        let counted = |redirected, cooldown| {
            let counters =
                Counters::from([("redirected".to_owned(), redirected), ("cooldown".to_owned(), cooldown)]);
            problems(&phases(), &counters).len()
        };
        assert_eq!(counted(2, 0), 0);
        assert_eq!(counted(1, 1), 1, "too few redirected");
        assert_eq!(counted(2, 1), 1, "a verdict too many");
        assert_eq!(counted(3, 0), 2, "too many redirected");
    }

    #[test]
    fn reasons_that_did_not_occur_are_not_named() {
        let counters = Counters::from([("redirected".to_owned(), 2), ("policy".to_owned(), 0)]);
        assert_eq!(in_words(&counters), "redirected 2");
    }
}
