//! `lunar-agent policy`.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};

use super::{
    PlaceArgs,
    ask::{another_question, ask, ask_to},
    config::Output,
    exit::Direct,
    explain::{HostArg, render},
    output::say,
    table::Table,
};
use crate::{
    config::HumanDuration,
    control::{
        Answer, Request,
        policy::{Change, Entry, Known, List, View, Wants},
    },
};

/// Show the policy, ask about a host, change it until the agent restarts
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show every entry, the addresses known for it, where they come from, and its hits
    ///
    /// HITS are connects that an entry decided since the policy came into effect. Of long lists a part is shown, and how
    /// much is left.
    Show(ShowArgs),
    /// Say what the policy makes of a host: exit code 0 for redirect, 1 for direct
    ///
    /// Only port and policy are asked; `explain` asks everything else, for one target. A name is looked up as this
    /// machine looks names up. Exit code 0 where all its addresses would be redirected, 1 where one goes direct.
    Test(TestArgs),
    /// Add to the allow list, which needs an entry already
    ///
    /// With an empty allow list every external address is wanted, and a first entry would make everything else unwanted:
    /// that is refused, and is for policy.allow in the configuration and a reload. A reload that leaves policy.allow
    /// empty keeps what was allowed by hand out of effect, and says so.
    ///
    /// What is added lasts until the agent restarts; a reload keeps it.
    Allow(ChangeArgs),
    /// Add to the block list
    ///
    /// Blocking wins over allowing. What is added lasts until the agent restarts; a reload keeps it.
    Block(ChangeArgs),
    /// Take out of both lists, all but the last of the allow list
    ///
    /// With an empty allow list every external address would be wanted: that is refused, and is for policy.allow in the
    /// configuration and a reload.
    ///
    /// A reload, or a restart of the agent, brings back what is configured.
    Remove(ChangeArgs),
}

/// What `policy show` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent policy show
  sudo lunar-agent policy show openai
  sudo lunar-agent policy show -o json | jq '.entries[] | {entry, hits}'")]
pub struct ShowArgs {
    /// Only entries that have this in them
    #[arg(value_name = "TEXT", default_value = "")]
    containing: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What `policy test` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent policy test api.stripe.com
  sudo lunar-agent policy test 203.0.113.7:8443 && echo redirected")]
pub struct TestArgs {
    /// A name or an address; without a port, 443
    #[arg(value_name = "HOST[:PORT]")]
    host: HostArg,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    place: PlaceArgs,
}

/// What a change of the running agent's policy takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent policy allow '*.openai.com' 203.0.113.0/24
  sudo lunar-agent policy block files.openai.com
  sudo lunar-agent policy remove '*.openai.com'")]
pub struct ChangeArgs {
    /// A name, *.suffix, an address or a CIDR, each with an optional :port
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

impl PolicyCommand {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or it refuses; [`Direct`] where a tested host goes direct.
    pub fn run(self) -> anyhow::Result<()> {
        let change = |args: ChangeArgs, change| {
            ask_to(args.place, &Request::ChangePolicy { change, entries: args.entries })
        };
        match self {
            Self::Show(args) => args.run(),
            Self::Test(args) => args.run(),
            Self::Allow(args) => change(args, Change::Allow),
            Self::Block(args) => change(args, Change::Block),
            Self::Remove(args) => change(args, Change::Remove),
        }
    }
}

impl ShowArgs {
    fn run(self) -> anyhow::Result<()> {
        let Answer::Policy(view) = ask(self.place, &Request::Policy { containing: self.containing })? else {
            return Err(another_question());
        };
        match self.output {
            Output::Json => say(&(serde_json::to_string_pretty(&view)? + "\n")),
            Output::Table => say(&show(&view)),
        }
    }
}

impl TestArgs {
    fn run(self) -> anyhow::Result<()> {
        let request = Request::TestPolicy { host: self.host.look_up() };
        let Answer::Explained(all) = ask(self.place, &request)? else { return Err(another_question()) };
        match self.output {
            Output::Json => say(&(serde_json::to_string_pretty(&all)? + "\n"))?,
            Output::Table => say(&render(&self.host, &all))?,
        }
        if all.iter().all(|explained| explained.redirected) { Ok(()) } else { Err(Direct.into()) }
    }
}

/// Addresses that are shown of one entry; `-o json` has more.
const SHOWN: usize = 8;

fn show(view: &View) -> String {
    let ports = view.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let wants = match view.wants {
        Wants::Everything => "every external address is wanted, but for what the block list names",
        Wants::Listed => "only what the allow list names is wanted",
    };
    let mut out = format!("policy  {wants}; ports {ports}; quic {}", view.quic);
    if view.dry_run {
        out += "; DRY RUN: nothing is redirected";
    }
    out.push('\n');
    if view.entries.is_empty() {
        return out + "\nno entries\n";
    }
    let mut table = Table::new(["LIST", "ENTRY", "HITS", "KNOWN", "SOURCE", "NOTE"]);
    for entry in &view.entries {
        table.row([
            match entry.list {
                List::Allow => "allow".to_owned(),
                List::Block => "block".to_owned(),
            },
            entry.entry.clone(),
            entry.hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string()),
            entry.known.map_or_else(|| "-".to_owned(), |known| known.to_string()),
            entry.source.clone(),
            note(entry),
        ]);
    }
    let _ = write!(out, "\n{}", table.render());
    if view.count > view.entries.len() {
        let _ =
            writeln!(out, "and {} more: name a part of those you look for", view.count - view.entries.len());
    }
    out + &addresses(&view.entries)
}

/// What became of the agent's own resolution of an entry.
fn note(entry: &Entry) -> String {
    let Some(resolution) = &entry.resolution else { return String::new() };
    match (&resolution.failure, resolution.answered_ms) {
        (Some(failure), _) => {
            let meanwhile = if resolution.in_use { "; using the addresses of before" } else { "" };
            format!("not resolved, {} in a row: {failure}{meanwhile}", resolution.failures)
        }
        (None, Some(ms)) => format!("resolved {} ago", millis(ms)),
        (None, None) => "not resolved yet".to_owned(),
    }
}

fn addresses(entries: &[Entry]) -> String {
    let mut table = Table::new(["ADDRESS", "NAME", "ENTRY", "FROM", "AGE", "EXPIRES IN"]);
    let mut more = String::new();
    let mut any = false;
    for entry in entries {
        for known in entry.addresses.iter().take(SHOWN) {
            any = true;
            table.row(row(entry, known));
        }
        let (listed, known) = (entry.addresses.len().min(SHOWN), entry.known.unwrap_or(0));
        if known > listed {
            let _ = writeln!(more, "and {} more of {}", known - listed, entry.entry);
        }
    }
    if any { format!("\n{}{more}", table.render()) } else { String::new() }
}

fn row(entry: &Entry, known: &Known) -> [String; 6] {
    [
        known.address.to_string(),
        known.name.clone().unwrap_or_else(|| "-".to_owned()),
        entry.entry.clone(),
        known.from.clone(),
        known.age_ms.map_or_else(|| "-".to_owned(), millis),
        millis(known.expires_in_ms),
    ]
}

fn millis(ms: u64) -> String {
    // Minutes matter here, not their milliseconds.
    let ms = if ms >= 10_000 { ms / 1000 * 1000 } else { ms };
    HumanDuration(Duration::from_millis(ms)).to_string()
}
