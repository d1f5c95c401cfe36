//! One entry of an allow or block list.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address or a network, for every intercepted port or for one port.
///
/// The network is always in canonical form: host bits are zero and IPv4 is never written as v4-mapped IPv6, which is how the
/// kernel programs look addresses up. Two entries that mean the same are therefore equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyEntry {
    /// The addresses; a single address is a network of full length.
    pub net: IpNet,
    /// The only port that the entry speaks of, in host byte order, never 0; `None` is every intercepted port.
    pub port: Option<u16>,
}

/// Why a text is no [`PolicyEntry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?} {reason}")]
pub struct PolicyEntryError {
    /// The entry as it was given, without the white space around it.
    pub entry: String,
    /// What is wrong with it.
    pub reason: PolicyEntryProblem,
}

/// What is wrong with a policy entry; reads on from the entry itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyEntryProblem {
    /// Nothing but white space.
    #[error("is empty; write an address or a CIDR, or remove it")]
    Empty,
    /// White space or a control character inside.
    #[error("has white space inside; separate entries with commas")]
    InnerSpace,
    /// A URL.
    #[error("is a URL; write only the address or CIDR, with an optional :port")]
    Url,
    /// A host name or `*.suffix`, which a later version understands.
    #[error("is a name; names in policy are not built yet; use addresses or CIDRs")]
    Name,
    /// A wildcard that is not `*.suffix`.
    #[error("is not a usable wildcard; use addresses or CIDRs")]
    Wildcard,
    /// `[` without its `]`, something other than `:port` after it, or no IPv6 address within.
    #[error("has misplaced brackets; write [IPv6]:port or [IPv6/length]:port")]
    Brackets,
    /// Neither an address nor anything that could be a name.
    #[error("is not an IPv4 or IPv6 address or CIDR, with an optional :port")]
    Address,
    /// The prefix length does not fit the address family.
    #[error("has the prefix length {length:?}, which is not 0 to {max}")]
    Prefix {
        /// The length as it was given.
        length: String,
        /// The greatest length of the family.
        max: u8,
    },
    /// The part after the last colon is no port.
    #[error("has the port {0:?}, which is not 1 to 65535")]
    Port(String),
}

impl FromStr for PolicyEntry {
    type Err = PolicyEntryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entry = text.trim();
        parse(entry).map_err(|reason| PolicyEntryError { entry: entry.to_owned(), reason })
    }
}

impl fmt::Display for PolicyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.net.prefix_len() == self.net.max_prefix_len();
        match (self.net, self.port, single) {
            (net, None, true) => write!(f, "{}", net.addr()),
            (net, None, false) => write!(f, "{net}"),
            (IpNet::V4(net), Some(port), true) => write!(f, "{}:{port}", net.addr()),
            (IpNet::V4(net), Some(port), false) => write!(f, "{net}:{port}"),
            (IpNet::V6(net), Some(port), true) => write!(f, "[{}]:{port}", net.addr()),
            (IpNet::V6(net), Some(port), false) => write!(f, "[{net}]:{port}"),
        }
    }
}

fn parse(entry: &str) -> Result<PolicyEntry, PolicyEntryProblem> {
    if entry.is_empty() {
        return Err(PolicyEntryProblem::Empty);
    }
    if entry.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(PolicyEntryProblem::InnerSpace);
    }
    if entry.contains("://") {
        return Err(PolicyEntryProblem::Url);
    }
    if let Some(bracketed) = entry.strip_prefix('[') {
        let (inside, rest) = bracketed.split_once(']').ok_or(PolicyEntryProblem::Brackets)?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or(PolicyEntryProblem::Brackets).and_then(parse_port)?),
        };
        let (addr, length) = split_length(inside);
        let addr: Ipv6Addr = addr.parse().map_err(|_| PolicyEntryProblem::Brackets)?;
        let net = network(addr.into(), length)?;
        return Ok(PolicyEntry { net, port });
    }
    // Two colons can only be IPv6, which needs brackets to carry a port.
    let (host, port) = match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(parse_port(port)?)),
        _ => (entry, None),
    };
    let (addr, length) = split_length(host);
    match addr.parse::<IpAddr>() {
        Ok(addr) => Ok(PolicyEntry { net: network(addr, length)?, port }),
        Err(_) => Err(not_an_address(host)),
    }
}

fn split_length(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((addr, length)) => (addr, Some(length)),
        None => (text, None),
    }
}

fn parse_port(text: &str) -> Result<u16, PolicyEntryProblem> {
    // `u16::from_str` takes a leading plus sign, which nobody means.
    match text.parse() {
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(PolicyEntryProblem::Port(text.to_owned())),
    }
}

fn network(addr: IpAddr, length: Option<&str>) -> Result<IpNet, PolicyEntryProblem> {
    let max: u8 = if addr.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => max,
        Some(text) => match text.parse() {
            Ok(length) if length <= max && text.bytes().all(|b| b.is_ascii_digit()) => length,
            _ => {
                return Err(PolicyEntryProblem::Prefix { length: text.to_owned(), max });
            }
        },
    };
    Ok(canonical(addr, length))
}

/// Masks the host bits and turns `::ffff:a.b.c.d/n` into IPv4, which is what the connect hooks make of such sockets.
///
/// A network shorter than /96 holds more than the mapped range, so it stays IPv6.
fn canonical(addr: IpAddr, length: u8) -> IpNet {
    let mapped = match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().zip(length.checked_sub(96)),
    };
    match (mapped, addr) {
        (Some((v4, length)), _) => Ipv4Net::new_assert(v4, length).trunc().into(),
        (None, IpAddr::V4(v4)) => Ipv4Net::new_assert(v4, length).trunc().into(),
        (None, IpAddr::V6(v6)) => Ipv6Net::new_assert(v6, length).trunc().into(),
    }
}

fn not_an_address(host: &str) -> PolicyEntryProblem {
    let name = match host.strip_prefix('*') {
        Some(rest) => match rest.strip_prefix('.') {
            Some(suffix) if is_like_a_name(suffix) => suffix,
            _ => return PolicyEntryProblem::Wildcard,
        },
        None => host,
    };
    // Digits and dots alone are a mistyped IPv4 address, not a name.
    if is_like_a_name(name) && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        PolicyEntryProblem::Name
    } else {
        PolicyEntryProblem::Address
    }
}

fn is_like_a_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    labels
        .split('.')
        .all(|label| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::PolicyEntryProblem::{Address, Brackets, Empty, InnerSpace, Name, Url, Wildcard};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_the_canonical_text() {
        for (given, canonical) in [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7\t", "203.0.113.7"),
            ("203.0.113.7:443", "203.0.113.7:443"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.0/8:8443", "10.0.0.0/8:8443"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("2001:db8:1:2::9/32", "2001:db8::/32"),
            ("[2001:db8::9/32]:65535", "[2001:db8::/32]:65535"),
            ("::/0", "::/0"),
            ("::ffff:198.51.100.4", "198.51.100.4"),
            ("[::ffff:198.51.100.4]:80", "198.51.100.4:80"),
            ("::ffff:198.51.100.4/120", "198.51.100.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:198.51.100.4/80", "::/80"),
        ] {
            let entry: PolicyEntry = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(entry.to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_entry() {
        let prefix = |length: &str, max| PolicyEntryProblem::Prefix { length: length.to_owned(), max };
        let port = |text: &str| PolicyEntryProblem::Port(text.to_owned());
        for (given, reason) in [
            ("", Empty),
            (" \t ", Empty),
            ("1.2.3.4 5.6.7.8", InnerSpace),
            ("1.2.3.4 :80", InnerSpace),
            ("http://x", Url),
            ("https://203.0.113.7", Url),
            ("api.stripe.com", Name),
            ("api.stripe.com:443", Name),
            ("*.stripe.com", Name),
            ("localhost", Name),
            ("bücher.example", Name),
            ("*.", Wildcard),
            ("*", Wildcard),
            ("*x.com", Wildcard),
            ("*.*.com", Wildcard),
            ("1.2.3.4/33", prefix("33", 32)),
            ("1.2.3.4/", prefix("", 32)),
            ("1.2.3.4/+8", prefix("+8", 32)),
            ("::1/129", prefix("129", 128)),
            ("1.2.3.4:99999", port("99999")),
            ("1.2.3.4:0", port("0")),
            ("1.2.3.4:", port("")),
            ("1.2.3.4:+80", port("+80")),
            ("1.2.3.4:80/24", port("80/24")),
            ("[::1]:0", port("0")),
            ("[::1", Brackets),
            ("[::1]80", Brackets),
            ("[1.2.3.4]:80", Brackets),
            ("1.2.3", Address),
            ("256.1.1.1", Address),
            ("a..b", Address),
            ("a.example/24", Address),
            ("fe80::1%eth0", Address),
            ("2001:db8::1:99999", Address),
        ] {
            let error = given.parse::<PolicyEntry>().expect_err(given);
            assert_eq!(error.reason, reason, "{given}");
            assert_eq!(error.entry, given.trim());
            assert!(error.to_string().starts_with(&format!("{:?} ", given.trim())), "{error}");
        }
    }

    #[test]
    fn says_that_names_come_later() {
        let error = "api.stripe.com".parse::<PolicyEntry>().expect_err("a name");
        assert_eq!(
            error.to_string(),
            r#""api.stripe.com" is a name; names in policy are not built yet; use addresses or CIDRs"#
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = text.parse::<PolicyEntry>();
        }

        #[test]
        fn never_panics_on_near_misses(text in r"[\[\]0-9a-f:./*]{0,24}") {
            if let Ok(entry) = text.parse::<PolicyEntry>() {
                prop_assert_eq!(entry.to_string().parse::<PolicyEntry>(), Ok(entry));
            }
        }

        #[test]
        fn display_and_parse_agree(addr in any::<IpAddr>(), length in 0u8..=128, port in proptest::option::of(1u16..)) {
            let length = if addr.is_ipv4() { length % 33 } else { length };
            let entry = PolicyEntry { net: canonical(addr, length), port };
            prop_assert_eq!(entry.to_string().parse::<PolicyEntry>(), Ok(entry));
        }
    }
}
