//! What is sent through the gateway and what is left alone (DESIGN section 6).
//!
//! This version knows addresses and CIDRs. Names need the DNS side of the interceptor and are refused until then, because
//! an entry that is accepted and has no effect would be a silent no-op.

pub mod compile;
pub mod entry;
pub mod internal;
pub mod ports;

pub use entry::{PolicyEntry, PolicyEntryError};
