//! One entry of an allow or block list.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::pattern::{Pattern, PatternProblem};

/// A name, an address or a network, for every intercepted port or for one port.
///
/// Always in canonical form, so two entries that mean the same are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyEntry {
    /// Whom the entry speaks of.
    pub host: Host,
    /// The only port that the entry speaks of, in host byte order, never 0; `None` is every intercepted port.
    pub port: Option<u16>,
}

/// Whom an entry speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// Addresses; a single one is a network of full length. Host bits are zero and IPv4 is never written as v4-mapped IPv6,
    /// which is how the kernel programs look addresses up.
    Net(IpNet),
    /// A name, or all names below a suffix.
    Name(Pattern),
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
    #[error("is empty; write a name, an address or a CIDR, or remove it")]
    Empty,
    /// White space or a control character inside.
    #[error("has white space inside; separate entries with commas")]
    InnerSpace,
    /// A URL.
    #[error("is a URL; write only the name, address or CIDR, with an optional :port")]
    Url,
    /// No usable name or `*.suffix`.
    #[error(transparent)]
    Name(PatternProblem),
    /// A name with a slash after it.
    #[error("has a slash after a name; write only the name, with an optional :port")]
    Path,
    /// `[` without its `]`, something other than `:port` after it, or no IPv6 address within.
    #[error("has misplaced brackets; write [IPv6]:port or [IPv6/length]:port")]
    Brackets,
    /// Meant to be an address, and none.
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
        match (&self.host, self.port) {
            (host, None) => write!(f, "{host}"),
            // Without brackets the port would be a group of the address.
            (host @ Host::Net(IpNet::V6(_)), Some(port)) => write!(f, "[{host}]:{port}"),
            (host, Some(port)) => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => write!(f, "{pattern}"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

impl From<IpNet> for Host {
    fn from(net: IpNet) -> Self {
        Self::Net(net)
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
        return Ok(PolicyEntry { host: Host::Net(net), port });
    }
    // Two colons can only be IPv6, which needs brackets to carry a port.
    let (host, port) = match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(parse_port(port)?)),
        _ => (entry, None),
    };
    let (addr, length) = split_length(host);
    let host = match addr.parse::<IpAddr>() {
        Ok(addr) => Host::Net(network(addr, length)?),
        Err(_) => Host::Name(name(host)?),
    };
    Ok(PolicyEntry { host, port })
}

fn name(text: &str) -> Result<Pattern, PolicyEntryProblem> {
    // What consists of digits and dots, or has colons left, was to be an address.
    let (host, length) = split_length(text);
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') || host.contains(':') {
        return Err(PolicyEntryProblem::Address);
    }
    if length.is_some() {
        return Err(PolicyEntryProblem::Path);
    }
    text.parse().map_err(PolicyEntryProblem::Name)
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

#[cfg(test)]
mod tests {
    use super::PatternProblem::{Character, EmptyLabel, Idna, LongLabel, Numeric, Wildcard};
    use super::PolicyEntryProblem::{Address, Brackets, Empty, InnerSpace, Name, Path, Url};
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
            (" API.Stripe.com ", "api.stripe.com"),
            ("api.stripe.com.:8443", "api.stripe.com:8443"),
            ("*.OpenAI.com", "*.openai.com"),
            ("*.bücher.example:1", "*.xn--bcher-kva.example:1"),
            ("internal.corp:8443", "internal.corp:8443"),
            ("localhost", "localhost"),
        ] {
            let entry: PolicyEntry = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(entry.to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_entry() {
        let prefix = |length: &str, max| PolicyEntryProblem::Prefix { length: length.to_owned(), max };
        let port = |text: &str| PolicyEntryProblem::Port(text.to_owned());
        let long = "a".repeat(64);
        for (given, reason) in [
            ("", Empty),
            (" \t ", Empty),
            ("1.2.3.4 5.6.7.8", InnerSpace),
            ("1.2.3.4 :80", InnerSpace),
            ("http://x", Url),
            ("https://203.0.113.7", Url),
            ("http://x y", InnerSpace),
            ("*.", Name(Wildcard)),
            ("*", Name(Wildcard)),
            ("*:80", Name(Wildcard)),
            ("*x.com", Name(Wildcard)),
            ("*.*.com", Name(Wildcard)),
            ("a..b", Name(EmptyLabel)),
            (":80", Address),
            (".", Address),
            ("a@b.com", Name(Character('@'))),
            ("xn--a.com:80", Name(Idna)),
            ("example.7", Name(Numeric)),
            (&long, Name(LongLabel(64))),
            ("a.example/24", Path),
            ("a.example/path", Path),
            ("a.example:99999", port("99999")),
            ("a.example:80/path", port("80/path")),
            ("a.example:", port("")),
            ("*.a.example:0", port("0")),
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
            ("1.2.3/24", Address),
            ("1.2.3.4.5", Address),
            ("a:b:c", Address),
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
    fn says_what_to_write_instead() {
        for (given, message) in [
            ("*x.com", "\"*x.com\" is not a usable wildcard; write *.SUFFIX, such as *.example.com"),
            ("a..b", "\"a..b\" has an empty label; put one dot between the labels of a name"),
            (
                "x.example/path",
                "\"x.example/path\" has a slash after a name; write only the name, with an optional :port",
            ),
        ] {
            assert_eq!(given.parse::<PolicyEntry>().expect_err(given).to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = text.parse::<PolicyEntry>();
        }

        #[test]
        fn never_panics_on_near_misses(text in r"[\[\]0-9a-g:./*ü]{0,24}") {
            if let Ok(entry) = text.parse::<PolicyEntry>() {
                prop_assert_eq!(entry.to_string().parse::<PolicyEntry>(), Ok(entry));
            }
        }

        #[test]
        fn display_and_parse_agree(addr in any::<IpAddr>(), length in 0u8..=128, port in proptest::option::of(1u16..)) {
            let length = if addr.is_ipv4() { length % 33 } else { length };
            let entry = PolicyEntry { host: canonical(addr, length).into(), port };
            prop_assert_eq!(entry.to_string().parse::<PolicyEntry>(), Ok(entry));
        }

        #[test]
        fn a_name_with_a_port_is_that_name(name in r"(\*\.)?([a-z][a-z0-9_-]{0,9}\.){0,4}[a-z]{1,9}", port in 1u16..) {
            // What begins like that must be Punycode (RFC 5891 section 4.2.2), which hardly any of these is.
            prop_assume!(name.split('.').all(|label| !label.starts_with("xn--")));
            let entry: PolicyEntry = format!("{}.:{port}", name.to_uppercase()).parse().expect("an entry");
            prop_assert_eq!(&entry.host, &Host::Name(name.parse().expect("a name")));
            prop_assert_eq!(entry.port, Some(port));
            prop_assert_eq!(entry.to_string(), format!("{name}:{port}"));
        }
    }
}
