//! The command line: one file for each verb, parsing and printing only.

pub mod config;
pub mod gateway;
pub mod sources;

pub use config::ConfigCommand;
pub use sources::ConfigArgs;
