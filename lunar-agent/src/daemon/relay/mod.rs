//! The relay, as the agent looks after it: a process that outlives the agent, listening where targets are.

mod keeper;
mod listen;
mod plan;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::agent::Agent;
use crate::targets::netns::NetnsId;
use crate::{
    config::{Config, Handoff},
    control::{Answer, status},
    kernel::KernelError,
    relay::{
        process,
        setup::{Endpoint, Setup},
    },
};
use keeper::{Command, Keeper, Report, Wish};

/// Commands that wait for the keeper; what is told beyond that it finds by itself, a second later at most.
const COMMANDS: usize = 256;

/// How long whoever attaches a target waits for the relay to listen there.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// The keeper's other end.
pub(super) struct RelayCare {
    commands: SyncSender<Command>,
    wish: Arc<Mutex<Option<Arc<Wish>>>>,
    report: Arc<Mutex<Report>>,
    setup: Option<Arc<Setup>>,
}

impl RelayCare {
    /// Begins with no relay wanted.
    pub(super) fn start(pins: &Path, agent_socket: &Path) -> Result<Self, KernelError> {
        let (commands, told) = sync_channel(COMMANDS);
        let (wish, report) = (Arc::default(), Arc::default());
        let socket = process::socket_beside(agent_socket);
        let keeper =
            Keeper::new(pins.to_owned(), socket, Arc::clone(&wish), Arc::clone(&report), commands.clone())?;
        std::thread::Builder::new()
            .name("relay-keeper".to_owned())
            .spawn(move || keeper.run(&told))
            .map_err(KernelError::sys("start", "the thread that looks after the relay"))?;
        Ok(Self { commands, wish, report, setup: None })
    }

    fn tell(&self, command: Command) {
        if let Err(TrySendError::Full(_)) = self.commands.try_send(command) {
            tracing::debug!("the relay's keeper is busy");
        }
    }

    /// Puts a wish in the place of the one before, so that none is lost in a crowd of commands.
    fn want(&self, wish: Option<Wish>) {
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner) = wish.map(Arc::new);
        self.tell(Command::Look(None));
    }

    /// A process of a target was not handed to a relay because none listens in its network namespace.
    pub(super) fn missed(&self, pid: u32) {
        self.tell(Command::Process(pid));
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
            version: report.relay.map(|hello| hello.version),
            namespaces: Some(report.namespaces.len()),
            problem: report.problem,
        }
    }

    /// Whether it listens in the network namespace of a process.
    pub(super) fn listens_with(&self, pid: u32) -> bool {
        NetnsId::of_process(pid).is_ok_and(|id| self.report().namespaces.contains(&id))
    }

    /// Ends when the relay listens where targets are, or it takes too long.
    pub(super) fn looked(&self) -> impl Future<Output = ()> + use<> {
        let (done, looked) = oneshot::channel();
        // In vain if it is busy; then it has just begun to look.
        self.tell(Command::Look(Some(done)));
        async move {
            if tokio::time::timeout(FIRST_LOOK, looked).await.is_err() {
                tracing::warn!("the relay is slow to listen; connects go direct until it does");
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
            if self.relay.setup.take().is_some() {
                self.relay.want(None);
            }
            return;
        }
        let setup = match &self.relay.setup {
            Some(setup) if !anew => Arc::clone(setup),
            _ => Arc::new(self.relay_setup()),
        };
        self.relay.setup = Some(Arc::clone(&setup));
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
                .map(|e| Endpoint { slot: e.slot, address: e.address, host: e.host.clone() })
                .collect(),
            supports_tls: gateway.supports_tls,
            tenant: self.is_managed().then(|| gateway.tenant_id.clone()),
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
