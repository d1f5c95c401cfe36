//! `lunar-agent gateway`: the embedded gateway.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::gateway::embedded::{self, Event, GatewayError, Options};

const EXAMPLES: &str = "\
Examples:
  # Take what the agent redirects on this host (handoff original-dst)
  lunar-agent gateway --listen 127.0.0.1:8000

  # The same for IPv4 and IPv6, with a health endpoint for probes of kind http
  lunar-agent gateway --listen '[::]:8000' --health 127.0.0.1:8040

  # Learn the destination from the PROXY protocol (handoff proxy-protocol)
  lunar-agent gateway --listen 127.0.0.1:8000 --accept-proxy

With --accept-proxy whoever can connect chooses the destination: listen only where senders are trusted.";

/// Run the embedded gateway: it forwards each connection to its original destination
///
/// Real but small, for trying things and for tests. It prints one line per connection. SIGTERM or SIGINT stops
/// accepting and gives open connections five seconds; a second signal stops at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GatewayArgs {
    /// Addresses to listen on, each IP:PORT; port 0 takes any free one, [::] takes IPv4 too
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,

    /// Take the original destination from a PROXY protocol header (v1 or v2), and only from there
    #[arg(long)]
    accept_proxy: bool,

    /// Answer GET /healthcheck and GET /handshake on this IP:PORT
    #[arg(long, value_name = "ADDR")]
    health: Option<SocketAddr>,

    /// Socket mark (SO_MARK) of outbound connections, decimal or 0x…; needs CAP_NET_ADMIN
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true, value_parser = mark)]
    mark: u32,
}

fn mark(text: &str) -> Result<u32, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

impl GatewayArgs {
    /// Runs the gateway until it is told to stop; its lines go to standard output. Needs a tokio runtime with I/O
    /// and time.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub async fn run(self) -> Result<(), GatewayError> {
        let probed = Arc::new(AtomicBool::new(false));
        embedded::run(self.into(), move |event| {
            let probe = matches!(&event, Event::Failed { reason, .. } if reason.is_like_a_probe());
            let more = match (probe, probe && probed.swap(true, Ordering::Relaxed)) {
                (true, true) => return,
                (true, false) => "; further ones are not shown",
                (false, _) => "",
            };
            // A reader that went away is no reason to stop forwarding.
            writeln!(std::io::stdout().lock(), "{event}{more}").ok();
        })
        .await
    }
}

impl From<GatewayArgs> for Options {
    fn from(args: GatewayArgs) -> Self {
        Self {
            accept_proxy: args.accept_proxy,
            health: args.health,
            mark: args.mark,
            ..Self::new(args.listen)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn options(line: &str) -> Result<Options, clap::Error> {
        let command = GatewayArgs::augment_args(clap::Command::new("gateway"));
        let words = std::iter::once("gateway").chain(line.split_whitespace());
        let matches = command.try_get_matches_from(words)?;
        Ok(GatewayArgs::from_arg_matches(&matches)?.into())
    }

    #[test]
    fn flags_become_options() {
        let all = options(
            "--listen 127.0.0.1:8000 [::]:0 --listen 127.0.0.2:1 --accept-proxy --health 127.0.0.1:8040 --mark 0x4c55",
        )
        .expect("valid");
        let listen: Vec<_> = all.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:8000", "[::]:0", "127.0.0.2:1"]);
        assert!(all.accept_proxy);
        assert_eq!(all.health.map(|h| h.port()), Some(8040));
        assert_eq!(all.mark, 0x4c55);
        let least = options("--listen 127.0.0.1:0").expect("valid");
        assert_eq!((least.accept_proxy, least.health, least.mark), (false, None, 0));
        assert_eq!(options("--listen 127.0.0.1:0 --mark 7").expect("valid").mark, 7);
    }

    #[test]
    fn bad_flags_are_refused() {
        for line in [
            "",
            "--listen",
            "--listen localhost",
            "--listen 127.0.0.1:70000",
            "--listen 127.0.0.1:0 --mark -1",
            "--listen 127.0.0.1:0 --mark abc",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
    }
}
