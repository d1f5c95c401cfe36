//! `lunar-agent explain`, and how verdicts are shown.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, ToSocketAddrs as _},
    str::FromStr,
};

use clap::Args;

use super::{
    PlaceArgs,
    ask::{another_question, ask},
    config::Output,
    output::say,
    table::Table,
};
use crate::{
    control::{
        Answer, Request,
        policy::{Explained, HostPort},
    },
    policy::{Host, PolicyEntry},
};

/// The port that is meant where none is named: most APIs are there.
const USUAL_PORT: u16 = 443;

/// Say what would become of a connect, step by step
///
/// The verdict is made by the code that the kernel runs, from the maps that it reads, as they are now. A name is looked up
/// as this machine looks names up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo lunar-agent explain checkout api.stripe.com
  sudo lunar-agent explain cgroup:/sys/fs/cgroup/system.slice/checkout.service 203.0.113.7:8443")]
pub struct ExplainArgs {
    /// Selector or name of a target, as `status` shows it
    #[arg(value_name = "SELECTOR")]
    target: String,
    /// A name or an address; without a port, 443
    #[arg(value_name = "HOST[:PORT]")]
    host: HostArg,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    place: PlaceArgs,
}

impl ExplainArgs {
    /// Asks the agent.
    ///
    /// # Errors
    /// If there is no agent, or no such target.
    pub fn run(self) -> anyhow::Result<()> {
        let request = Request::Explain { target: self.target, host: self.host.look_up() };
        let Answer::Explained(all) = ask(self.place, &request)? else { return Err(another_question()) };
        match self.output {
            Output::Json => say(&(serde_json::to_string_pretty(&all)? + "\n")),
            Output::Table => say(&render(&self.host, &all)),
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostArg {
    host: Host,
    port: u16,
}

impl FromStr for HostArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry: PolicyEntry = text.parse().map_err(|e| format!("{e}"))?;
        let one = match &entry.host {
            Host::Name(pattern) => pattern.name().is_some(),
            Host::Net(net) => net.prefix_len() == net.max_prefix_len(),
        };
        if !one {
            return Err("more than one host: name one, or one address".to_owned());
        }
        Ok(Self { host: entry.host, port: entry.port.unwrap_or(USUAL_PORT) })
    }
}

impl fmt::Display for HostArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PolicyEntry { host: self.host.clone(), port: Some(self.port) }.fmt(f)
    }
}

impl HostArg {
    /// The host with its addresses; none, if it cannot be looked up.
    pub fn look_up(&self) -> HostPort {
        let (name, addresses) = match &self.host {
            Host::Net(net) => (None, vec![net.addr()]),
            Host::Name(pattern) => {
                let name = pattern.name().unwrap_or_default().to_owned();
                let mut found: Vec<IpAddr> = match (name.as_str(), self.port).to_socket_addrs() {
                    Ok(addresses) => addresses.map(|address| address.ip()).collect(),
                    Err(e) => {
                        eprintln!(
                            "{name} cannot be looked up here ({e}); what the agent knows of it is used"
                        );
                        Vec::new()
                    }
                };
                found.sort_unstable();
                found.dedup();
                (Some(name), found)
            }
        };
        HostPort { name, addresses, port: self.port }
    }
}

/// Verdicts for people.
pub fn render(host: &HostArg, all: &[Explained]) -> String {
    let mut out = String::new();
    for (nth, explained) in all.iter().enumerate() {
        let address = explained.address.map_or_else(|| "no address known".to_owned(), |ip| ip.to_string());
        let becomes = if explained.redirected { "redirected" } else { "direct" };
        let gap = if nth == 0 { "" } else { "\n" };
        let _ = writeln!(out, "{gap}{host} ({address}): {becomes} ({})", explained.reason);
        let mut table = Table::new(["STEP", "ANSWER"]);
        for step in &explained.steps {
            table.row([&step.question, &step.answer]);
        }
        out += &table.render();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_host() {
        for (text, shown) in [
            ("api.stripe.com", "api.stripe.com:443"),
            ("API.Stripe.com:8443", "api.stripe.com:8443"),
            ("203.0.113.7", "203.0.113.7:443"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(text.parse::<HostArg>().expect(text).to_string(), shown);
        }
        for bad in ["*.stripe.com", "203.0.113.0/24", "http://x", "host:99999", ""] {
            assert!(bad.parse::<HostArg>().is_err(), "{bad}");
        }
    }
}
