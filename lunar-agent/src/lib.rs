//! agent

pub mod policy;
pub mod targets;
