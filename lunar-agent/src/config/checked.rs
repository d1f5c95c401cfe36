//! The checked stage: one typed configuration, or everything that is wrong with it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::check::{self, Checker, Refusal};
use super::failsafe::{self, Failsafe};
use super::gateway::{self, Gateway};
use super::health::{self, Health};
use super::keyword::keyword;
use super::layer::{Layer, RawValue, Source};
use super::problem::ConfigErrors;
use super::relay::{self, Relay};
use super::show::Origin;
use super::target;
use crate::policy::PolicyEntry;
use crate::targets::TargetSpec;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A configuration in which every value is usable as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where traffic goes.
    pub gateway: Gateway,
    /// How the gateway is probed.
    pub health: Health,
    /// When traffic goes direct.
    pub failsafe: Failsafe,
    /// What the relay may do.
    pub relay: Relay,
    /// Which traffic is meant.
    pub policy: Policy,
    /// What is intercepted from the start; may be empty.
    pub targets: Vec<TargetSpec>,
    /// Where the agent keeps its things.
    pub paths: Paths,
    /// What the agent logs.
    pub log_level: LevelFilter,
}

/// `[policy]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// If not empty, only this is sent through the gateway.
    pub allow: Vec<PolicyEntry>,
    /// This never is; wins over `allow`.
    pub block: Vec<PolicyEntry>,
    /// The intercepted ports, in host byte order; ascending, not empty, never 0.
    pub ports: Vec<u16>,
    /// How long the addresses in a DNS answer count at least, whatever its TTL says; at most a day.
    pub min_ttl: Duration,
    /// How long they count after that, since applications go on using them; at most a day.
    pub dns_grace: Duration,
    /// What happens to UDP port 443 of wanted addresses.
    pub quic: Quic,
    /// Decide and count, but redirect nothing.
    pub dry_run: bool,
}

/// `[paths]`, checked; both absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The unix socket on which the daemon listens to the command line.
    pub socket: PathBuf,
    /// The directory in bpffs that holds all pins.
    pub pins: PathBuf,
}

keyword! {
    /// What happens to UDP port 443 of wanted addresses.
    Quic {
        /// Nothing.
        Allow = "allow",
        /// It is refused at once, so that clients fall back to TCP.
        Refuse = "refuse",
    }
}

/// Checks a stack of layers, lowest first.
pub(super) fn check(layers: &[Layer]) -> Result<(Config, Vec<Origin>), ConfigErrors> {
    let mut c = Checker { layers, problems: Vec::new(), origins: Vec::new() };
    let config = config(&mut c);
    let mut problems = c.problems;
    if layers.iter().any(|layer| layer.incomplete) {
        // A default that is refused may well have been overridden by what was lost.
        problems.retain(|problem| problem.source != Source::Default);
    }
    for layer in layers {
        problems.extend_from_slice(&layer.problems);
    }
    match config {
        Some(config) if problems.is_empty() => Ok((config, c.origins)),
        _ => {
            problems.sort_by(|a, b| a.source.cmp(&b.source));
            Err(ConfigErrors(problems))
        }
    }
}

/// Checks the paths alone. Of the other keys only a file that could not be read is a problem.
pub(super) fn check_paths(layers: &[Layer]) -> Result<Paths, ConfigErrors> {
    let mut c = Checker { layers, problems: Vec::new(), origins: Vec::new() };
    let paths = paths(&mut c);
    let mut problems = c.problems;
    for layer in layers.iter().filter(|layer| layer.incomplete) {
        problems.extend_from_slice(&layer.problems);
    }
    match paths {
        Some(paths) if problems.is_empty() => Ok(paths),
        _ => Err(ConfigErrors(problems)),
    }
}

fn paths(c: &mut Checker<'_>) -> Option<Paths> {
    let socket = c.value("paths.socket", check::absolute_path);
    let pins = c.value("paths.pins", check::absolute_path);
    Some(Paths { socket: socket?, pins: pins? })
}

/// Every section is checked before the first `?`, so that nothing that is wrong goes unsaid.
fn config(c: &mut Checker<'_>) -> Option<Config> {
    let gateway = gateway::check(c);
    let health = health::check(c);
    let failsafe = failsafe::check(c);
    let relay = relay::check(c);
    let policy = policy(c);
    let targets = target::check(c);
    let paths = paths(c);
    let log_level = c.value("log_level", log_level);
    Some(Config {
        gateway: gateway?,
        health: health?,
        failsafe: failsafe?,
        relay: relay?,
        policy: policy?,
        targets: targets?,
        paths: paths?,
        log_level: log_level?,
    })
}

fn policy(c: &mut Checker<'_>) -> Option<Policy> {
    let allow = entries(c, "policy.allow");
    let block = entries(c, "policy.block");
    let ports = ports(c);
    let min_ttl = c.value("policy.min_ttl", check::duration(Duration::ZERO..=DAY));
    let dns_grace = c.value("policy.dns_grace", check::duration(Duration::ZERO..=DAY));
    let quic = c.value("policy.quic", check::parsed);
    let dry_run = c.value("policy.dry_run", check::boolean);
    Some(Policy {
        allow: allow?,
        block: block?,
        ports: ports?,
        min_ttl: min_ttl?,
        dns_grace: dns_grace?,
        quic: quic?,
        dry_run: dry_run?,
    })
}

fn entries(c: &mut Checker<'_>, key: &'static str) -> Option<Vec<PolicyEntry>> {
    let entries = c.list(key, |item| check::parsed(&item.value).map_err(|refusal| vec![refusal]))?;
    let entries: Vec<_> = entries.into_iter().map(|(entry, _)| entry).collect();
    c.record(key.to_owned(), &entries, &c.source(key));
    Some(entries)
}

fn ports(c: &mut Checker<'_>) -> Option<Vec<u16>> {
    const KEY: &str = "policy.ports";
    let ports = c.list(KEY, |item| check::port(&item.value).map_err(|refusal| vec![refusal]))?;
    let source = c.source(KEY);
    if ports.is_empty() {
        let reason = "the list is empty, so nothing would be intercepted; name a port";
        c.refuse(KEY, &source, Refusal::invalid(reason), true);
        return None;
    }
    let ports: BTreeSet<u16> = ports.into_iter().map(|(port, _)| port).collect();
    let ports: Vec<u16> = ports.into_iter().collect();
    c.record(KEY.to_owned(), &ports, &source);
    Some(ports)
}

fn log_level(value: &RawValue) -> Result<LevelFilter, Refusal> {
    let text = check::text(value)?;
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => {
            Err(Refusal::invalid(format!("{text:?} is not known; use off, error, warn, info, debug, trace")))
        }
    }
}
