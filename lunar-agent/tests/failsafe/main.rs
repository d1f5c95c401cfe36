//! The failsafe against its contract (DESIGN section 4), on the real kernel with the real agent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/mod.rs"]
mod world;

mod scene;

mod by_hand;
mod connects;
mod cooldown;
mod crowd;
mod epoch;
mod probes;
mod race;
mod silence;
mod start;
