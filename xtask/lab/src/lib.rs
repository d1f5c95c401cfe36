//! A laboratory on this machine: network namespaces joined by veth pairs, cgroups, a bpffs of its own, and
//! processes in them that talk through real kernel paths. Nothing in it reaches the outside, and nothing stays
//! behind, also when the process that made it is killed with SIGKILL.
//!
//! How each thing goes away:
//! - network namespaces are anonymous and live in file descriptors of this process (and in its children);
//! - the bpffs is mounted in a mount namespace of the lab, and its pins end with it;
//! - children die with the thread that spawned them (`PR_SET_PDEATHSIG`);
//! - the cgroup tree, whatever still runs in it, and the directory are removed by [`Lab`]'s drop, and by the
//!   janitor, a process of its own, when drop had no chance to run.

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod foreign;
pub mod janitor;
pub mod role;
pub mod verify;

mod bpf;
mod cgroup;
mod child;
mod lab;
mod netns;
mod spawn;

pub use cgroup::Cgroup;
pub use child::{Child, Mark};
pub use lab::{Lab, lab_binary};
pub use netns::Netns;
pub use spawn::Spawn;
