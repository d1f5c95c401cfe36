//! The kernel side as the agent sees it: the only user of aya. Loading, links, pins, maps, events.

pub mod attach;
pub mod breaker;
pub mod events;
pub mod features;
pub mod generation;
pub mod known;
pub mod layout;
mod listeners;
pub mod pins;
pub mod policy;
pub mod predecessor;
pub mod program;
pub mod relay;
pub mod state;
mod sys;

use std::{io, path::PathBuf};

pub use sys::{map_pairs, netns_cookie};

/// What can go wrong with the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A system call on a named thing failed.
    #[error("cannot {doing} {what}: {source}")]
    Sys {
        /// What was being done.
        doing: &'static str,
        /// To what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel object could not be loaded.
    #[error("the kernel refused the interceptor's programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program was refused by the verifier.
    #[error("the kernel refused program {name}: {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// aya's error, with the end of the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be used.
    #[error("cannot use map {name}: {source}")]
    Map {
        /// Its name.
        name: String,
        /// aya's error.
        source: Box<aya::maps::MapError>,
    },
    /// A pinned map is not what this version makes.
    #[error(
        "the pinned map {path} has {found}, this version needs {expected}: pins of another version; \
         start the agent of this version, which takes their place, or run `lunar-agent cleanup` (traffic goes direct)"
    )]
    Abi {
        /// The pin.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Somebody else's program has a hook for itself.
    #[error(
        "cannot attach {program} to {cgroup}: another program is there, or around it, that admits none beside it \
         (attached without BPF_F_ALLOW_MULTI); `bpftool cgroup tree` shows it"
    )]
    HookTaken {
        /// Our program.
        program: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
    },
    /// Nothing is pinned.
    #[error("nothing is pinned at {0}: no agent has run here, or its pins were removed")]
    NoPins(PathBuf),
    /// Another agent holds the pins.
    #[error("another lunar-agent is running on {0}: stop it first, or give this one other pins")]
    Held(PathBuf),
    /// The machine lacks something.
    #[error("{0}")]
    Missing(#[from] features::Missing),
}

impl KernelError {
    pub(crate) fn sys(doing: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Sys { doing, what, source }
    }
}
