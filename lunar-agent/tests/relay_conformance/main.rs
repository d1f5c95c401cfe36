//! What requests are smuggled with: each vector goes either to its provider byte for byte, or to the gateway as exactly those
//! requests that the relay, HAProxy and the provider all understand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../relayed/mod.rs"]
mod relayed;
#[path = "../world/mod.rs"]
mod world;

mod answers;
mod bodies;
mod heads;
mod judgement;
mod scene;
mod vector;
mod witness;
