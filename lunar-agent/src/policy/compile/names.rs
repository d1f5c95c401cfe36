//! From entries of names to one answer for each pattern.
//!
//! Patterns nest as networks do: each inherits what the suffixes around it say. So the most specific one that means a name
//! gives the whole answer.

use std::collections::HashMap;

use lunar_common::policy::Answer;

use super::{Answers, CompileError, Full, Rules, sayings::Sayings};
use crate::policy::{
    entry::Host,
    pattern::{Pattern, suffixes},
    ports::{Asked, TooMany},
};

/// What the policy says of the names that a pattern means and no more specific one does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedAnswer {
    /// Those names.
    pub pattern: Pattern,
    /// The whole answer for them, as far as names go. With an empty allow list it only says what is blocked.
    pub answer: Answer,
}

/// The answer for `name`, which has to be in canonical form, out of answers sorted by pattern.
pub fn find<'a>(answers: &'a [NamedAnswer], name: &str) -> Option<&'a NamedAnswer> {
    let get = |text: &str, below: bool| {
        let found = answers.binary_search_by(|named| named.pattern.parts().cmp(&(text, below)));
        found.ok().map(|at| &answers[at])
    };
    get(name, false).or_else(|| suffixes(name).find_map(|suffix| get(suffix, true)))
}

/// The answers of all patterns that entries name, sorted by pattern.
pub(super) fn compile(
    rules: &Rules<'_>,
    answers: &mut Answers<'_>,
) -> Result<Vec<NamedAnswer>, CompileError> {
    let mut entries: Vec<_> = rules
        .entries()
        .filter_map(|(host, says, number)| match host {
            Host::Name(pattern) => Some((pattern, says, number)),
            Host::Net(_) => None,
        })
        .collect();
    entries.sort_unstable_by_key(|&(pattern, _, number)| (pattern, number));
    let patterns: Vec<_> = entries.chunk_by(|a, b| a.0 == b.0).collect();
    let around: HashMap<&str, usize> = (0..)
        .zip(&patterns)
        .filter_map(|(place, entries)| match entries[0].0.parts() {
            (suffix, true) => Some((suffix, place)),
            (_, false) => None,
        })
        .collect();
    // What is around a pattern is shorter than it.
    let mut outside_in: Vec<usize> = (0..patterns.len()).collect();
    outside_in.sort_unstable_by_key(|&place| patterns[place][0].0.parts().0.len());
    let mut sayings = vec![Sayings::default(); patterns.len()];
    for place in outside_in {
        let (text, _) = patterns[place][0].0.parts();
        if let Some(&outer) = suffixes(text).find_map(|suffix| around.get(suffix)) {
            sayings[place] = sayings[outer].clone();
        }
        sayings[place].hear(patterns[place].iter().map(|&(_, says, number)| (says, number)));
    }
    patterns
        .iter()
        .zip(&sayings)
        .map(|(entries, of)| {
            let pattern = entries[0].0;
            let answer = answers.answer(of, of.allowed, Asked::ByAnybody).map_err(|full| match full {
                Full::Ports(TooMany { purpose, count }) => {
                    CompileError::PortsOfName { pattern: pattern.clone(), purpose, count }
                }
                Full::Rules => CompileError::PortRules { host: Host::Name(pattern.clone()) },
            })?;
            Ok(NamedAnswer { pattern: pattern.clone(), answer })
        })
        .collect()
}
