//! `lunar-agent gateway`: the embedded gateway.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::gateway::embedded::{
    self, Event, GatewayError, Options,
    lunar::{LunarOptions, names::Given},
};

const EXAMPLES: &str = "\
Examples:
  # Take what the agent redirects on this host (handoff original-dst)
  lunar-agent gateway --listen 127.0.0.1:8000

  # The same for IPv4 and IPv6, with a health endpoint for probes of kind http
  lunar-agent gateway --listen '[::]:8000' --health 127.0.0.1:8040

  # Learn the destination from the PROXY protocol (handoff proxy-protocol)
  lunar-agent gateway --listen 127.0.0.1:8000 --accept-proxy

  # Speak like the Lunar Gateway, with its ports for health check and handshake
  lunar-agent gateway --lunar --listen 127.0.0.1:8000 --health 127.0.0.1:8040 127.0.0.1:8081

  # The same without DNS
  lunar-agent gateway --lunar --listen 127.0.0.1:8000 --resolve books.example=203.0.113.10
  curl -H 'x-lunar-host: books.example' -H 'x-lunar-scheme: http' http://127.0.0.1:8000/books?id=7

With --accept-proxy or --lunar whoever can connect chooses the destination: listen only where senders are trusted.";

/// Run the embedded gateway: it forwards each connection to its original destination
///
/// Real but small, for trying things and for tests. It prints one line per connection, or with --lunar per request.
/// SIGTERM or SIGINT stops accepting and gives open connections five seconds; a second signal stops at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GatewayArgs {
    /// Addresses to listen on, each IP:PORT; port 0 takes any free one, [::] takes IPv4 too
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,

    /// Take the original destination from a PROXY protocol header (v1 or v2), and only from there
    #[arg(long)]
    accept_proxy: bool,

    /// Speak the Lunar Gateway's contract: HTTP/1.1 or HTTP/2 with prior knowledge, where x-lunar-host of each request
    /// names its provider
    ///
    /// There is no TLS to providers: x-lunar-scheme: https is answered with 503 and x-lunar-error 2. Answers of 1xx are
    /// not passed on, but for 101.
    #[arg(long, conflicts_with = "accept_proxy")]
    lunar: bool,

    /// With --lunar: connect here for HOST, whatever DNS says; HOST= alone does not resolve; repeat for several
    #[arg(long, value_name = "HOST=ADDR[,ADDR…]", requires = "lunar")]
    resolve: Vec<Given>,

    /// With --lunar: answer 403 to requests for HOST; repeat for several
    #[arg(long, value_name = "HOST", requires = "lunar")]
    deny: Vec<String>,

    /// With --lunar: answer 504 when a provider that has the request says nothing for so long [default: 60s]
    #[arg(long, value_name = "TIME", requires = "lunar", value_parser = humantime::parse_duration)]
    answer_timeout: Option<Duration>,

    /// How long connecting to a provider may take [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    connect_timeout: Option<Duration>,

    /// Answer GET /healthcheck and GET /handshake on these IP:PORT; the Lunar Gateway does on ports 8040 and 8081
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    health: Vec<SocketAddr>,

    /// Say in a handshake that this gateway is managed
    #[arg(long, requires = "health")]
    managed: bool,

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
        let defaults = Self::new(args.listen);
        let lunar = LunarOptions::default();
        let lunar = LunarOptions {
            given: args.resolve,
            denied: args.deny,
            answer_timeout: args.answer_timeout.unwrap_or(lunar.answer_timeout),
        };
        Self {
            accept_proxy: args.accept_proxy,
            lunar: args.lunar.then_some(lunar),
            health: args.health,
            managed: args.managed,
            mark: args.mark,
            connect_timeout: args.connect_timeout.unwrap_or(defaults.connect_timeout),
            ..defaults
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
        assert_eq!(all.health, ["127.0.0.1:8040".parse().expect("an address")]);
        assert!(all.lunar.is_none());
        assert_eq!(all.mark, 0x4c55);
        let least = options("--listen 127.0.0.1:0").expect("valid");
        assert_eq!((least.accept_proxy, least.health, least.mark), (false, vec![], 0));
        assert_eq!((least.managed, least.connect_timeout), (false, Duration::from_secs(5)));
        assert_eq!(options("--listen 127.0.0.1:0 --mark 7").expect("valid").mark, 7);
    }

    #[test]
    fn flags_of_the_lunar_gateway_become_options() {
        let all = options(
            "--lunar --listen 127.0.0.1:0 --health 127.0.0.1:8040 127.0.0.1:8081 --managed --deny a.example \
             --resolve b.example=203.0.113.10,2001:db8::1 --resolve c.example= --answer-timeout 250ms --connect-timeout 1s",
        )
        .expect("valid");
        let lunar = all.lunar.expect("it was asked for");
        let given: Vec<_> = lunar.given.iter().map(|g| (g.name.as_str(), g.addresses.len())).collect();
        assert_eq!(given, [("b.example", 2), ("c.example", 0)]);
        assert_eq!(lunar.denied, ["a.example"]);
        assert_eq!(lunar.answer_timeout, Duration::from_millis(250));
        assert_eq!(all.connect_timeout, Duration::from_secs(1));
        assert_eq!(all.health.iter().map(SocketAddr::port).collect::<Vec<_>>(), [8040, 8081]);
        assert!(all.managed);
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
            "--listen 127.0.0.1:0 --lunar --accept-proxy",
            "--listen 127.0.0.1:0 --deny a.example",
            "--listen 127.0.0.1:0 --resolve a.example=203.0.113.10",
            "--listen 127.0.0.1:0 --answer-timeout 1s",
            "--listen 127.0.0.1:0 --lunar --resolve a.example",
            "--listen 127.0.0.1:0 --lunar --answer-timeout 1",
            "--listen 127.0.0.1:0 --managed",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
    }
}
