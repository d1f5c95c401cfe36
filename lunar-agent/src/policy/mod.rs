//! What is sent through the gateway and what is left alone (DESIGN section 6).
//!
//! An entry speaks of addresses or of names. Names are not compiled yet, so the configuration refuses them.

pub mod compile;
pub mod entry;
pub mod internal;
pub mod pattern;
pub mod ports;

pub use entry::{Host, PolicyEntry, PolicyEntryError};
pub use pattern::Pattern;
