//! What is sent through the gateway and what is left alone (DESIGN section 6).
//!
//! An entry speaks of addresses or of names. Those of addresses become tables that are searched at every connect, those of names
//! one that is searched when a DNS answer tells the addresses of a name.

pub mod compile;
pub mod entry;
pub mod ids;
pub mod internal;
pub mod pattern;
pub mod ports;
pub mod wire;

pub use compile::names;
pub use entry::{Host, PolicyEntry, PolicyEntryError};
pub use pattern::Pattern;
