//! What the kernel programs and the agent share: the layouts of the maps and the decisions that
//! both must take alike. Everything here is pure: time, randomness and the outcome of look-ups come
//! in as arguments, so that the host's tests and `explain` run the very code the kernel runs.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod bar;
pub mod dns;
pub mod failsafe;
pub mod lookup;
pub mod names;
pub mod net;
pub mod opinion;
pub mod policy;
pub mod proxy;
pub mod syn;
pub mod time;
pub mod verdict;
