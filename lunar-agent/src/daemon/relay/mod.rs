//! The relay, as the agent looks after it: a process that outlives the agent, listening where targets are.

mod keeper;
mod link;
mod listen;
mod namespaces;
mod plan;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::agent::Agent;
use crate::{
    config::{Config, Handoff},
    control::{Answer, status},
    kernel::KernelError,
    relay::{
        process,
        setup::{Endpoint, Setup},
    },
    targets::netns::NetnsId,
};
use keeper::{Command, Keeper, Report, Wanted, Wish};

/// Processes that may wait to be looked at; the others are found by the next look, a second later at most.
const MAX_PENDING: usize = 256;

/// How long whoever attaches a target, or changes what the relay serves by, waits for it.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// The keeper's other end.
pub(super) struct RelayCare {
    commands: Sender<Command>,
    wanted: Wanted,
    report: Arc<Mutex<Report>>,
    pending: Arc<AtomicUsize>,
    /// What was wished last; `None` before anything was.
    wished: Option<Option<Arc<Setup>>>,
}

impl RelayCare {
    /// Begins with no relay wanted.
    pub(super) fn start(pins: &Path, agent_socket: &Path) -> Result<Self, KernelError> {
        let (commands, told) = channel();
        let (wanted, report, pending) = (Wanted::default(), Arc::default(), Arc::default());
        let keeper = Keeper::new(
            pins.to_owned(),
            process::socket_beside(agent_socket),
            Arc::clone(&wanted),
            Arc::clone(&report),
            Arc::clone(&pending),
            commands.clone(),
        )?;
        std::thread::Builder::new()
            .name("relay-keeper".to_owned())
            .spawn(move || keeper.run(&told))
            .map_err(KernelError::sys("start", "the thread that looks after the relay"))?;
        Ok(Self { commands, wanted, report, pending, wished: None })
    }

    fn tell(&self, command: Command) {
        // It works as long as the agent, unless it has been stopped.
        let _stopped = self.commands.send(command);
    }

    /// Puts a wish in the place of the one before.
    fn want(&self, wish: Option<Wish>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wish.map(Arc::new);
        self.tell(Command::Look(None));
    }

    /// A process of a target was not handed to a relay because none listens in its network namespace.
    pub(super) fn missed(&self, pid: u32) {
        if self.pending.fetch_add(1, Ordering::Relaxed) < MAX_PENDING {
            self.tell(Command::Process(pid));
        } else {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Ends all relays, and looks after none any more.
    pub(super) fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.tell(Command::Stop(done));
        // On a thread of its own: this one may be the runtime's, which does not let itself be blocked.
        let _ended = std::thread::spawn(move || stopped.blocking_recv()).join();
    }

    /// What it is that the relay lacks.
    pub(super) fn problem(&self) -> Option<String> {
        self.report().problem.map(|problem| format!("relay: {problem}"))
    }

    fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `status` shows of it, besides what the maps tell.
    pub(super) fn shown(&self) -> status::RelayKnowledge {
        let report = self.report();
        status::RelayKnowledge {
            version: report.version,
            namespaces: Some(report.namespaces.len()),
            problem: report.problem,
        }
    }

    /// Whether it listens in the network namespace of a process.
    pub(super) fn listens_with(&self, pid: u32) -> bool {
        NetnsId::of_process(pid).is_ok_and(|id| self.report().namespaces.contains(&id))
    }

    /// Ends when the relay listens where targets are, and serves by what was wished last, or it takes too long.
    pub(super) fn looked(&self) -> impl Future<Output = ()> + use<> {
        let (done, looked) = oneshot::channel();
        self.tell(Command::Look(Some(done)));
        async move {
            if tokio::time::timeout(FIRST_LOOK, looked).await.is_err() {
                tracing::warn!("the relay is slow to follow; `lunar-agent status` says where it is");
            }
        }
    }
}

/// Whether connections are handed to a relay.
pub(super) fn wanted(config: &Config) -> bool {
    config.gateway.handoff == Handoff::Lunar
}

impl Agent {
    /// Tells the relay's keeper what is wanted now. `anew`: what a relay is to serve by may have changed.
    pub(super) fn wish_relay(&mut self, anew: bool) {
        if !wanted(&self.config) {
            // Also at the start: one may be left from another handoff.
            if !matches!(self.relay.wished.replace(None), Some(None)) {
                self.relay.want(None);
            }
            return;
        }
        let setup = match &self.relay.wished {
            Some(Some(setup)) if !anew => Arc::clone(setup),
            _ => Arc::new(self.relay_setup()),
        };
        self.relay.wished = Some(Some(Arc::clone(&setup)));
        let cgroups: Vec<PathBuf> = self.targets.iter().map(|t| t.cgroup.path.clone()).collect();
        self.relay.want(Some(Wish { setup, cgroups }));
    }

    /// Waits until the relay listens where targets are, while the lease is renewed.
    pub(super) async fn first_relay(&mut self) {
        if !wanted(&self.config) {
            return;
        }
        let looked = self.relay.looked();
        tokio::pin!(looked);
        loop {
            tokio::select! {
                () = &mut looked => return,
                () = tokio::time::sleep(self.config.failsafe.lease / 4) => self.beat(),
            }
        }
    }

    /// Answers a request after which targets may be where the relay does not listen yet, when it does.
    pub(super) fn answer_when_listening(&mut self, answer: Answer, to: oneshot::Sender<Answer>) {
        self.wish_relay(false);
        let looked = wanted(&self.config).then(|| self.relay.looked());
        tokio::spawn(async move {
            if let Some(looked) = looked {
                looked.await;
            }
            // A client that went away needs no answer.
            let _gone = to.send(answer);
        });
    }

    fn relay_setup(&self) -> Setup {
        let Config { gateway, health, failsafe, relay, policy, .. } = &*self.config;
        let texts =
            |entries: &[crate::policy::PolicyEntry]| entries.iter().map(ToString::to_string).collect();
        let endpoints = self.endpoints.iter();
        Setup {
            endpoints: endpoints
                .map(|e| Endpoint {
                    slot: e.slot,
                    address: e.address,
                    host: e.host.clone(),
                    managed: self.is_managed(e.slot),
                })
                .collect(),
            supports_tls: gateway.supports_tls,
            tenant: gateway.tenant_id.clone(),
            connect_timeout: gateway.connect_timeout,
            lease: failsafe.lease,
            grace: health.interval + health.timeout,
            cooldown: failsafe.exit_cooldown_after,
            threshold: failsafe.enter_cooldown_after_attempts.into(),
            allow: texts(&policy.allow),
            block: texts(&policy.block),
            ports: policy.ports.clone(),
            own_addresses: self.own_addresses.iter().copied().collect(),
            error_indicators: relay.error_indicators.iter().map(ToString::to_string).collect(),
            replay: relay.replay.into(),
            replay_buffer: usize::try_from(relay.replay_buffer.0).unwrap_or(usize::MAX),
            retry_max: relay.retry_max.into(),
            retry_total: relay.retry_total,
            drain_timeout: relay.drain_timeout,
        }
    }
}
