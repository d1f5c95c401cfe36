//! What becomes of a connect that is handed to the relay.

use lunar_common::{
    abi::RELAY_LEASE,
    verdict::{Packed, Reason, Verdict},
};

use super::{Connect, processes_of};

impl Connect<'_> {
    /// What `lunar-ebpf/src/apart.rs` (`relay_at`) finds in the network namespace of the target's first process.
    pub(super) fn hand_to_relay(&self, verdict: Verdict) -> Verdict {
        let agent = self.agent;
        let pid = self.target.and_then(|target| processes_of(&target.cgroup).first().copied());
        let fresh = self.now.since(agent.state.breaker.relay_heartbeat()) < RELAY_LEASE;
        let answer = match pid {
            _ if !fresh => Err("does not run, or hangs"),
            Some(pid) if !agent.relay.listens_with(pid) => {
                Err("does not listen in the target's network namespace")
            }
            None => {
                Err("comes to the target's network namespace with its first process, or by its first connect")
            }
            Some(_) => Ok("takes the connect; the Host header of each request has the last word"),
        };
        self.note("relay", answer.unwrap_or_else(|trouble| trouble));
        match answer {
            Ok(_) => verdict,
            Err(_) => Verdict::unpack(Packed::direct(Reason::NoListener)),
        }
    }
}
