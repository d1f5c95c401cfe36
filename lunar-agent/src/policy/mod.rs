//! Policy: which destinations go to the gateway (DESIGN section 6).

pub mod compile;
pub mod internal;
pub mod ports;
