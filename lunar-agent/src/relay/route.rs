//! Where one request goes: to the gateway, to the provider, or, with all that follows it, past the relay.
//!
//! The kernel has decided by the address. Here the name has the last word, so an address that many names share sends no
//! stranger's traffic to the gateway.

use std::net::{IpAddr, SocketAddr};

use lunar_common::{
    net::Address,
    opinion::Opinion,
    policy::{Answer, Bucket, Family, PORTS_PER_WORD, PortClass, search, v4_key, v6_key},
};

use super::http::head::{Allow, Host, NotUnderstood, RequestHead};
use crate::policy::{
    compile::{CompileError, Rules, Tables, compile},
    names,
};

/// Where a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To the gateway.
    Gateway,
    /// To the provider. The next request of the connection is looked at again.
    Direct(Reason),
    /// To the provider, byte for byte, and whatever follows it on the connection.
    Splice(Reason),
}

/// Why a request does not go to the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Its head is not understood, or too large.
    NotUnderstood(NotUnderstood),
    /// Its host is an IP literal, which the gateway would resolve as a name.
    NoName,
    /// The policy does not want its name, at this address and port.
    Policy,
    /// Its `x-lunar-allow` forbids it.
    Header,
    /// Traffic is forced direct by hand.
    Forced,
    /// The agent's lease is stale.
    LeaseStale,
    /// Every endpoint is in cooldown or probation.
    Cooldown,
}

/// Whether the gateway may be used at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gateway {
    /// It may.
    Usable,
    /// No: traffic is forced direct by hand.
    Forced,
    /// No: the agent's lease is stale.
    LeaseStale,
    /// No: every endpoint is in cooldown or probation.
    Cooldown,
}

impl From<NotUnderstood> for Route {
    fn from(why: NotUnderstood) -> Self {
        Self::Splice(Reason::NotUnderstood(why))
    }
}

/// What of a request decides where it goes, whatever version of HTTP it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked<'a> {
    /// The host that it is for.
    pub host: &'a Host,
    /// What its `x-lunar-allow` says.
    pub allow: Allow,
}

impl<'a> From<&'a RequestHead> for Asked<'a> {
    fn from(head: &'a RequestHead) -> Self {
        Self { host: &head.host, allow: head.allow }
    }
}

/// Where a request goes whose head is understood, on a connection to `original`.
///
/// With an `x-lunar-allow` it is never spliced, since that header is for us and has to be taken out.
pub fn route<'a>(
    asked: impl Into<Asked<'a>>,
    original: SocketAddr,
    policy: &NamePolicy,
    gateway: Gateway,
) -> Route {
    let Asked { host, allow } = asked.into();
    let apart = |why| match allow {
        Allow::Unsaid => Route::Splice(why),
        Allow::Forced | Allow::Forbidden => Route::Direct(why),
    };
    let Host::Name(name) = host else { return apart(Reason::NoName) };
    match allow {
        Allow::Forbidden => return Route::Direct(Reason::Header),
        Allow::Unsaid if !policy.wants(name, original) => return apart(Reason::Policy),
        Allow::Unsaid | Allow::Forced => {}
    }
    match gateway {
        Gateway::Usable => Route::Gateway,
        Gateway::Forced => Route::Direct(Reason::Forced),
        Gateway::LeaseStale => Route::Direct(Reason::LeaseStale),
        Gateway::Cooldown => Route::Direct(Reason::Cooldown),
    }
}

/// The policy, asked about a name that is known to be meant. Answers out of the tables that the kernel looks up.
#[derive(Clone, Debug)]
pub struct NamePolicy(Tables);

impl NamePolicy {
    /// Compiles the entries.
    ///
    /// # Errors
    /// Those of [`compile`].
    pub fn new(rules: &Rules<'_>) -> Result<Self, CompileError> {
        compile(rules).map(Self)
    }

    /// Whether `name`, in the policy's form, is wanted of a connection to `original`.
    pub fn wants(&self, name: &str, original: SocketAddr) -> bool {
        let port = original.port();
        let of_name = names::find(&self.0.names, name).map_or(Answer::UNWANTED, |named| named.answer);
        // Other names that the address is known by do not matter: it is this one that is asked for.
        let opinion = self.opinion(self.of_address(original.ip()), port).and(self.opinion(of_name, port));
        let word = self.0.ports.get(usize::from(port) / PORTS_PER_WORD as usize).copied().unwrap_or_default();
        let intercepted = match PortClass::of(word, port) {
            PortClass::Intercepted => true,
            PortClass::ByEntry => opinion.adds_port(),
            PortClass::Ignored | PortClass::TlsDirect => false,
        };
        intercepted && opinion.wanted()
    }

    fn opinion(&self, answer: Answer, port: u16) -> Opinion {
        let rule = usize::from(answer.rule());
        Opinion::of(answer, self.0.rules.get(rule).filter(|_| rule != 0), port)
    }

    fn of_address(&self, ip: IpAddr) -> Answer {
        // Also v4-mapped addresses, which dual-stack sockets have, are IPv4 here.
        let address = Address::from(ip);
        let Tables { buckets_v4, buckets_v6, boundaries_v4, boundaries_v6, .. } = &self.0;
        if address.is_v4() {
            find(v4_key(address), buckets_v4, boundaries_v4)
        } else {
            find(v6_key(address), buckets_v6, boundaries_v6)
        }
    }
}

fn find<F: Family>(key: F, buckets: &[Bucket], boundaries: &[F::Boundary]) -> Answer {
    let boundary = |at: u32| boundaries.get(at as usize).copied();
    buckets.get(key.bucket() as usize).map_or(Answer::UNWANTED, |bucket| search(key, *bucket, boundary))
}

#[cfg(test)]
mod tests;
