//! What the kernel makes of packets that seem to be DNS answers: the real programs, loaded as ever, run by
//! `BPF_PROG_TEST_RUN`. Nothing is attached and nothing is sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod damage;
mod frames;
mod harness;
mod messages;
mod model;
mod policy;
mod reading;
mod scene;

mod agreement;
mod answers;
mod fuzz;
mod misses;
mod questions;
mod spoofing;
