//! The agent: loads and looks after the kernel programs, the gateway's health and the targets, and is what the
//! command line talks to. A folder is a subject, with its pure part and its I/O apart (ARCHITECTURE.md).

pub mod addresses;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod gateway;
pub mod kernel;
pub mod memory;
pub mod policy;
pub mod relay;
pub mod resolution;
pub mod targets;
pub mod telemetry;
