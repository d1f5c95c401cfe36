//! How a target is named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kinds of selector of the contract that a later version understands.
const NOT_BUILT: [&str; 6] = ["docker", "podman", "containerd", "unit", "compose", "pod"];

/// A target as it was asked for. Whether it exists is found out when it is attached, not here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `cgroup:PATH`: the cgroup with this absolute path in the cgroup2 file system, and all below it.
    Cgroup(PathBuf),
    /// `pid:N`: the whole cgroup of this process; never 0.
    Pid(u32),
}

/// A target of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// How the target is called in `status` and in counters; unique within a configuration.
    pub name: String,
    /// What it is.
    pub selector: Selector,
}

/// Why a text is no [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing but white space.
    #[error("the selector is empty; use cgroup:PATH or pid:N")]
    Empty,
    /// A kind of selector that a later version understands.
    #[error("{selector:?}: selecting by {by} is not built yet; use cgroup:PATH or pid:N")]
    NotBuilt {
        /// The selector as it was given.
        selector: String,
        /// What it selects by.
        by: String,
    },
    /// A kind that no version knows.
    #[error("{selector:?}: there is no selector of the kind {kind:?}; use cgroup:PATH or pid:N")]
    UnknownKind {
        /// The selector as it was given.
        selector: String,
        /// The part before the first colon.
        kind: String,
    },
    /// A path without its kind.
    #[error("{path:?} is a path without a kind; write it as cgroup:PATH")]
    BarePath {
        /// The path as it was given.
        path: String,
    },
    /// The cgroup's path is not absolute, or no path at all.
    #[error("{path:?} is not an absolute cgroup path; write all of it, such as /sys/fs/cgroup/app")]
    Path {
        /// The path as it was given.
        path: String,
    },
    /// The process number is none.
    #[error("{pid:?} is not a process number; use a whole number from 1 to {max}", max = u32::MAX)]
    Pid {
        /// The number as it was given.
        pid: String,
    },
}

impl Selector {
    /// Selects a cgroup by its path, which must be absolute.
    ///
    /// # Errors
    /// [`SelectorError::Path`] for a path that is relative or holds a NUL byte.
    pub fn cgroup(path: &str) -> Result<Self, SelectorError> {
        if !Path::new(path).is_absolute() || path.contains('\0') {
            return Err(SelectorError::Path { path: path.to_owned() });
        }
        Ok(Self::Cgroup(PathBuf::from(path)))
    }

    /// Selects the cgroup of a process by its number.
    ///
    /// # Errors
    /// [`SelectorError::Pid`] for anything but the decimal digits of a number from 1 to [`u32::MAX`].
    pub fn pid(text: &str) -> Result<Self, SelectorError> {
        match text.parse() {
            // `u32::from_str` takes a leading plus sign, which nobody means.
            Ok(pid) if pid != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self::Pid(pid)),
            _ => Err(SelectorError::Pid { pid: text.to_owned() }),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SelectorError::Empty);
        }
        if text.starts_with('/') {
            return Err(SelectorError::BarePath { path: text.to_owned() });
        }
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(SelectorError::NotBuilt { selector: text.to_owned(), by: "a bare name".to_owned() });
        };
        match kind {
            "cgroup" => Self::cgroup(rest),
            "pid" => Self::pid(rest),
            kind if NOT_BUILT.contains(&kind) => {
                Err(SelectorError::NotBuilt { selector: text.to_owned(), by: format!("{kind}:") })
            }
            kind => Err(SelectorError::UnknownKind { selector: text.to_owned(), kind: kind.to_owned() }),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_is_built() {
        for (given, selector) in [
            ("cgroup:/sys/fs/cgroup/app", Selector::Cgroup("/sys/fs/cgroup/app".into())),
            (" cgroup:/sys/fs/cgroup/a:b c ", Selector::Cgroup("/sys/fs/cgroup/a:b c".into())),
            ("pid:123", Selector::Pid(123)),
            ("pid:4294967295", Selector::Pid(u32::MAX)),
        ] {
            assert_eq!(given.parse(), Ok(selector.clone()), "{given}");
            assert_eq!(selector.to_string(), given.trim());
        }
    }

    #[test]
    fn refuses_the_rest_with_the_way_out() {
        for (given, part) in [
            ("", "is empty; use cgroup:PATH or pid:N"),
            ("docker:web", "selecting by docker: is not built yet; use cgroup:PATH or pid:N"),
            ("podman:web", "selecting by podman: is not built yet"),
            ("containerd:web", "selecting by containerd: is not built yet"),
            ("unit:x.service", "selecting by unit: is not built yet"),
            ("compose:p/web", "selecting by compose: is not built yet"),
            ("pod:ns/name", "selecting by pod: is not built yet"),
            ("checkout", "selecting by a bare name is not built yet"),
            ("jail:web", "no selector of the kind \"jail\"; use cgroup:PATH or pid:N"),
            ("CGROUP:/x", "no selector of the kind \"CGROUP\""),
            ("/sys/fs/cgroup/app", "write it as cgroup:PATH"),
            ("cgroup:app", "\"app\" is not an absolute cgroup path"),
            ("cgroup:", "\"\" is not an absolute cgroup path"),
            ("cgroup:/a\0b", "is not an absolute cgroup path"),
            ("pid:0", "\"0\" is not a process number"),
            ("pid:abc", "\"abc\" is not a process number"),
            ("pid:+1", "\"+1\" is not a process number"),
            ("pid:-1", "\"-1\" is not a process number"),
            ("pid:4294967296", "\"4294967296\" is not a process number"),
        ] {
            let error = given.parse::<Selector>().expect_err(given).to_string();
            assert!(error.contains(part), "{given:?} gave {error:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(cgroup:|pid:|unit:)?.*") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
            }
        }
    }
}
