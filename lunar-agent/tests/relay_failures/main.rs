//! A gateway that fails in every way there is: what the application sees of it, what is counted, and how often the provider
//! executes the request.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../relayed/mod.rs"]
mod relayed;
#[path = "../world/mod.rs"]
mod world;

mod gateway;
mod hanging;
mod pooled;
mod retries;
mod scene;
mod table;
