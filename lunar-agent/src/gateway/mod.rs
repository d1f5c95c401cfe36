//! The gateway as the agent sees it: health probes, and the small embedded gateway.

pub mod embedded;
pub mod outbound;
pub mod probe;
