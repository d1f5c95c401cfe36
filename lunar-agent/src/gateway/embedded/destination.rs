//! Where an accepted connection is to go, decided without any I/O.

use std::net::{IpAddr, SocketAddr};

/// Why a connection is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody recorded where the connection was meant to go; forwarding it anywhere would make an open proxy.
    #[error("no original destination; it was not redirected here (a health probe, or a direct connection)")]
    Unknown,
    /// The connection was meant for this gateway; forwarding it would loop.
    #[error("its original destination {0} is this gateway itself")]
    Itself(SocketAddr),
}

/// Gives the address to forward to.
///
/// `original` is the recorded destination, `accepted_at` the local address of the accepted connection and
/// `listeners` every address this gateway listens on. `is_own` tells whether an address belongs to this host; it is
/// asked only when a wildcard listener has the destination's port.
///
/// # Errors
/// [`Refusal`], when there is no such address or it is this gateway.
pub fn decide(
    original: Option<SocketAddr>,
    accepted_at: SocketAddr,
    listeners: &[SocketAddr],
    is_own: impl Fn(IpAddr) -> bool,
) -> Result<SocketAddr, Refusal> {
    // The kernel takes a connect to 0.0.0.0 or port 0 for something else than what it says.
    let destination = original
        .map(canonical)
        .filter(|to| to.port() != 0 && !to.ip().is_unspecified())
        .ok_or(Refusal::Unknown)?;
    let is_listener = |listener: &SocketAddr| {
        let listener = canonical(*listener);
        listener.port() == destination.port()
            && (listener.ip() == destination.ip()
                || listener.ip().is_unspecified() && is_own(destination.ip()))
    };
    if destination == canonical(accepted_at) || listeners.iter().any(is_listener) {
        return Err(Refusal::Itself(destination));
    }
    Ok(destination)
}

/// Takes an IPv4 address out of its IPv6 coat (`::ffff:a.b.c.d`), as a dual-stack listener sees it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn decided(original: Option<&str>, listeners: &[&str]) -> Result<SocketAddr, Refusal> {
        let listeners: Vec<_> = listeners.iter().map(|l| at(l)).collect();
        let own = ["127.0.0.1", "10.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().expect("an IP"));
        decide(original.map(at), at("10.0.0.1:8000"), &listeners, |ip| own.contains(&ip))
    }

    #[test]
    fn a_provider_is_forwarded_to() {
        for provider in ["203.0.113.10:80", "203.0.113.10:8000", "[2001:db8::1]:8000"] {
            let listeners = ["0.0.0.0:8000", "[::]:8000"];
            assert_eq!(decided(Some(provider), &listeners), Ok(at(provider)));
        }
        assert_eq!(decided(Some("[::ffff:203.0.113.10]:80"), &["10.0.0.1:8000"]), Ok(at("203.0.113.10:80")));
        // The same host's other ports are providers like any other.
        assert_eq!(decided(Some("127.0.0.1:9000"), &["0.0.0.0:8000"]), Ok(at("127.0.0.1:9000")));
    }

    #[test]
    fn unknown_is_refused() {
        for original in [None, Some("0.0.0.0:80"), Some("[::]:80"), Some("203.0.113.10:0")] {
            assert_eq!(decided(original, &["10.0.0.1:8000"]), Err(Refusal::Unknown));
        }
    }

    #[test]
    fn itself_is_refused() {
        for (original, listener) in [
            ("10.0.0.1:8000", "10.0.0.1:9"), // by the accepted socket's own address
            ("[::ffff:10.0.0.1]:8000", "10.0.0.1:9"), // the same, v4-mapped
            ("10.0.0.2:8001", "10.0.0.2:8001"), // another listener of this gateway
            ("127.0.0.1:8000", "0.0.0.0:8000"), // an address of the host, wildcard listener
            ("127.0.0.1:8000", "[::]:8000"), // the same, dual stack
            ("[::1]:8000", "[::]:8000"),
        ] {
            let refused = Err(Refusal::Itself(canonical(at(original))));
            assert_eq!(decided(Some(original), &[listener]), refused, "{original}");
        }
    }
}
