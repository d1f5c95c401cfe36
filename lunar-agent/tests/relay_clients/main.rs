//! Real clients, unchanged, in a target whose network has no way to the gateway: what they see is what they would see without
//! the interceptor, and each of their requests reaches the gateway as the contract says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../relayed/mod.rs"]
mod relayed;
#[path = "../world/mod.rs"]
mod world;

mod alike;
mod connections;
mod programs;
mod scene;
mod streams;
