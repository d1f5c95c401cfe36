//! What is intercepted: from the selector a person writes to the cgroup it means (DESIGN section 2, "target").

pub mod cgroup;
pub mod netns;
pub mod selector;
pub mod set;

pub use selector::{Selector, SelectorError, TargetSpec};
