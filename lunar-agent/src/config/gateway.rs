//! `[gateway]`: where traffic goes and how the gateway learns where it was meant to go.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::check::{self, Checker, Refusal};
use super::endpoint::{EndpointSpec, MAX_ENDPOINTS};
use super::keyword::keyword;
use super::layer::{Located, RawValue};
use crate::targets::{Selector, SelectorError};

keyword! {
    /// How the gateway learns the original destination (DESIGN section 5).
    Handoff {
        /// `x-lunar-*` headers, written by the relay.
        Lunar = "lunar",
        /// The gateway asks the kernel for `SO_ORIGINAL_DST`.
        OriginalDst = "original-dst",
        /// A PROXY v2 header, written in the kernel.
        ProxyProtocol = "proxy-protocol",
        /// HTTP `CONNECT`, spoken by the relay.
        Connect = "connect",
    }
}

keyword! {
    /// What happens to connections to port 443.
    Tls {
        /// Nothing is done about TLS.
        Direct = "direct",
        /// The relay ends it with a certificate of the local CA.
        Intercept = "intercept",
        /// It is tunnelled through the gateway's CONNECT port.
        Connect = "connect",
    }
}

/// Whose cgroup answers `SO_ORIGINAL_DST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayProcess {
    /// That of the process listening on a local endpoint.
    Auto,
    /// None.
    None,
    /// That of this selector.
    Selector(Selector),
}

/// `[gateway]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// 1 to [`MAX_ENDPOINTS`], no two the same.
    pub endpoints: Vec<EndpointSpec>,
    /// How the gateway learns the original destination.
    pub handoff: Handoff,
    /// What happens to connections to port 443.
    pub tls: Tls,
    /// Whether the relay speaks to the gateway over TLS.
    pub supports_tls: bool,
    /// Who the `lunar` handoff says is calling; visible ASCII.
    pub tenant_id: String,
    /// Whose cgroup answers `SO_ORIGINAL_DST`.
    pub process: GatewayProcess,
    /// How long a redirected connect may take, 100 ms to 1 min.
    pub connect_timeout: Duration,
    /// The port of the gateway's handshake, in host byte order, never 0.
    pub handshake_port: u16,
}

impl FromStr for GatewayProcess {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            selector => selector.parse().map(Self::Selector),
        }
    }
}

impl fmt::Display for GatewayProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Selector(selector) => selector.fmt(f),
        }
    }
}

pub(super) fn check(c: &mut Checker<'_>) -> Option<Gateway> {
    let endpoints = endpoints(c);
    let handoff = c.value("gateway.handoff", handoff);
    let tls = c.value("gateway.tls", tls);
    let supports_tls = c.value("gateway.supports_tls", check::boolean);
    let tenant_id = c.value("gateway.tenant_id", tenant_id);
    let process = c.value("gateway.process", process);
    let connect_timeout = c.value(
        "gateway.connect_timeout",
        check::duration(Duration::from_millis(100)..=Duration::from_secs(60)),
    );
    let handshake_port = c.value("gateway.handshake_port", check::port);
    if supports_tls == Some(true) && handoff.is_some_and(|handoff| handoff != Handoff::Lunar) {
        let reason = "only handoff = \"lunar\" speaks to the gateway itself; with the others TLS stays the application's";
        let key = "gateway.supports_tls";
        c.refuse(key, &c.source(key), Refusal::invalid(reason), true);
    }
    Some(Gateway {
        endpoints: endpoints?,
        handoff: handoff?,
        tls: tls?,
        supports_tls: supports_tls?,
        tenant_id: tenant_id?,
        process: process?,
        connect_timeout: connect_timeout?,
        handshake_port: handshake_port?,
    })
}

fn endpoints(c: &mut Checker<'_>) -> Option<Vec<EndpointSpec>> {
    const KEY: &str = "gateway.endpoints";
    let endpoints = c.list(KEY, endpoint)?;
    let whole = c.source(KEY);
    let count = endpoints.len();
    if !(1..=MAX_ENDPOINTS).contains(&count) {
        let reason = format!("{count} endpoints are given; use 1 to {MAX_ENDPOINTS}");
        c.refuse(KEY, &whole, Refusal::invalid(reason), true);
        return None;
    }
    let mut distinct: Vec<EndpointSpec> = Vec::with_capacity(count);
    for (endpoint, source) in endpoints {
        let same = |other: &EndpointSpec| other.host == endpoint.host && other.port == endpoint.port;
        if distinct.iter().any(same) {
            let reason = format!("{:?} is given twice; remove one", endpoint.to_string());
            c.refuse(KEY, &source, Refusal::invalid(reason), true);
        } else {
            distinct.push(endpoint);
        }
    }
    if distinct.len() < count {
        return None;
    }
    c.record(KEY.to_owned(), &distinct, &whole);
    Some(distinct)
}

fn endpoint(item: &Located) -> Result<EndpointSpec, Vec<Refusal>> {
    let RawValue::Table(table) = &item.value else {
        return check::parsed(&item.value).map_err(|refusal| vec![refusal]);
    };
    let mut refusals = Vec::new();
    let mut health_port = None;
    if let Some(port) = table.get("health_port") {
        match check::port(&port.value) {
            Ok(port) => health_port = Some(port),
            Err(refusal) => refusals.push(refusal.at(&port.source)),
        }
    }
    let address = match table.get("address") {
        Some(address) => {
            check::parsed::<EndpointSpec>(&address.value).map_err(|refusal| refusal.at(&address.source))
        }
        None => Err(Refusal::invalid("an endpoint lacks its address; write { address = \"HOST:PORT\" }")),
    };
    match address {
        Ok(endpoint) if refusals.is_empty() => Ok(EndpointSpec { health_port, ..endpoint }),
        Ok(_) => Err(refusals),
        Err(refusal) => {
            refusals.push(refusal);
            Err(refusals)
        }
    }
}

fn handoff(value: &RawValue) -> Result<Handoff, Refusal> {
    match check::parsed(value)? {
        Handoff::Connect => Err(Refusal::not_built(
            "\"connect\" is not built yet; use handoff = \"lunar\", \"original-dst\" or \"proxy-protocol\"",
        )),
        handoff => Ok(handoff),
    }
}

fn tls(value: &RawValue) -> Result<Tls, Refusal> {
    match check::parsed(value)? {
        Tls::Direct => Ok(Tls::Direct),
        tls => {
            let word = tls.to_string();
            Err(Refusal::not_built(format!("{word:?} is not built yet; use tls = \"direct\"")))
        }
    }
}

fn process(value: &RawValue) -> Result<GatewayProcess, Refusal> {
    check::text(value)?.parse().map_err(|error| {
        let reason = format!("{error}, or \"auto\" or \"none\"");
        match error {
            SelectorError::NotBuilt { .. } => Refusal::not_built(reason),
            _ => Refusal::invalid(reason),
        }
    })
}

/// The tenant ends up in a request header, where anything else could end the header early.
fn tenant_id(value: &RawValue) -> Result<String, Refusal> {
    let text = check::text(value)?;
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::invalid(format!(
            "{text:?} cannot go into a header; use visible ASCII characters without spaces"
        )))
    }
}
