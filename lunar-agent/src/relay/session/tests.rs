//! Whole sessions: real sockets on loopback, a gateway and a provider that follow a script, the failsafe's word and the counts in memory.

mod bodies;
mod cuts;
mod ends;
mod failures;
mod faults;
mod plain;
mod real;
mod scene;
mod splices;
