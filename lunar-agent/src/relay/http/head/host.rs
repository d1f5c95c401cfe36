//! The `Host` header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most bytes of a name and of a label (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The host that a request is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// Its name, as the policy writes names: lower case, ASCII, no final dot.
    Name(Box<str>),
    /// An IP literal, which the gateway would take for a name.
    Address(IpAddr),
}

/// Why there is no [`Host`]; reads on from "the Host header".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostProblem {
    /// Neither a name that DNS has room for nor an address. Such as user information, white space or a list.
    #[error("is neither a host name nor an address")]
    Name,
    /// What follows the colon.
    #[error("has a port that is not 1 to 65535")]
    Port,
}

impl Host {
    /// The host and the port, if there is one, of a `Host` header or an `:authority`.
    ///
    /// # Errors
    /// If it names none.
    pub fn read(value: &[u8]) -> Result<(Self, Option<u16>), HostProblem> {
        let text = std::str::from_utf8(value).map_err(|_| HostProblem::Name)?;
        let (host, rest) = match text.strip_prefix('[') {
            Some(literal) => {
                let (inside, rest) = literal.split_once(']').ok_or(HostProblem::Name)?;
                let address: Ipv6Addr = inside.parse().map_err(|_| HostProblem::Name)?;
                (Self::Address(address.into()), rest)
            }
            None => {
                let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Self::without_brackets(host).ok_or(HostProblem::Name)?, rest)
            }
        };
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').and_then(port).ok_or(HostProblem::Port)?),
        };
        Ok((host, port))
    }

    fn without_brackets(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let good = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // Some take `127.1` for an address.
        let numeric = name.rsplit('.').next()?.bytes().all(|b| b.is_ascii_digit());
        let sound = name.len() <= MAX_NAME && !numeric && name.split('.').all(good);
        sound.then(|| Self::Name(name.to_ascii_lowercase().into()))
    }
}

fn port(text: &str) -> Option<u16> {
    // `u16::from_str` takes a sign.
    let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&port| port != 0 && digits)
}
