//! The daemon: one task that owns everything and does one thing at a time, around it the tasks that wait for
//! something (probes, clients, events, signals) and tell it.

mod agent;
mod endpoints;
mod error;
mod exemption;
mod explain;
mod gateways;
mod lifecycle;
mod listeners;
mod names;
mod policy;
mod probes;
mod relay;
mod reload;
mod renewal;
mod requests;
mod settings;
mod succession;

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Interval, MissedTickBehavior},
};

pub use error::DaemonError;

use crate::{
    addresses::AddressChanges,
    config::{Loaded, OnStop, Sources},
    control::server,
    kernel::events::Events,
};
use agent::Agent;
use reload::Reloads;

/// The signals that end a daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let on = |kind| signal(kind).map_err(DaemonError::Signals);
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs until a signal stops it. What was `loaded` is in effect until the `sources` are read anew.
///
/// # Errors
/// What kept it from starting.
pub async fn run(sources: Sources, loaded: Loaded) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    let Loaded { config, origins, .. } = loaded;
    let socket = config.paths.socket.clone();
    let reloads = Reloads::new(sources, origins);
    let mut agent = tokio::select! {
        agent = Agent::start(Arc::new(config), reloads) => agent?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
    };
    let (asks, mut asked) = mpsc::channel(16);
    let mut serving = JoinSet::new();
    if let Some(listener) = agent.take_listener() {
        serving.spawn(server::serve(listener, asks));
    }
    agent.follow_kernel_log();
    let mut events = Events::open(agent.pins())?;
    let mut watchdog = Watchdog::new();
    let mut addresses = AddressNews::new();
    agent.first_relay().await;
    agent.announce();
    notify(&[NotifyState::Ready]);

    let signal = loop {
        let wake = agent.next_wake();
        tokio::select! {
            () = tokio::time::sleep_until(wake) => agent.on_time().await,
            Some(done) = agent.next_done() => agent.on_done(done),
            event = events.next() => match event {
                Ok(event) => agent.on_event(&event),
                Err(source) => return Err(DaemonError::Events(source)),
            },
            Some((request, answer)) = asked.recv() => agent.on_request(request, answer),
            // It ends only by a panic, and an agent that cannot be asked is not to be.
            Some(Err(e)) = serving.join_next() => std::panic::resume_unwind(e.into_panic()),
            () = addresses.come() => agent.watch_addresses("netlink"),
            _ = hang_up.recv() => agent.begin_reload(None),
            () = watchdog.due() => notify(&[NotifyState::Watchdog]),
            signal = signals.stop() => break signal,
        }
    };
    let on_stop = agent.config.failsafe.on_stop;
    tracing::info!(signal, on_stop = %on_stop, "stopping; a second signal exits at once");
    notify(&[NotifyState::Stopping]);
    second_signal_exits();
    agent.stop(on_stop == OnStop::Detach);
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %socket.display(), error = %e, "control socket not removed");
        }
        _ => {}
    }
    Ok(())
}

/// systemd's watchdog (`WatchdogSec=`): told from the loop that does all the work, so that it hears nothing when that
/// hangs.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new() -> Self {
        // sd_watchdog_enabled(3) advises half of the time.
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero());
        Self(every.map(|half| {
            let mut interval = tokio::time::interval(half);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until systemd is to hear of us; for ever, if it does not want to.
    async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// What the kernel tells of this host's addresses. Without it they are only looked at with everything else, once a
/// second.
struct AddressNews(Option<AddressChanges>);

impl AddressNews {
    fn new() -> Self {
        Self(AddressChanges::new().inspect_err(Self::say).ok())
    }

    fn say(error: &std::io::Error) {
        tracing::warn!(%error, "changes of this host's addresses are noticed only once a second");
    }

    /// Waits until the addresses may be others; for ever, if the kernel does not tell.
    async fn come(&mut self) {
        if let Some(changes) = &mut self.0 {
            match changes.changed().await {
                Ok(()) => return,
                Err(error) => {
                    Self::say(&error);
                    self.0 = None;
                }
            }
        }
        std::future::pending().await
    }
}

/// Gives the signals back to the kernel: from here on one ends the process at once.
fn second_signal_exits() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for which in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the default action is no handler of ours.
        if let Err(e) = unsafe { signal(which, SigHandler::SigDfl) } {
            tracing::warn!(signal = %which, error = %e, "a second signal will not exit at once");
        }
    }
}

/// Tells systemd that a reload begins (`Type=notify-reload` waits for it, and for the end).
fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!(error = %e, "systemd was not told of the reload"),
    }
}

/// Tells systemd, where it wants to know.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(error = %e, "systemd was not told");
    }
}
