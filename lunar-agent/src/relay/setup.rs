//! What a relay serves by: as the agent says it, and as the relay uses it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderValue, header::InvalidHeaderValue};
use ipnet::IpNet;
use lunar_common::{failsafe::Limits, time::SpanNs};
use serde::{Deserialize, Serialize};

use super::{
    http::head::{ErrorIndicator, ErrorIndicatorError},
    replay::{Mode, Rules},
    route::NamePolicy,
};
use crate::{
    kernel::layout::span,
    policy::{
        PolicyEntry, PolicyEntryError,
        compile::{self, CompileError},
    },
};

/// What the agent tells a relay, and one relay the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The gateway's addresses.
    pub endpoints: Vec<Endpoint>,
    /// Whether the gateway is spoken to over TLS.
    pub supports_tls: bool,
    /// The tenant, told to endpoints that are managed gateways.
    pub tenant: String,
    /// How long a connect to the gateway, or its TLS handshake, may take.
    pub connect_timeout: Duration,
    /// How old the agent's heartbeat may be.
    pub lease: Duration,
    /// How long the agent's probe has after a cooldown before requests are admitted.
    pub grace: Duration,
    /// `exit_cooldown_after_sec`.
    pub cooldown: Duration,
    /// `enter_cooldown_after_attempts`.
    pub threshold: u32,
    /// The policy's entries.
    pub allow: Vec<String>,
    /// Those that it blocks.
    pub block: Vec<String>,
    /// The intercepted ports.
    pub ports: Vec<u16>,
    /// Addresses of the agent's host.
    pub own_addresses: Vec<IpAddr>,
    /// `relay.error_indicators`.
    pub error_indicators: Vec<String>,
    /// `relay.replay`.
    pub replay: Mode,
    /// Bytes of a body that are kept for a replay.
    pub replay_buffer: usize,
    /// `relay.retry_max`.
    pub retry_max: u32,
    /// `relay.retry_total`.
    pub retry_total: Duration,
    /// How long requests may go on after another relay has taken over.
    pub drain_timeout: Duration,
}

/// One address of the gateway.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its slot among the failsafe's words.
    pub slot: u32,
    /// Where it listens, seen from the agent's network namespace.
    pub address: SocketAddr,
    /// The host as configured: what its certificate must be for.
    pub host: String,
    /// Whether its handshake said that it is a managed gateway.
    pub managed: bool,
}

/// Why a [`Setup`] cannot be served by.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An entry of the policy.
    #[error("policy entry {entry:?}: {source}")]
    Entry {
        /// As it was given.
        entry: String,
        /// What is wrong.
        source: PolicyEntryError,
    },
    /// The policy as a whole.
    #[error("the policy: {0}")]
    Policy(#[from] CompileError),
    /// An error indicator.
    #[error("error indicator {indicator:?}: {source}")]
    Indicator {
        /// As it was given.
        indicator: String,
        /// What is wrong.
        source: ErrorIndicatorError,
    },
    /// The tenant.
    #[error("the tenant cannot go into a header: {0}")]
    Tenant(#[from] InvalidHeaderValue),
}

/// A [`Setup`], checked.
#[derive(Debug)]
pub struct Settings {
    /// As it was told.
    pub setup: Setup,
    /// The policy, asked by name.
    pub policy: NamePolicy,
    tenant: HeaderValue,
    /// What shows that the gateway failed.
    pub indicators: Vec<ErrorIndicator>,
    /// What may be sent twice.
    pub rules: Rules,
    /// The figures of the failsafe.
    pub limits: Limits,
    /// How old the agent's heartbeat may be.
    pub lease: SpanNs,
    /// How long its probe has after a cooldown.
    pub grace: SpanNs,
}

impl Settings {
    /// Checks and compiles.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let entries = |texts: &[String]| -> Result<Vec<PolicyEntry>, SetupError> {
            let entry = |text: &String| {
                text.parse().map_err(|source| SetupError::Entry { entry: text.clone(), source })
            };
            texts.iter().map(entry).collect()
        };
        let internal: Vec<IpNet> = setup
            .own_addresses
            .iter()
            .copied()
            .chain(setup.endpoints.iter().map(|e| e.address.ip()))
            .map(IpNet::from)
            .collect();
        let gateway: Vec<SocketAddr> = setup.endpoints.iter().map(|e| e.address).collect();
        let policy = NamePolicy::new(&compile::Rules {
            allow: &entries(&setup.allow)?,
            block: &entries(&setup.block)?,
            ports: &setup.ports,
            tls_direct: true,
            internal: &internal,
            gateway: &gateway,
        })?;
        let indicator = |text: &String| {
            text.parse().map_err(|source| SetupError::Indicator { indicator: text.clone(), source })
        };
        Ok(Self {
            policy,
            tenant: HeaderValue::from_str(&setup.tenant)?,
            indicators: setup.error_indicators.iter().map(indicator).collect::<Result<_, _>>()?,
            rules: Rules { mode: setup.replay, retry_max: setup.retry_max, retry_total: setup.retry_total },
            limits: Limits { cooldown: span(setup.cooldown), threshold: setup.threshold, pad: 0 },
            lease: span(setup.lease),
            grace: span(setup.grace),
            setup,
        })
    }

    /// The tenant, if an endpoint is to be told: one that is a managed gateway.
    pub fn tenant_for(&self, endpoint: &Endpoint) -> Option<&HeaderValue> {
        endpoint.managed.then_some(&self.tenant)
    }
}
