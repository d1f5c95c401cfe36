//! The daemon: one task that owns everything and does one thing at a time, around it the tasks that wait for
//! something (probes, clients, events, signals) and tell it.

mod agent;
mod endpoints;
mod error;
mod gateways;
mod lifecycle;
mod listeners;
mod probes;
mod settings;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

pub use error::DaemonError;

use crate::{
    config::{Config, OnStop},
    control::server,
    kernel::events::{self, Events},
};
use agent::Agent;

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

/// Runs until a signal stops it.
///
/// # Errors
/// What kept it from starting.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    let on_stop = config.failsafe.on_stop;
    let socket = config.paths.socket.clone();
    let mut agent = tokio::select! {
        agent = Agent::start(config) => agent?,
        signal = signals.stop() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
    };
    let (asks, mut asked) = mpsc::channel(16);
    if let Some(listener) = agent.take_listener() {
        tokio::spawn(server::serve(listener, asks));
    }
    if let Some(logger) = agent.take_kernel_logger() {
        tokio::spawn(events::forward_log(logger));
    }
    let mut events = Events::open(agent.pins())?;
    agent.announce();
    notify(&[sd_notify::NotifyState::Ready]);

    let signal = loop {
        let wake = agent.next_wake();
        tokio::select! {
            () = tokio::time::sleep_until(wake) => agent.on_time().await,
            Some(done) = agent.next_probe() => agent.on_probe(done),
            event = events.next() => match event {
                Ok(event) => agent.on_event(&event),
                Err(source) => return Err(DaemonError::Events(source)),
            },
            Some((request, answer)) = asked.recv() => {
                // A client that went away needs no answer.
                let _gone = answer.send(agent.on_request(request));
            }
            _ = hang_up.recv() => {
                tracing::warn!("SIGHUP: reloading is not built yet; restart the agent to apply a new configuration");
            }
            signal = signals.stop() => break signal,
        }
    };
    tracing::info!(signal, on_stop = %on_stop, "stopping; a second signal exits at once");
    notify(&[sd_notify::NotifyState::Stopping]);
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

/// Tells systemd, where it wants to know.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(error = %e, "systemd was not told");
    }
}
