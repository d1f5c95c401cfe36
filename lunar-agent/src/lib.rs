//! agent
pub mod policy;
