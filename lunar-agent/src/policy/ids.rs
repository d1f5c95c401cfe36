//! Numbers for name patterns. What a target has learned is kept under them, and outlives a policy: a pattern keeps its
//! number from one policy to the next, and none gets a number that another had in the one before.

use std::collections::{HashMap, HashSet};

use lunar_common::names::Place;

use super::Pattern;

/// The number of each pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids(HashMap<Pattern, u32>);

impl Ids {
    /// Those that are known already. A number that cannot be one, or that two patterns claim, is left out.
    pub fn known(pairs: impl IntoIterator<Item = (Pattern, u32)>) -> Self {
        let mut taken = HashSet::new();
        let sound = |(_, id): &(Pattern, u32)| *id < Place::PATTERNS && taken.insert(*id);
        Self(pairs.into_iter().filter(sound).collect())
    }

    /// Those of the policy that follows, with these patterns.
    pub fn next<'a>(&self, patterns: impl IntoIterator<Item = &'a Pattern>) -> Self {
        let before: HashSet<u32> = self.0.values().copied().collect();
        let mut free = (0..Place::PATTERNS).filter(|id| !before.contains(id));
        let number = |p: &Pattern| self.get(p).or_else(|| free.next()).map(|id| (p.clone(), id));
        Self(patterns.into_iter().filter_map(number).collect())
    }

    /// A pattern's number.
    pub fn get(&self, pattern: &Pattern) -> Option<u32> {
        self.0.get(pattern).copied()
    }

    /// One more than the greatest.
    pub fn end(&self) -> u32 {
        self.0.values().max().map_or(0, |id| id + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().expect("a pattern")).collect()
    }

    #[test]
    fn a_pattern_keeps_its_number_and_nobody_inherits_one_at_once() {
        let [a, b, c] = ["a.example", "*.b.example", "c.example"].map(|t| patterns(&[t]).remove(0));
        let first = Ids::default().next([&a, &b]);
        assert_eq!(first.end(), 2);
        let second = first.next([&b, &c]);
        assert_eq!((second.get(&b), second.get(&a)), (first.get(&b), None));
        assert_eq!(second.get(&c), Some(2), "0 still means a.example in what was learned");
        let third = second.next([&b, &c, &a]);
        assert_eq!((third.get(&b), third.get(&c)), (second.get(&b), second.get(&c)));
        assert_eq!(third.get(&a), first.get(&a), "by now it is free");
        assert_eq!(Ids::default().end(), 0);
    }

    #[test]
    fn what_somebody_scribbled_is_not_believed() {
        let p = patterns(&["a.example", "b.example", "c.example"]);
        let ids = Ids::known([(p[0].clone(), 5), (p[1].clone(), 5), (p[2].clone(), u32::MAX)]);
        assert_eq!(p.iter().filter_map(|p| ids.get(p)).collect::<Vec<_>>(), [5]);
    }
}
