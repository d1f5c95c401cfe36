//! One look-up of one name, the way the host itself does it: its hosts file first, then its name servers in their
//! order.
//!
//! hickory asks one server; which one is next is decided here, because its pool takes a SERVFAIL of one server for the
//! answer of all, and with servers in order never gets past one that is dead.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hickory_resolver::{
    Hosts, Resolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, NoRecords},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use lunar_common::net::Address;
use tokio::time::timeout;

use super::{
    error::{Fault, LookupError, Origin},
    marked::Marked,
    schedule::Answer,
};
use crate::gateway::outbound::Reason;

/// What resolv.conf(5) says is used where it names no server.
const OWN_SERVER: &str = "nameserver 127.0.0.1\n";

/// The host's ways of resolving a name.
pub struct Host {
    hosts: Hosts,
    servers: Vec<Server>,
    attempts: usize,
    /// The server that answered last is asked first: a dead one costs its time once and not for every name.
    first: AtomicUsize,
}

struct Server {
    address: SocketAddr,
    timeout: Duration,
    resolver: Resolver<Marked>,
}

impl Host {
    /// From the texts of `resolv.conf` and of the hosts file. Search lists do not matter, as names are absolute; what is
    /// not understood is left out, as the C library does.
    pub fn new(resolv_conf: &str, hosts: &[u8], mark: u32) -> Self {
        let matters = |line: &&str| matches!(line.split_whitespace().next(), Some("nameserver" | "options"));
        let text: String = resolv_conf.lines().filter(matters).map(|line| format!("{line}\n")).collect();
        let (config, host_options) =
            parse_resolv_conf(&text).or_else(|_| parse_resolv_conf(text + OWN_SERVER)).unwrap_or_default();
        let attempts = host_options.attempts.max(1);
        let options = options(host_options);
        let (_, _, name_servers) = config.into_parts();
        let servers =
            name_servers.into_iter().filter_map(|server| Server::new(server, &options, mark)).collect();
        let mut from_file = Hosts::default();
        if let Err(error) = from_file.read_hosts_conf(hosts) {
            tracing::warn!(%error, "the hosts file is used only up to a line that is no text");
        }
        Self { hosts: from_file, servers, attempts, first: AtomicUsize::new(0) }
    }

    /// The addresses of a name (without its last dot), IPv4 and IPv6, each with its TTL; 0 for those of the hosts file,
    /// which may change at any time.
    ///
    /// # Errors
    /// When there is none. One family that fails while the other has addresses is no failure.
    pub async fn look_up(&self, name: &str, which: Which) -> Result<Vec<Answer>, LookupError> {
        let name = Name::from_ascii(format!("{name}.")).map_err(|_| LookupError::Name)?;
        let known = self.in_hosts_file(&name);
        if !known.is_empty() {
            return which.of(known, Origin::HostsFile);
        }
        match tokio::join!(self.ask(&name, RecordType::A, which), self.ask(&name, RecordType::AAAA, which)) {
            (Ok(mut v4), v6) => {
                v4.extend(v6.unwrap_or_default());
                Ok(v4)
            }
            (Err(_), Ok(v6)) => Ok(v6),
            (Err(v4), Err(v6)) => Err(v4.or_rather(v6)),
        }
    }

    fn in_hosts_file(&self, name: &Name) -> Vec<Answer> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|found| addresses(&found))
            .map(|(address, _)| (address, Duration::ZERO))
            .collect()
    }

    /// Asks each server until one answers, all of them as often as the host would.
    async fn ask(&self, name: &Name, kind: RecordType, which: Which) -> Result<Vec<Answer>, LookupError> {
        let first = self.first.load(Ordering::Relaxed);
        let mut faults = Vec::new();
        for _ in 0..self.attempts {
            faults.clear();
            let (before, from) = self.servers.split_at(first.min(self.servers.len()));
            for (offset, server) in from.iter().chain(before).enumerate() {
                let answer = match server.ask(name, kind, which).await {
                    Err(LookupError::NoServer(fault)) => {
                        faults.extend(fault);
                        continue;
                    }
                    answer => answer,
                };
                self.first.store((first + offset) % self.servers.len(), Ordering::Relaxed);
                return answer;
            }
        }
        Err(LookupError::NoServer(faults))
    }
}

/// The host's options, but for what is done here.
fn options(mut options: ResolverOpts) -> ResolverOpts {
    // Each question goes out, so that TTLs are those of now; the schedule decides when.
    options.cache_size = 0;
    options.attempts = 0;
    options.num_concurrent_reqs = 1;
    options.use_hosts_file = ResolveHosts::Never;
    // Then an address has the least TTL of the aliases that led to it.
    options.preserve_intermediates = false;
    // The kernel's choice leaves alone the ports that services of this host are about to listen on.
    options.os_port_selection = true;
    options.timeout = options.timeout.max(Duration::from_secs(1));
    options
}

impl Server {
    fn new(config: NameServerConfig, options: &ResolverOpts, mark: u32) -> Option<Self> {
        let port = config.connections.first()?.port;
        let address = SocketAddr::new(config.ip, port);
        let only = ResolverConfig::from_name_servers(vec![config]);
        let resolver =
            Resolver::builder_with_config(only, Marked::new(mark)).with_options(options.clone()).build();
        // Only TLS, which is not used, can fail to be set up.
        let resolver = resolver.inspect_err(|error| tracing::warn!(%address, %error, "not asked")).ok()?;
        Some(Self { address, timeout: options.timeout, resolver })
    }

    async fn ask(&self, name: &Name, kind: RecordType, which: Which) -> Result<Vec<Answer>, LookupError> {
        // hickory keeps to its own limit for each step: by UDP, then the connect and the answer by TCP. This one only
        // makes sure that no look-up keeps its place for ever.
        let whole = self.timeout * 3;
        let answer = timeout(whole, self.resolver.lookup(name.clone(), kind)).await;
        let server = self.address;
        match answer.unwrap_or(Err(NetError::Timeout)) {
            Ok(found) => {
                let found = addresses(&found);
                if found.is_empty() {
                    return Err(LookupError::NoAddress { server });
                }
                which.of(found, Origin::Server(server))
            }
            Err(error) => Err(self.understand(error)),
        }
    }

    fn understand(&self, error: NetError) -> LookupError {
        let server = self.address;
        let fault = match error {
            NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => {
                return match response_code {
                    ResponseCode::NXDomain => LookupError::NoSuchName { server },
                    _ => LookupError::NoAddress { server },
                };
            }
            NetError::Dns(DnsError::ResponseCode(code)) => Fault::Code { server, code: code.to_str() },
            NetError::Timeout => Fault::Silent { server, within: self.timeout },
            NetError::Io(error) => Fault::Unusable { server, reason: Reason(&error).to_string() },
            other => Fault::Unusable { server, reason: other.to_string() },
        };
        LookupError::NoServer(vec![fault])
    }
}

fn addresses(lookup: &Lookup) -> Vec<Answer> {
    let ttl = |seconds: u32| Duration::from_secs(seconds.into());
    let address = |address: IpAddr| address.to_canonical();
    lookup.answers().iter().filter_map(|r| Some((address(r.data.ip_addr()?), ttl(r.ttl)))).collect()
}

/// Which addresses of a name count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All.
    All,
    /// Not those that mean something else on every host, which a gateway could not reach.
    LeadAnywhere,
}

impl Which {
    fn of(self, found: Vec<Answer>, by: Origin) -> Result<Vec<Answer>, LookupError> {
        match self {
            Self::All => Ok(found),
            Self::LeadAnywhere => that_lead_anywhere(found, by),
        }
    }
}

/// What is left of addresses without those that mean something else on every host; if it is nothing, what is wrong.
fn that_lead_anywhere(found: Vec<Answer>, by: Origin) -> Result<Vec<Answer>, LookupError> {
    let (nowhere, found): (Vec<Answer>, Vec<Answer>) =
        found.into_iter().partition(|(address, _)| Address::from(*address).is_nowhere_else());
    match nowhere.first() {
        Some((address, _)) if found.is_empty() => Err(LookupError::Nowhere { by, address: *address }),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(all: &[&str]) -> Vec<Answer> {
        all.iter().map(|a| (a.parse().expect("an address"), Duration::from_secs(60))).collect()
    }

    #[test]
    fn an_address_that_means_something_else_elsewhere_is_none() {
        let by = Origin::Server(([10, 0, 0, 2], 53).into());
        for nowhere in
            ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "::1", "::", "fe80::1", "ff02::1"]
        {
            let address = nowhere.parse().expect("an address");
            assert_eq!(
                that_lead_anywhere(answers(&[nowhere]), by),
                Err(LookupError::Nowhere { by, address })
            );
            let mixed = answers(&["203.0.113.1", nowhere, "10.0.0.1"]);
            assert_eq!(that_lead_anywhere(mixed, by), Ok(answers(&["203.0.113.1", "10.0.0.1"])), "{nowhere}");
        }
    }

    #[tokio::test]
    async fn a_name_that_the_hosts_file_keeps_on_this_host_has_no_address() {
        let hosts = b"127.0.0.1 local.example both.example\n::1 local.example\n203.0.113.1 both.example\n";
        let host = Host::new("", hosts, 0);
        let failure = host
            .look_up("local.example", Which::LeadAnywhere)
            .await
            .expect_err("it has no address for a gateway");
        assert_eq!(
            failure.to_string(),
            "the hosts file has only addresses of it that mean something else on every host, such as 127.0.0.1"
        );
        let all = host.look_up("local.example", Which::All).await.expect("blocked is blocked");
        assert_eq!(all.iter().map(|(ip, _)| ip.to_string()).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
        let both = host.look_up("both.example", Which::LeadAnywhere).await;
        assert_eq!(both, Ok(vec![("203.0.113.1".parse().expect("an address"), Duration::ZERO)]));
    }
}
