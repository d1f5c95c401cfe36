//! An application, the relay, a gateway and a provider, with real sockets.

mod gateways;
mod requests;
mod scene;
