//! A new configuration for a running agent: all of it, or none.

use std::{collections::BTreeMap, sync::Arc};

use lunar_common::abi::MAX_TARGETS;
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    DaemonError,
    agent::{Agent, targets_of},
    endpoints::{held, resolve_soon},
    probes::Probes,
    renewal::Plan,
    settings,
};
use crate::{
    config::{Config, ConfigErrors, EndpointSpec, Loaded, Origin, Source, Sources},
    control::Answer,
    gateway::endpoint::{self, Resolution},
};

/// Longer lists are shown by their length.
const SHOWN_ITEMS: usize = 8;

/// Why a configuration is not put in effect.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error("{key} cannot change while the agent runs: restart it, or put {key} back to {now}")]
    Fixed { key: &'static str, now: String },
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("a newer reload has taken its place")]
    Overtaken,
}

impl ReloadError {
    fn is_usage(&self) -> bool {
        match self {
            Self::Config(_) | Self::Fixed { .. } => true,
            Self::Daemon(e) => e.is_usage(),
            Self::Overtaken => false,
        }
    }
}

/// Whoever waits for the result; nobody, after a signal.
pub(super) type Waiting = Option<oneshot::Sender<Answer>>;

/// A configuration that may be put in effect: read, checked, and its new endpoints resolved.
pub(super) struct Prepared {
    loaded: Loaded,
    new: Vec<Resolution>,
}

/// What reloads start from, and the one that is under way.
pub(super) struct Reloads {
    sources: Sources,
    origins: Vec<Origin>,
    /// Why the newest configuration is not in effect.
    problem: Option<String>,
    running: JoinSet<Prepared>,
    waiting: Waiting,
}

impl Reloads {
    pub(super) fn new(sources: Sources, origins: Vec<Origin>) -> Self {
        Self { sources, origins, problem: None, running: JoinSet::new(), waiting: None }
    }

    /// Where the value of a key comes from.
    pub(super) fn source(&self, key: &str) -> Option<&Source> {
        self.origins.iter().find(|origin| origin.key == key).map(|origin| &origin.source)
    }

    /// What a person should know of the last reload.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// The configuration that is ready; `None` while none is under way.
    pub(super) async fn next_done(&mut self) -> Option<Prepared> {
        let done = self.running.join_next().await?;
        Some(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())))
    }
}

impl Agent {
    /// Reads the configuration anew and has it put in effect. The names of new endpoints are looked up first, which
    /// may take seconds, in the background.
    pub(super) fn begin_reload(&mut self, waiting: Waiting) {
        if !self.reloads.running.is_empty() {
            self.reloads.running = JoinSet::new();
            self.end_reload(Err(ReloadError::Overtaken));
        }
        self.reloads.waiting = waiting;
        super::notify_reloading();
        match self.read_anew() {
            Ok(loaded) => self.prepare(loaded),
            Err(e) => self.end_reload(Err(e)),
        }
    }

    fn read_anew(&self) -> Result<Loaded, ReloadError> {
        let loaded = Config::load(self.reloads.sources.clone())?;
        let (was, is) = (&self.config.paths, &loaded.config.paths);
        for (key, was, is) in [("paths.socket", &was.socket, &is.socket), ("paths.pins", &was.pins, &is.pins)]
        {
            if was != is {
                return Err(ReloadError::Fixed { key, now: format!("{:?}", was.display().to_string()) });
            }
        }
        Ok(loaded)
    }

    fn prepare(&mut self, loaded: Loaded) {
        let is_new = |spec: &&EndpointSpec| self.lookups.newest(spec).is_none();
        let new: Vec<_> = loaded.config.gateway.endpoints.iter().filter(is_new).cloned().collect();
        self.reloads.running.spawn(async move { Prepared { loaded, new: resolve_soon(&new).await } });
    }

    /// Puts a configuration that is ready in effect.
    pub(super) fn on_prepared(&mut self, prepared: Prepared) {
        let done = self.apply(prepared);
        self.end_reload(done.map_err(ReloadError::from));
    }

    fn apply(&mut self, prepared: Prepared) -> Result<Vec<String>, DaemonError> {
        let Prepared { loaded: Loaded { config, origins, .. }, new } = prepared;
        let wanted = targets_of(&config)?;
        if self.targets.slots_taken() + wanted.len() > MAX_TARGETS as usize {
            self.finish_leaving(None);
        }
        let targets = self.targets.reconfigured(wanted)?;
        let resolution = |spec: &EndpointSpec| {
            self.lookups.newest(spec).or_else(|| new.iter().find(|r| r.spec == *spec).cloned())
        };
        let resolutions: Vec<_> = config.gateway.endpoints.iter().filter_map(resolution).collect();
        let own_addresses = settings::own_addresses().map_err(DaemonError::OwnAddresses)?;
        let endpoints = endpoint::place(&resolutions, &held(&self.endpoints));
        let config = Arc::new(Config { policy: self.by_hand.added_to(config.policy), ..config });
        let before = Arc::clone(&self.config);
        // Before the new verdicts are attached: which endpoints wait for a handshake is for the new probes to say.
        let probes_before = Probes::differ(&before, &config)
            .then(|| std::mem::replace(&mut self.probes, Probes::new(&config)));
        let renewed = self.renew(Plan { config: Arc::clone(&config), own_addresses, endpoints, targets });
        if let Err(e) = renewed {
            if let Some(probes) = probes_before {
                self.probes = probes;
                self.write_unready();
            }
            return Err(e);
        }

        self.lookups.replace(resolutions);
        if (before.gateway.handoff, &before.gateway.process)
            != (config.gateway.handoff, &config.gateway.process)
        {
            self.answer_anew();
        } else {
            self.watch_gateways();
        }
        let mut changes = changes(&self.reloads.origins, &origins);
        self.reloads.origins = origins;
        if let Some(dormant) = self.by_hand.dormant(&config.policy) {
            tracing::warn!(reason = dormant, "not all that was added by hand is in effect");
            changes.push(dormant);
        }
        Ok(changes)
    }

    /// Says how it went to everyone who wants to know.
    fn end_reload(&mut self, result: Result<Vec<String>, ReloadError>) {
        let answer = match result {
            Ok(changes) => {
                tracing::info!(changes = changes.len(), "reloaded");
                self.reloads.problem = None;
                let lines = if changes.is_empty() { vec!["nothing has changed".to_owned()] } else { changes };
                Answer::Done([vec!["reloaded".to_owned()], lines].concat())
            }
            Err(e) => {
                let reason = e.to_string();
                if !matches!(e, ReloadError::Overtaken) {
                    tracing::error!(reason, "not reloaded: the configuration of before stays in force");
                    self.reloads.problem = Some(format!(
                        "the configuration was read anew and refused, the one of before is in force: {reason}"
                    ));
                }
                let reason = format!("not reloaded, the configuration of before stays in force: {reason}");
                Answer::Refused { done: Vec::new(), reason, usage: e.is_usage() }
            }
        };
        super::notify(&[sd_notify::NotifyState::Ready]);
        if let Some(waiting) = self.reloads.waiting.take() {
            self.answer_when_listening(answer, waiting);
        }
    }
}

/// What is in effect now and was not, a line each.
fn changes(before: &[Origin], after: &[Origin]) -> Vec<String> {
    let by_key = |origins: &[Origin]| -> BTreeMap<String, Value> {
        origins.iter().map(|o| (o.key.clone(), o.value.clone())).collect()
    };
    let (before, after) = (by_key(before), by_key(after));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("{key}: gone"));
    let changed = after.iter().filter_map(|(key, now)| match before.get(key) {
        Some(was) if was == now => None,
        Some(was) => Some(format!("{key}: {} → {}", shown(was), shown(now))),
        None => Some(format!("{key}: {}", shown(now))),
    });
    changed.chain(gone).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > SHOWN_ITEMS => format!("{} entries", items.len()),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn origins(pairs: &[(&str, Value)]) -> Vec<Origin> {
        let origin = |(key, value): &(&str, Value)| Origin {
            key: (*key).to_owned(),
            value: value.clone(),
            source: Source::Default,
        };
        pairs.iter().map(origin).collect()
    }

    #[test]
    fn a_reload_tells_what_it_changed() {
        let before = origins(&[
            ("gateway.handoff", json!("original-dst")),
            ("policy.allow", json!([])),
            ("target.old", json!("cgroup:/old")),
        ]);
        let many: Vec<Value> = (0..9).map(|n| json!(n)).collect();
        let after = origins(&[
            ("gateway.handoff", json!("original-dst")),
            ("policy.allow", json!(many)),
            ("target.new", json!("cgroup:/new")),
        ]);
        let told = ["policy.allow: [] → 9 entries", "target.new: \"cgroup:/new\"", "target.old: gone"];
        assert_eq!(changes(&before, &after), told);
        assert_eq!(changes(&after, &after), Vec::<String>::new());
    }
}
