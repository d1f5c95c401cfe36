//! The targets of a running agent: which slot each has, and how they lie within each other. Pure.

use std::collections::BTreeSet;

use lunar_common::abi::{Attachment, MAX_TARGETS, nesting};

use super::cgroup::Cgroup;

/// A target that has its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its place in the maps.
    pub slot: u32,
    /// Who wants it.
    pub wish: Wish,
}

/// Who wants a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// The configuration: a reload that no longer names it lets it go.
    Configured,
    /// A person, by `attach`: it stays until it is detached or the agent ends.
    ByHand,
}

/// Why a target cannot be added.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The cgroup is one already.
    #[error("{path} is a target already, named {name}")]
    Duplicate {
        /// The folder.
        path: String,
        /// The name of the target.
        name: String,
    },
    /// The name is taken.
    #[error("a target named {0} exists already: give this one another name")]
    NameTaken(String),
    /// No slot is free.
    #[error(
        "there can be {MAX_TARGETS} targets, those of before and after a reload taken together: detach some first"
    )]
    Full,
}

/// All targets.
#[derive(Clone, Default, Debug)]
pub struct TargetSet {
    targets: Vec<Target>,
    /// Slots, and cgroups' ids, of those that were targets and whose last connections are under way.
    leaving: Vec<(u32, u64)>,
}

impl TargetSet {
    /// Adds a target in a free slot, or in `slot` if it had one before.
    ///
    /// # Errors
    /// If cgroup or name are taken, or no slot is free.
    pub fn add(
        &mut self,
        name: String,
        cgroup: Cgroup,
        slot: Option<u32>,
        wish: Wish,
    ) -> Result<&Target, AddError> {
        if let Some(same) = self.targets.iter().find(|t| t.cgroup.id == cgroup.id) {
            let path = cgroup.path.display().to_string();
            return Err(AddError::Duplicate { path, name: same.name.clone() });
        }
        if self.targets.iter().any(|t| t.name == name) {
            return Err(AddError::NameTaken(name));
        }
        let mut taken = [false; MAX_TARGETS as usize];
        let left = self.leaving.iter().map(|(slot, _)| *slot);
        for slot in self.targets.iter().map(|t| t.slot).chain(left) {
            taken[slot as usize] = true;
        }
        // One that comes back before it has left: its programs know its slot.
        let back = self.leaving.iter().find(|(_, id)| *id == cgroup.id).map(|(slot, _)| *slot);
        let is_free = |slot: &u32| !taken[*slot as usize];
        let slot =
            slot.filter(is_free).or(back).or_else(|| (0..MAX_TARGETS).find(is_free)).ok_or(AddError::Full)?;
        self.leaving.retain(|(s, _)| *s != slot);
        let at = self.targets.len();
        self.targets.push(Target { name, cgroup, slot, wish });
        Ok(&self.targets[at])
    }

    /// The set that another configuration makes of this one: a cgroup that stays keeps its slot and with it its
    /// counters, and what was attached by hand stays, unless the configuration names its cgroup or takes its name. A
    /// slot that is left free is not given to another, since its programs still count there: both sets go together.
    ///
    /// # Errors
    /// If the configuration names a cgroup twice, or no slot is free.
    pub fn reconfigured(&self, wanted: Vec<(String, Cgroup)>) -> Result<Self, AddError> {
        let present = self.targets.iter().map(|t| (t.slot, t.cgroup.id));
        let had: Vec<(u32, u64)> = present.chain(self.leaving.iter().copied()).collect();
        let slot_of = |cgroup: &Cgroup| had.iter().find(|(_, id)| *id == cgroup.id).map(|(slot, _)| *slot);
        let taken: BTreeSet<u32> = had.iter().map(|(slot, _)| *slot).collect();
        let mut free = (0..MAX_TARGETS).filter(|slot| !taken.contains(slot));
        let mut new = Self { targets: Vec::new(), leaving: self.leaving.clone() };
        for (name, cgroup) in wanted {
            let slot = slot_of(&cgroup).or_else(|| free.next()).ok_or(AddError::Full)?;
            new.add(name, cgroup, Some(slot), Wish::Configured)?;
        }
        for target in self.targets.iter().filter(|t| t.wish == Wish::ByHand) {
            if new.targets.iter().all(|t| t.cgroup.id != target.cgroup.id && t.name != target.name) {
                new.targets.push(target.clone());
            }
        }
        Ok(new)
    }

    /// The targets of this set whose cgroups are none of `other`'s.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(|t| other.targets.iter().all(|o| o.cgroup.id != t.cgroup.id))
    }

    /// All of `new`, and of this set what is not in it: what is attached while the one takes the place of the other.
    pub fn together_with(&self, new: &Self) -> Self {
        Self {
            targets: new.targets.iter().chain(self.without(new)).cloned().collect(),
            leaving: new.leaving.clone(),
        }
    }

    /// A slot is not free before [`TargetSet::left`] is told.
    pub fn leave(&mut self, slot: u32, cgroup_id: u64) {
        self.leaving.push((slot, cgroup_id));
    }

    /// Frees the slot of a target that was leaving; says whether it still was.
    pub fn left(&mut self, slot: u32) -> bool {
        let before = self.leaving.len();
        self.leaving.retain(|(s, _)| *s != slot);
        self.leaving.len() < before
    }

    /// How many targets there are, those that are leaving included.
    pub fn slots_taken(&self) -> usize {
        self.targets.len() + self.leaving.len()
    }

    /// Takes a target out, by name or by cgroup.
    pub fn remove(&mut self, which: impl Fn(&Target) -> bool) -> Option<Target> {
        let at = self.targets.iter().position(which)?;
        Some(self.targets.remove(at))
    }

    /// All targets, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter()
    }

    /// The targets around a cgroup and inside it: they have to know when it becomes one, and when it is none any more.
    pub fn relatives(&self, cgroup: &Cgroup) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|t| t.cgroup.contains(cgroup) || cgroup.contains(&t.cgroup))
    }

    /// What the programs on a target's cgroup must know.
    pub fn attachment(&self, target: &Target) -> Attachment {
        let has_inner = self.targets.iter().any(|t| target.cgroup.contains(&t.cgroup));
        let has_outer = self.targets.iter().any(|t| t.cgroup.contains(&target.cgroup));
        Attachment {
            target: target.slot + 1,
            cgroup: target.cgroup.id,
            nesting: (if has_inner { nesting::HAS_INNER } else { 0 })
                | (if has_outer { nesting::HAS_OUTER } else { 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(path: &str, id: u64) -> Cgroup {
        Cgroup { path: path.into(), id }
    }

    fn add(set: &mut TargetSet, name: &str, path: &str, id: u64, slot: Option<u32>) -> Result<u32, AddError> {
        set.add(name.into(), cgroup(path, id), slot, Wish::Configured).map(|t| t.slot)
    }

    fn nesting_of(set: &TargetSet, name: &str) -> u32 {
        set.attachment(set.iter().find(|t| t.name == name).expect("is there")).nesting
    }

    #[test]
    fn slots_are_kept_reused_and_never_shared() {
        let mut set = TargetSet::default();
        assert_eq!(add(&mut set, "a", "/a", 1, Some(7)), Ok(7));
        assert_eq!(add(&mut set, "b", "/b", 2, Some(7)), Ok(0));
        assert!(matches!(add(&mut set, "c", "/a", 1, None), Err(AddError::Duplicate { .. })));
        assert!(matches!(add(&mut set, "b", "/c", 3, None), Err(AddError::NameTaken(_))));
        assert_eq!(set.remove(|t| t.name == "b").map(|t| t.slot), Some(0));
        assert_eq!(add(&mut set, "c", "/c", 3, None), Ok(0));
        for n in 2..u64::from(MAX_TARGETS) {
            add(&mut set, &format!("n{n}"), &format!("/n{n}"), 100 + n, None).expect("there is room");
        }
        assert_eq!(add(&mut set, "last", "/last", 9999, None), Err(AddError::Full));
    }

    #[test]
    fn a_slot_is_free_when_its_last_connections_are() {
        let mut set = TargetSet::default();
        assert_eq!(add(&mut set, "a", "/a", 1, None), Ok(0));
        set.remove(|t| t.name == "a");
        set.leave(0, 1);
        assert_eq!(add(&mut set, "b", "/b", 2, None), Ok(1));
        assert_eq!(set.slots_taken(), 2);
        let with_a = set.reconfigured(vec![("a".into(), cgroup("/a", 1)), ("c".into(), cgroup("/c", 3))]);
        assert_eq!(with_a.expect("a good one").iter().map(|t| t.slot).collect::<Vec<_>>(), [0, 2]);
        // It comes back, and is no longer leaving.
        assert_eq!(add(&mut set, "a", "/a", 1, None), Ok(0));
        assert!(!set.left(0));
        set.remove(|t| t.name == "a");
        set.leave(0, 1);
        assert!(set.left(0));
        assert_eq!(add(&mut set, "d", "/d", 4, None), Ok(0));
    }

    #[test]
    fn nesting_follows_folders_not_prefixes_of_names() {
        let mut set = TargetSet::default();
        for (name, path, id) in
            [("out", "/x", 1), ("mid", "/x/y", 2), ("in", "/x/y/z", 3), ("other", "/xy", 4)]
        {
            add(&mut set, name, path, id, None).expect("there is room");
        }
        assert_eq!(nesting_of(&set, "out"), nesting::HAS_INNER);
        assert_eq!(nesting_of(&set, "mid"), nesting::HAS_INNER | nesting::HAS_OUTER);
        assert_eq!(nesting_of(&set, "in"), nesting::HAS_OUTER);
        assert_eq!(nesting_of(&set, "other"), 0);
        let relatives =
            |path: &str| -> Vec<String> { set.relatives(&cgroup(path, 9)).map(|t| t.name.clone()).collect() };
        assert_eq!(relatives("/x/y"), ["out", "in"]);
        assert_eq!(relatives("/xy/z"), ["other"]);
    }

    #[test]
    fn a_reload_keeps_slots_and_what_was_attached_by_hand() {
        let mut old = TargetSet::default();
        add(&mut old, "stays", "/s", 1, None).expect("there is room");
        add(&mut old, "goes", "/g", 2, None).expect("there is room");
        old.add("hand".into(), cgroup("/h", 3), None, Wish::ByHand).expect("there is room");
        old.add("both".into(), cgroup("/b", 4), None, Wish::ByHand).expect("there is room");
        let wanted = [("renamed", "/s", 1), ("goes", "/g", 20), ("both", "/b", 4)];
        let wanted = wanted.map(|(name, path, id)| (name.to_owned(), cgroup(path, id))).to_vec();
        let new = old.reconfigured(wanted).expect("it is a good one");
        let shown = |set: &TargetSet| {
            set.iter().map(|t| (t.name.clone(), t.cgroup.id, t.slot, t.wish)).collect::<Vec<_>>()
        };
        let expected = [
            ("renamed", 1, 0, Wish::Configured),
            // A container made anew has the name and not the slot of the one before.
            ("goes", 20, 4, Wish::Configured),
            ("both", 4, 3, Wish::Configured),
            ("hand", 3, 2, Wish::ByHand),
        ]
        .map(|(name, id, slot, wish)| (name.to_owned(), id, slot, wish));
        assert_eq!(shown(&new), expected);
        assert_eq!(old.without(&new).map(|t| t.cgroup.id).collect::<Vec<_>>(), [2]);
        assert_eq!(new.without(&old).map(|t| t.cgroup.id).collect::<Vec<_>>(), [20]);
        let together = old.together_with(&new);
        assert_eq!(together.iter().map(|t| t.slot).collect::<Vec<_>>(), [0, 4, 3, 2, 1]);
    }

    #[test]
    fn a_reload_that_names_a_cgroup_twice_or_too_many_is_refused() {
        let set = TargetSet::default();
        let twice = ["a", "b"].map(|name| (name.to_owned(), cgroup("/x", 1))).to_vec();
        assert!(matches!(set.reconfigured(twice), Err(AddError::Duplicate { .. })));
        let many = |first: u64, count: u64| {
            (first..first + count)
                .map(|n| (format!("n{n}"), cgroup(&format!("/n{n}"), n)))
                .collect::<Vec<_>>()
        };
        let full = set.reconfigured(many(1, u64::from(MAX_TARGETS))).expect("there is room");
        assert_eq!(full.reconfigured(many(5000, 1)).map(|_| ()), Err(AddError::Full));
    }
}
