//! `lunar-agent status`.

use std::{fmt::Write as _, io::IsTerminal, path::Path, time::Duration};

use clap::Args;
use lunar_common::verdict::Reason;

use super::{
    PlaceArgs, ask::another_question, block_on, config::Output, output::say_to_reader, table::Table,
};
use crate::{
    config::{HumanDuration, Paths},
    control::{
        Answer, Request,
        client::{self, AskError},
        status::{Gateway, Knowledge, Relay, Status, Target, read},
    },
    kernel::{
        attach::{self, Owner},
        layout::text,
        pins::Pins,
        program::Program,
        state::State,
    },
    targets::cgroup::Cgroup,
};

/// Show gateway, failsafe, targets and counters
///
/// Works from the pinned maps when the agent is dead, and says so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent status
  sudo lunar-agent status --watch
  sudo lunar-agent status -o json | jq '.targets[].verdicts.redirected'")]
pub struct StatusArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show it anew every second
    #[arg(long)]
    watch: bool,
}

impl StatusArgs {
    /// Prints the status.
    ///
    /// # Errors
    /// If there is neither an agent nor pins.
    pub fn run(self) -> anyhow::Result<()> {
        let paths = self.place.paths()?;
        loop {
            let status = fetch(&paths)?;
            let shown = match self.output {
                Output::Json => format!("{}\n", serde_json::to_string_pretty(&status)?),
                Output::Table => render(&status),
            };
            // Home and clear below (ECMA-48): no flicker, and nothing of the scrollback is lost.
            let home = if self.watch && std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
            let read = say_to_reader(&format!("{home}{shown}"))?;
            if !self.watch || !read {
                return Ok(());
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// From the agent, else from the pins.
fn fetch(paths: &Paths) -> anyhow::Result<Status> {
    match block_on(client::ask(&paths.socket, &Request::Status {}))? {
        Ok(Answer::Status(status)) => Ok(*status),
        // Too long for the socket, or something in it cannot be read.
        Ok(Answer::Refused { reason, .. }) => {
            eprintln!("{reason}; this is what its pins say");
            from_pins(&paths.pins)
        }
        Ok(_) => Err(another_question()),
        Err(e @ AskError::NotPermitted { .. }) => Err(e.into()),
        Err(e) => {
            if !matches!(e, AskError::NoAgent { .. }) {
                eprintln!("{e}; this is what its pins say");
            }
            from_pins(&paths.pins)
        }
    }
}

/// The status that the pins alone tell.
pub(super) fn from_pins(root: &Path) -> anyhow::Result<Status> {
    let pins = Pins::new(root);
    let state = State::open(&pins)?;
    let mut knowledge = Knowledge::default();
    let links = pins.link_paths()?;
    let programs = Program::of_target(state.settings()?.flags);
    env!("CARGO_PKG_VERSION").clone_into(&mut knowledge.agent.version);
    Ok(read(&state, knowledge, |slot, entry| {
        let path = text(&entry.path, entry.path_len);
        if !Cgroup::at(Path::new(&path)).is_ok_and(|c| c.id == entry.cgroup_id) {
            Some("its cgroup is gone".to_owned())
        } else if !attach::complete(&links, &pins, Owner::Target(slot), &programs) {
            Some("some of its pinned links were removed".to_owned())
        } else {
            None
        }
    })?)
}

fn render(status: &Status) -> String {
    let mut out = String::new();
    let agent = &status.agent;
    let lease = agent
        .lease_age_ms
        .map_or_else(|| "no heartbeat yet".to_owned(), |ms| format!("heartbeat {} ago", millis(ms)));
    let line = match (agent.running, agent.pid, agent.uptime_sec) {
        (true, Some(pid), Some(up)) => {
            format!(
                "agent    running, pid {pid}, version {}, up {}, {lease}",
                agent.version,
                HumanDuration(Duration::from_secs(up as u64))
            )
        }
        _ => format!(
            "agent    NOT RUNNING ({lease}): once the lease is over everything goes direct; this is from the pins"
        ),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
    out += &gateway_table(&status.gateway);
    if let Some(relay) = &status.relay {
        out += &relay_lines(relay);
    }
    for problem in &status.policy.problems {
        let _ = writeln!(out, "warning  policy: {problem}");
    }
    out += &targets_table(&status.targets);
    for (what, count) in [
        ("events lost", status.losses.events),
        ("original destinations evicted", status.losses.records),
        ("direct for want of a PROXY header slot", status.losses.sockets_full),
        ("without kernel memory", status.losses.storage),
        ("PROXY headers not pushed", status.losses.headers),
        ("failed before a packet left", status.losses.unsent),
        ("DNS questions forgotten", status.losses.dns_questions),
    ] {
        if count > 0 {
            let _ = writeln!(out, "warning  {count} {what}");
        }
    }
    out
}

fn millis(ms: u64) -> String {
    HumanDuration(Duration::from_millis(ms)).to_string()
}

/// Handoff, bypass and endpoints.
pub(super) fn gateway_table(gateway: &Gateway) -> String {
    let mut out = format!("gateway  handoff {}, tls {}", gateway.handoff, gateway.tls);
    if gateway.dry_run {
        out += ", DRY RUN: nothing is redirected";
    }
    if gateway.forced.is_some() {
        out += ", BYPASSED by hand: everything goes direct until `lunar-agent failsafe resume`";
    }
    out += "\n";
    if gateway.handoff == "lunar" && gateway.tls == "direct" {
        out += "         port 443 is not redirected: HTTPS goes straight to its providers, counted as tls_direct\n";
    }
    out += "\n";
    let mut table =
        Table::new(["ENDPOINT", "STATE", "HEALTHY", "CONNECT FAILURES", "PROBE FAILURES", "NOTE"]);
    for e in &gateway.endpoints {
        let state = match e.cooldown_remaining_ms {
            0 => e.state.clone(),
            left => format!("{} {}", e.state, millis(left)),
        };
        let healthy = e.healthy.map_or("-", |h| if h { "yes" } else { "no" });
        let notes = e.problem.iter().chain(&e.last_error).cloned().collect::<Vec<_>>().join("; ");
        table.row([
            e.address.clone(),
            state,
            healthy.to_owned(),
            e.connect_failures.to_string(),
            e.probe_failures.to_string(),
            notes,
        ]);
    }
    out += &table.render();
    for problem in &gateway.problems {
        let _ = writeln!(out, "warning  {problem}");
    }
    out
}

/// The relay, and what it has counted: what went wrong only where something did.
fn relay_lines(relay: &Relay) -> String {
    let mut out = String::from("\n");
    let counts = &relay.counts;
    let who = match (relay.running, relay.pid) {
        (true, Some(pid)) => format!("running, pid {pid}"),
        _ => "NOT RUNNING: connects go direct".to_owned(),
    };
    let version = relay.version.as_ref().map_or(String::new(), |version| format!(", version {version}"));
    let _ = writeln!(
        out,
        "relay    {who}{version}, {} connections, {} requests under way; {} by way of the gateway, {} direct, {} spliced",
        relay.connections, relay.requests, counts.gateway, counts.direct, counts.spliced
    );
    for (what, count) in [
        ("requests sent to their provider because the gateway failed them", counts.replayed),
        ("requests sent again because the gateway asked for it", counts.retried),
        ("connections closed: the gateway failed a request that may not be sent twice", counts.closed),
        ("connections closed: their provider failed", counts.provider_failed),
        ("connections spliced without a look: too many at a time", counts.crowded),
        ("connections closed: silent for too long", counts.idle),
        ("connections closed: nobody redirected them", counts.unknown),
        ("requests lost with a relay that died", counts.lost),
        ("connections ended before a relay accepted them", counts.unaccepted),
        ("relays finish what they began", relay.draining),
    ] {
        if count > 0 {
            let _ = writeln!(out, "         {count} {what}");
        }
    }
    out
}

/// A column's name and the count of a target in it.
type Counted = (&'static str, fn(&Target) -> u64);

/// Targets with their counters: a column for each reason that has been counted.
fn targets_table(targets: &[Target]) -> String {
    if targets.is_empty() {
        return "\nno targets: `lunar-agent attach SELECTOR` adds one\n".to_owned();
    }
    let count = |t: &Target, reason: Reason| {
        t.verdicts.get(reason.name()).and_then(serde_json::Value::as_u64).unwrap_or(0)
    };
    let reasons: Vec<Reason> = Reason::ALL
        .into_iter()
        .filter(|r| *r == Reason::Redirected || targets.iter().any(|t| count(t, *r) > 0))
        .collect();
    let mut columns = vec!["TARGET".to_owned(), "ATTACHED".to_owned()];
    columns.extend(reasons.iter().map(|r| r.name().to_uppercase()));
    // What only a policy by name counts is shown where it has.
    let names: [Counted; 4] = [
        ("DNS ANSWERS", |t| t.dns.answers),
        ("DNS MISS", |t| t.dns.miss),
        ("SHARED ADDRESS", |t| t.shared_address),
        ("QUIC REFUSED", |t| t.quic_refused),
    ];
    let names: Vec<_> = names.into_iter().filter(|(_, count)| targets.iter().any(|t| count(t) > 0)).collect();
    columns.extend(["OK", "FAILED", "ABANDONED"].map(str::to_owned));
    columns.extend(names.iter().map(|(name, _)| (*name).to_owned()));
    columns.push("NOTE".to_owned());
    let mut table = Table::new(columns);
    for t in targets {
        let mut row = vec![t.name.clone(), if t.attached { "yes" } else { "NO" }.to_owned()];
        row.extend(reasons.iter().map(|r| count(t, *r).to_string()));
        row.extend([t.connects.succeeded, t.connects.failed, t.connects.abandoned].map(|n| n.to_string()));
        row.extend(names.iter().map(|(_, count)| count(t).to_string()));
        row.push(t.problem.clone().unwrap_or_default());
        table.row(row);
    }
    format!("\n{}", table.render())
}
