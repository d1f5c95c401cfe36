//! `[gateway.health]`: how the gateway is probed.

use std::time::Duration;

use super::check::{self, Checker, Refusal};
use super::gateway::Handoff;
use super::keyword::keyword;
use super::layer::RawValue;

keyword! {
    /// What a probe is (DESIGN section 4).
    HealthKind {
        /// `http` for the `lunar` handoff, `tcp` for the others.
        Auto = "auto",
        /// `GET` of the health path must answer 200, and the endpoint must accept a connection.
        Http = "http",
        /// `GET /handshake` must answer 200 with a JSON object.
        Handshake = "handshake",
        /// The endpoint must accept a connection.
        Tcp = "tcp",
    }
}

/// `[gateway.health]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// As configured; see [`Health::effective`].
    pub kind: HealthKind,
    /// The port of the health check, in host byte order, never 0, for endpoints that have none of their own.
    pub port: u16,
    /// The path of the health check; begins with `/`, visible ASCII.
    pub path: String,
    /// From one probe to the next, 100 ms to 1 h.
    pub interval: Duration,
    /// How long a probe may take, 1 ms to 1 min.
    pub timeout: Duration,
}

impl Health {
    /// What a probe is with this handoff; never [`HealthKind::Auto`].
    pub fn effective(&self, handoff: Handoff) -> HealthKind {
        match (self.kind, handoff) {
            (HealthKind::Auto, Handoff::Lunar) => HealthKind::Http,
            (HealthKind::Auto, _) => HealthKind::Tcp,
            (kind, _) => kind,
        }
    }
}

pub(super) fn check(c: &mut Checker<'_>) -> Option<Health> {
    let kind = c.value("gateway.health.kind", check::parsed);
    let port = c.value("gateway.health.port", check::port);
    let path = c.value("gateway.health.path", path);
    let interval = c.value(
        "gateway.health.interval",
        check::duration(Duration::from_millis(100)..=Duration::from_secs(3600)),
    );
    let timeout = c
        .value("gateway.health.timeout", check::duration(Duration::from_millis(1)..=Duration::from_secs(60)));
    Some(Health { kind: kind?, port: port?, path: path?, interval: interval?, timeout: timeout? })
}

/// The path ends up in a request line, where a space or a line break would change the request.
fn path(value: &RawValue) -> Result<String, Refusal> {
    let text = check::text(value)?;
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::invalid(format!(
            "{text:?} is not a path; begin it with / and use visible ASCII characters"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_depends_on_the_handoff_and_nothing_else_does() {
        let health = |kind| Health {
            kind,
            port: 8040,
            path: "/healthcheck".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
        };
        for (kind, handoff, effective) in [
            (HealthKind::Auto, Handoff::Lunar, HealthKind::Http),
            (HealthKind::Auto, Handoff::OriginalDst, HealthKind::Tcp),
            (HealthKind::Auto, Handoff::ProxyProtocol, HealthKind::Tcp),
            (HealthKind::Auto, Handoff::Connect, HealthKind::Tcp),
            (HealthKind::Http, Handoff::OriginalDst, HealthKind::Http),
            (HealthKind::Handshake, Handoff::OriginalDst, HealthKind::Handshake),
            (HealthKind::Tcp, Handoff::Lunar, HealthKind::Tcp),
        ] {
            assert_eq!(health(kind).effective(handoff), effective);
        }
    }
}
