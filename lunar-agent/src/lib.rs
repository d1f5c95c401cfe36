//! agent

pub mod config;
pub mod policy;
pub mod targets;
