//! The relay's decisions (DESIGN section 5): what a head says, what becomes of it on its way to the gateway, where a request
//! goes, and what happens when the gateway fails it. Pure: bytes and times come in, decisions go out.

pub mod http;
pub mod replay;
pub mod route;
