//! One address of the gateway.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The most endpoints a gateway can have. The kernel's table of endpoints has a fixed size, and a loop over it is verified in full.
pub const MAX_ENDPOINTS: usize = lunar_common::abi::MAX_ENDPOINTS as usize;

/// A host, by name or by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to resolve, in lower case, without a final dot.
    Name(String),
    /// An address; IPv4 is never v4-mapped IPv6.
    Ip(IpAddr),
}

/// An endpoint as it was configured; a name is not resolved yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointSpec {
    /// Where the gateway listens.
    pub host: Host,
    /// The port connections are redirected to, in host byte order, never 0.
    pub port: u16,
    /// The port of its health check, never 0, if it is not that of `gateway.health`.
    pub health_port: Option<u16>,
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint:?} {reason}")]
pub struct EndpointError {
    /// The endpoint as it was given, without the white space around it.
    pub endpoint: String,
    /// What is wrong with it.
    pub reason: EndpointProblem,
}

/// What is wrong with an endpoint; reads on from the endpoint itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointProblem {
    /// Nothing but white space.
    #[error("is empty; write HOST:PORT")]
    Empty,
    /// A URL.
    #[error("is a URL; write only HOST:PORT, such as gateway:8000")]
    Url,
    /// There is no port.
    #[error("has no port; write HOST:PORT, such as gateway:8000 or [2001:db8::1]:8000")]
    NoPort,
    /// The part after the last colon is no port.
    #[error("has the port {0:?}, which is not 1 to 65535")]
    Port(String),
    /// The host is neither an address nor a name.
    #[error("has the host {0:?}, which is neither an address nor a host name")]
    Host(String),
    /// An address at which nothing can listen.
    #[error("has the address {0}, which cannot be that of a gateway")]
    NotUnicast(IpAddr),
}

impl FromStr for EndpointSpec {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let endpoint = text.trim();
        parse(endpoint).map_err(|reason| EndpointError { endpoint: endpoint.to_owned(), reason })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// `host:port`, without the health port.
impl fmt::Display for EndpointSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn parse(text: &str) -> Result<EndpointSpec, EndpointProblem> {
    if text.is_empty() {
        return Err(EndpointProblem::Empty);
    }
    if text.contains("://") {
        return Err(EndpointProblem::Url);
    }
    let (host, port) = text.rsplit_once(':').ok_or(EndpointProblem::NoPort)?;
    // Without brackets the last group of an IPv6 address would be taken for a port.
    if text.parse::<Ipv6Addr>().is_ok() || text.ends_with(']') {
        return Err(EndpointProblem::NoPort);
    }
    let port = match port.parse() {
        Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
        _ => return Err(EndpointProblem::Port(port.to_owned())),
    };
    Ok(EndpointSpec {
        host: parse_host(host).ok_or_else(|| EndpointProblem::Host(host.to_owned()))??,
        port,
        health_port: None,
    })
}

fn parse_host(text: &str) -> Option<Result<Host, EndpointProblem>> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let addr: Option<IpAddr> = match bracketed {
        Some(inside) => Some(inside.parse::<Ipv6Addr>().ok()?.to_canonical()),
        None => text.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
    };
    Some(match addr {
        Some(addr) if is_unicast(addr) => Ok(Host::Ip(addr)),
        Some(addr) => Err(EndpointProblem::NotUnicast(addr)),
        None => Ok(Host::Name(host_name(text)?)),
    })
}

fn is_unicast(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    !(addr.is_unspecified() || addr.is_multicast() || broadcast)
}

/// RFC 1123 names, and underscores, which container names have.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits is a mistyped IPv4 address (RFC 3696, section 2).
    let last = name.rsplit('.').next()?;
    let numeric = last.bytes().all(|b| b.is_ascii_digit());
    (name.len() <= 253 && !numeric && name.split('.').all(label_is_good)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::EndpointProblem::{Empty, NoPort, NotUnicast, Url};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_the_canonical_text() {
        for (given, canonical) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            (" gateway:8000 ", "gateway:8000"),
            ("Gateway.Example.:1", "gateway.example:1"),
            ("lunar_proxy:65535", "lunar_proxy:65535"),
            ("[2001:DB8::1]:8000", "[2001:db8::1]:8000"),
            ("[::ffff:127.0.0.1]:8000", "127.0.0.1:8000"),
        ] {
            let endpoint: EndpointSpec = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(endpoint.to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_endpoint() {
        let port = |text: &str| EndpointProblem::Port(text.to_owned());
        let host = |text: &str| EndpointProblem::Host(text.to_owned());
        for (given, reason) in [
            ("", Empty),
            ("http://gateway:8000", Url),
            ("gateway", NoPort),
            ("2001:db8::1", NoPort),
            ("[2001:db8::1]", NoPort),
            ("gateway:", port("")),
            ("gateway:0", port("0")),
            ("gateway:70000", port("70000")),
            ("gateway:+80", port("+80")),
            ("gateway:abc", port("abc")),
            (":8000", host("")),
            ("a b:8000", host("a b")),
            ("1.2.3:8000", host("1.2.3")),
            ("1.2.3.256:8000", host("1.2.3.256")),
            ("-a:8000", host("-a")),
            ("a..b:8000", host("a..b")),
            ("[127.0.0.1]:8000", host("[127.0.0.1]")),
            ("[fe80::1%eth0]:8000", host("[fe80::1%eth0]")),
            ("2001:db8::1:80000", port("80000")),
            ("gateway:8000:9000", host("gateway:8000")),
            ("0.0.0.0:8000", NotUnicast([0, 0, 0, 0].into())),
            ("224.0.0.1:8000", NotUnicast([224, 0, 0, 1].into())),
            ("255.255.255.255:80", NotUnicast([255; 4].into())),
            ("[::]:8000", NotUnicast(Ipv6Addr::UNSPECIFIED.into())),
        ] {
            let error = given.parse::<EndpointSpec>().expect_err(given);
            assert_eq!(error.reason, reason, "{given}");
        }
        let long = format!("{}:1", "a".repeat(64));
        assert!(long.parse::<EndpointSpec>().is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), near in r"[\[\]0-9a-f:.A_-]{0,24}(:[0-9]{1,5})?") {
            for text in [text, near] {
                if let Ok(endpoint) = text.parse::<EndpointSpec>() {
                    prop_assert_eq!(endpoint.to_string().parse::<EndpointSpec>(), Ok(endpoint));
                }
            }
        }
    }
}
