//! Handing over to gateways: stock HAProxy and nginx from Debian, the embedded gateway, and one that asks the kernel for
//! the original destination in every way there is; called by real clients.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/mod.rs"]
mod world;

mod scene;

mod answers;
mod lunar;
mod lunar_provider;
mod lunar_table;
mod original_dst;
mod process;
mod proxy_protocol;
mod reload;
