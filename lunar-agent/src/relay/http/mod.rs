//! HTTP/1 as the relay reads it: strictly, and without changing what passes.
//!
//! The bytes of a message are forwarded as they came, so order, case and number of its headers are kept by construction. What
//! is read are facts about them. Wherever two readers of the same bytes might come to different facts, the message is
//! not understood, and its connection goes to the original destination byte for byte.

pub mod body;
pub mod head;
pub mod rewrite;
