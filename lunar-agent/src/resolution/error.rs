//! Why a name has no addresses, in words for `status` and `policy show`.

use std::{
    any::Any,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// Why a look-up brought no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name cannot be put into a question, for example because it is longer than 255 bytes.
    #[error("it is no name that DNS can be asked for")]
    Name,
    /// NXDOMAIN.
    #[error("{server} says that there is no such name")]
    NoSuchName {
        /// Who said so.
        server: SocketAddr,
    },
    /// NODATA, for IPv4 and IPv6.
    #[error("{server} knows the name but no address of it")]
    NoAddress {
        /// Who said so.
        server: SocketAddr,
    },
    /// None of its addresses leads to what is meant from anywhere but one host: loopback, link-local, unspecified, multicast.
    #[error("{by} has only addresses of it that mean something else on every host, such as {address}")]
    Nowhere {
        /// Who has them.
        by: Origin,
        /// One of them.
        address: IpAddr,
    },
    /// No server gave an answer that is one: each server's fault in its last attempt.
    #[error("{}", List(.0))]
    NoServer(Vec<Fault>),
    /// The code that asks and reads answers has a fault. What was said in the panic.
    #[error("its look-up met a fault of this program, please report it: {0}")]
    Panicked(String),
}

impl LookupError {
    /// Of what went wrong with each of two families: what says more.
    pub(super) fn or_rather(self, other: Self) -> Self {
        let weight = |error: &Self| match error {
            Self::NoAddress { .. } => 0,
            Self::NoSuchName { .. } => 1,
            Self::NoServer(_) => 2,
            Self::Nowhere { .. } => 3,
            Self::Name => 4,
            Self::Panicked(_) => 5,
        };
        if weight(&other) > weight(&self) { other } else { self }
    }

    /// From what a panic left.
    pub(super) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let literal = payload.downcast_ref::<&str>().copied();
        let said = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::Panicked(said.unwrap_or("a panic without a text").to_owned())
    }
}

/// Where addresses came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// hosts(5).
    HostsFile,
    /// A name server.
    Server(SocketAddr),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostsFile => f.write_str("the hosts file"),
            Self::Server(address) => address.fmt(f),
        }
    }
}

/// What one server did instead of answering.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing came back.
    #[error("no answer from {server} within {within:?}")]
    Silent {
        /// Who was asked.
        server: SocketAddr,
        /// How long it was waited for.
        within: Duration,
    },
    /// It answered that it will not or cannot.
    #[error("{server} answered {code:?}")]
    Code {
        /// Who was asked.
        server: SocketAddr,
        /// The response code, by its name in RFC 1035.
        code: &'static str,
    },
    /// It could not be asked, or what came back is no DNS.
    #[error("{server} could not be asked: {reason}")]
    Unusable {
        /// Who was asked.
        server: SocketAddr,
        /// Of the network or of the message, in a few words.
        reason: String,
    },
}

struct List<'a>(&'a [Fault]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { "; " };
            write!(f, "{joint}{fault}")?;
        }
        Ok(())
    }
}
