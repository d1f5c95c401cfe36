//! The gateway as the agent sees it: where it listens, whether it is healthy, which processes it is; and the small
//! embedded gateway.

pub mod embedded;
pub mod endpoint;
pub mod listener;
pub mod outbound;
pub mod probe;
pub mod schedule;
