//! The targets of a running agent: which slot each has, and how they lie within each other. Pure.

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
    #[error("there are {MAX_TARGETS} targets, the most that there can be: detach one first")]
    Full,
}

/// All targets.
#[derive(Default, Debug)]
pub struct TargetSet(Vec<Target>);

impl TargetSet {
    /// Adds a target in a free slot, or in `slot` if it had one before.
    ///
    /// # Errors
    /// If cgroup or name are taken, or no slot is free.
    pub fn add(&mut self, name: String, cgroup: Cgroup, slot: Option<u32>) -> Result<&Target, AddError> {
        if let Some(same) = self.0.iter().find(|t| t.cgroup.id == cgroup.id) {
            let path = cgroup.path.display().to_string();
            return Err(AddError::Duplicate { path, name: same.name.clone() });
        }
        if self.0.iter().any(|t| t.name == name) {
            return Err(AddError::NameTaken(name));
        }
        let taken = |slot: u32| self.0.iter().any(|t| t.slot == slot);
        let slot = slot
            .filter(|s| !taken(*s))
            .or_else(|| (0..MAX_TARGETS).find(|s| !taken(*s)))
            .ok_or(AddError::Full)?;
        let at = self.0.len();
        self.0.push(Target { name, cgroup, slot });
        Ok(&self.0[at])
    }

    /// Takes a target out, by name or by cgroup.
    pub fn remove(&mut self, which: impl Fn(&Target) -> bool) -> Option<Target> {
        let at = self.0.iter().position(which)?;
        Some(self.0.remove(at))
    }

    /// All targets, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.0.iter()
    }

    /// What the programs on a target's cgroup must know.
    pub fn attachment(&self, target: &Target) -> Attachment {
        let has_inner = self.0.iter().any(|t| target.cgroup.contains(&t.cgroup));
        let has_outer = self.0.iter().any(|t| t.cgroup.contains(&target.cgroup));
        Attachment {
            target: target.slot + 1,
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

    fn nesting_of(set: &TargetSet, name: &str) -> u32 {
        set.attachment(set.iter().find(|t| t.name == name).expect("is there")).nesting
    }

    #[test]
    fn slots_are_kept_reused_and_never_shared() {
        let mut set = TargetSet::default();
        assert_eq!(set.add("a".into(), cgroup("/a", 1), Some(7)).map(|t| t.slot), Ok(7));
        assert_eq!(set.add("b".into(), cgroup("/b", 2), Some(7)).map(|t| t.slot), Ok(0));
        assert!(matches!(set.add("c".into(), cgroup("/a", 1), None), Err(AddError::Duplicate { .. })));
        assert!(matches!(set.add("b".into(), cgroup("/c", 3), None), Err(AddError::NameTaken(_))));
        assert_eq!(set.remove(|t| t.name == "b").map(|t| t.slot), Some(0));
        assert_eq!(set.add("c".into(), cgroup("/c", 3), None).map(|t| t.slot), Ok(0));
        for n in 2..u64::from(MAX_TARGETS) {
            set.add(format!("n{n}"), cgroup(&format!("/n{n}"), 100 + n), None).expect("there is room");
        }
        assert_eq!(set.add("last".into(), cgroup("/last", 9999), None), Err(AddError::Full));
    }

    #[test]
    fn nesting_follows_folders_not_prefixes_of_names() {
        let mut set = TargetSet::default();
        for (name, path, id) in
            [("out", "/x", 1), ("mid", "/x/y", 2), ("in", "/x/y/z", 3), ("other", "/xy", 4)]
        {
            set.add(name.into(), cgroup(path, id), None).expect("there is room");
        }
        assert_eq!(nesting_of(&set, "out"), nesting::HAS_INNER);
        assert_eq!(nesting_of(&set, "mid"), nesting::HAS_INNER | nesting::HAS_OUTER);
        assert_eq!(nesting_of(&set, "in"), nesting::HAS_OUTER);
        assert_eq!(nesting_of(&set, "other"), 0);
    }
}
