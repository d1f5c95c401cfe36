//! The relay's process on the real kernel: what it serves, how one takes the place of another, how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/raw.rs"]
mod raw;
#[path = "../world/mod.rs"]
mod world;

mod scene;

mod ending;
mod manners;
mod serving;
mod succession;
