//! Policy by name, on the real kernel with real clients and real name servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod asker;
mod exact;
mod expiry;
mod first_connect;
mod later;
mod programs;
mod quic;
mod scene;
mod servers;
mod strangers;
#[path = "../world/mod.rs"]
mod world;
