//! How many instructions the verifier may walk for each program. Its own limit is a million, but loading takes time
//! in proportion, at every start and reload of the agent, and another kernel's verifier may walk further than this one's.

use super::statistics::Statistics;

/// The budget of a program that no exception names.
const INSTRUCTIONS: u32 = 10_000;

/// Programs that need more: name, budget, reason.
const EXCEPTIONS: &[(&str, u32, &str)] = &[
    ("connect4", 11_500, "it redirects to an endpoint or to the relay, and what follows is walked for both"),
    (
        "connect6",
        15_500,
        "as connect4; IPv6 and v4-mapped destinations come there, so the tables of both families are searched",
    ),
];

/// A program's budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Instructions that the verifier may walk.
    pub instructions: u32,
}

impl Budget {
    /// Whether the verifier kept within it. The stack needs no budget: the verifier itself refuses over 512 bytes.
    pub fn allows(self, statistics: &Statistics) -> bool {
        statistics.processed <= self.instructions
    }
}

/// The budget of the program with this name.
pub(super) fn of(program: &str) -> Budget {
    let exception = EXCEPTIONS.iter().find(|(name, ..)| *name == program);
    Budget { instructions: exception.map_or(INSTRUCTIONS, |(_, instructions, _)| *instructions) }
}

/// Why the exceptions are.
pub(super) fn reasons() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXCEPTIONS.iter().map(|(name, _, reason)| (*name, *reason))
}

/// Exceptions for programs that are not among these.
pub(super) fn stale(programs: &[&str]) -> impl Iterator<Item = &'static str> {
    EXCEPTIONS.iter().map(|(name, ..)| *name).filter(|name| !programs.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_at_its_last_instruction() {
        let took = |processed| Statistics { processed, stacks: vec![0], microseconds: 0 };
        let budget = of("a program that no exception names");
        assert!(budget.allows(&took(10_000)));
        assert!(!budget.allows(&took(10_001)));
        assert!(!Budget { instructions: 99 }.allows(&took(100)), "a lower budget");
    }
}
