//! One call of the client, and what it proves about the way it went.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::scene::{CLIENT, TOWARDS_PROVIDER};

/// The way a call went, as the provider saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Gateway,
    Direct,
}

/// A call that has ended. Times count from the client's first call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) began: Duration,
    pub(super) ended: Duration,
    /// Why it failed, if it did.
    pub(super) way: Result<Way, String>,
}

impl Call {
    /// Reads a line of `lunar-lab client http`. The provider's answer names its peer, and that address is the
    /// evidence: the gateway calls from its own, the client from another.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let report: Value =
            serde_json::from_str(line).with_context(|| format!("the client said {line:?}"))?;
        let missing = || format!("the client's line lacks a figure: {line}");
        let began = Duration::from_millis(report["t_ms"].as_u64().with_context(missing)?);
        let took = report["ms"].as_f64().with_context(missing)?;
        let way = match (report["peer"].as_str(), report["error"].as_str()) {
            (Some(peer), _) => match peer.rsplit_once(':') {
                Some((TOWARDS_PROVIDER, _)) => Ok(Way::Gateway),
                Some((CLIENT, _)) => Ok(Way::Direct),
                _ => Err(format!("the provider was called from {peer}")),
            },
            (None, Some(error)) => Err(error.to_owned()),
            (None, None) => Err("neither an answer nor an error".to_owned()),
        };
        Ok(Self { began, ended: began + Duration::from_secs_f64(took / 1000.0), way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(end: &str) -> Result<Way, String> {
        Call::parse(&format!(r#"{{"t_ms": 250, "ms": 1.5, {end}}}"#)).expect("a line of the client").way
    }

    #[test]
    fn the_peer_tells_the_way() {
        assert_eq!(way(r#""ok": true, "peer": "203.0.113.1:4711""#), Ok(Way::Gateway));
        assert_eq!(way(r#""ok": true, "peer": "198.51.100.2:4711""#), Ok(Way::Direct));
        assert!(way(r#""ok": true, "peer": "203.0.113.10:4711""#).is_err(), "somebody else");
        assert_eq!(way(r#""ok": false, "error": "connect: refused""#), Err("connect: refused".to_owned()));
    }

    #[test]
    fn a_call_has_a_beginning_and_an_end() {
        let call = Call::parse(r#"{"t_ms": 250, "ms": 1.5, "peer": "203.0.113.1:1"}"#).expect("a call");
        assert_eq!((call.began, call.ended), (Duration::from_millis(250), Duration::from_micros(251_500)));
        assert!(Call::parse("nonsense").is_err());
    }
}
