//! What the command line asks, and what it is told.

use tokio::sync::oneshot;

use super::{DaemonError, agent::Agent, relay};
use crate::{
    config::Quic,
    control::{Answer, Request, status},
    kernel::layout::text,
};

impl Agent {
    pub(super) fn on_request(&mut self, request: Request, answer: oneshot::Sender<Answer>) {
        let done = match request {
            Request::Status {} => match self.status() {
                Ok(status) => Answer::Status(Box::new(status)),
                Err(e) => Answer::Refused { done: Vec::new(), reason: e.to_string(), usage: false },
            },
            Request::Attach { selectors } => {
                let done = self.attach_all(&selectors);
                return self.answer_when_listening(done, answer);
            }
            Request::Detach { selectors } => {
                let done = self.detach_all(&selectors);
                self.wish_relay(false);
                done
            }
            Request::Reload {} => return self.begin_reload(Some(answer)),
            Request::Policy { containing } => match self.view_policy(&containing) {
                Ok(view) => Answer::Policy(Box::new(view)),
                Err(e) => Answer::Refused { done: Vec::new(), reason: e.to_string(), usage: false },
            },
            Request::ChangePolicy { change, entries } => {
                let done = self.change_policy(change, &entries);
                return self.answer_when_listening(done, answer);
            }
            Request::TestPolicy { host } => Answer::Explained(self.test_policy(&host)),
            Request::Explain { target, host } => self.explain(&target, &host),
        };
        // A client that went away needs no answer.
        let _gone = answer.send(done);
    }

    /// What is configured and not in effect, or not all of it, but for the policy.
    fn problems(&self) -> Vec<String> {
        let missing = self.capabilities.shortcomings().map(str::to_owned);
        let reload = self.reloads.problem();
        reload
            .into_iter()
            .chain(self.lookups.problems())
            .chain(missing)
            .chain(self.gateways.not_exempt())
            .chain(self.relay.problem())
            .collect()
    }

    /// The same of the policy.
    fn policy_problems(&self) -> Vec<String> {
        let dormant = self.by_hand.dormant(&self.config.policy).into_iter();
        let idle = relay::wanted(&self.config) && self.config.policy.quic == Quic::Refuse;
        let quic = idle.then(|| {
            "policy.quic = \"refuse\" has no effect: port 443 is not redirected (tls = \"direct\"), so QUIC has nothing to fall back to"
                .to_owned()
        });
        let dormant = dormant.chain(quic);
        dormant.chain(self.names.problems()).chain(self.care.problems()).collect()
    }

    fn status(&self) -> Result<status::Status, DaemonError> {
        let knowledge = status::Knowledge {
            agent: status::Agent {
                running: true,
                pid: Some(std::process::id()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_sec: Some(self.started.elapsed().as_secs_f64()),
                lease_age_ms: None,
            },
            gateway_problems: self.problems(),
            relay: self.relay.shown(),
            policy: status::Policy { problems: self.policy_problems() },
            endpoint_problem: std::array::from_fn(|slot| self.gateways.problem(slot as u32)),
        };
        Ok(status::read(&self.state, knowledge, |slot, entry| {
            let unknown = || format!("{} is not a target of this agent", text(&entry.name, entry.name_len));
            if self.targets.iter().any(|t| t.slot == slot && t.cgroup.id == entry.cgroup_id) {
                self.target_problems.get(&slot).cloned()
            } else {
                Some(unknown())
            }
        })?)
    }
}
