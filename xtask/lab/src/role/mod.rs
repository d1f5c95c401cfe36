//! The parts that processes of the lab play: the provider that is called, and the client that calls.

pub mod client;
pub mod provider;

mod digest;
