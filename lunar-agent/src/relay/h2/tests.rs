//! An application, the relay, a gateway and a provider, with real sockets.

mod answers;
mod conformance;
mod faults;
mod frames;
mod gateways;
mod requests;
mod scene;
mod streams;
mod tools;
