//! The `lunar` handoff as a whole: kernel, agent, relay and gateway. (How requests are handed over is in `relay_clients` and
//! `relay_failures`.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/mod.rs"]
mod world;

mod death;
mod handshake;
mod places;
mod scene;
mod ways;
