//! From the configuration to what the kernel needs of it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lunar_common::{
    abi::{MARK, MAX_ENDPOINTS, Settings, flag, handoff},
    policy::COUNTED_ENTRIES,
};
use nix::ifaddrs::getifaddrs;

use super::DaemonError;
use crate::{
    config::{Config, GatewayProcess, Handoff, Quic},
    gateway::endpoint::Endpoint,
    kernel::layout::{span, syn_bound},
    policy::{
        compile::{self, Rules, Tables},
        internal::INTERNAL,
        names::NamedAnswer,
    },
};

/// The addresses of this host, in the network namespace of the agent.
pub(super) fn own_addresses() -> std::io::Result<BTreeSet<IpAddr>> {
    Ok(getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|a| IpAddr::V4(a.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect())
}

/// Whether an address is one of this host, as the agent's network namespace sees it.
pub(super) fn is_here(ip: IpAddr, own: &BTreeSet<IpAddr>) -> bool {
    ip.is_loopback() || own.contains(&ip)
}

/// Those of the host's addresses that a generation depends on. Containers that come and go bring link-local and
/// private ones, which are internal anyway.
pub(super) fn that_matter(own: &BTreeSet<IpAddr>, endpoints: &[Endpoint]) -> BTreeSet<IpAddr> {
    let matters = |ip: &&IpAddr| {
        endpoints.iter().any(|e| e.address.ip() == **ip)
            || !INTERNAL.iter().any(|network| network.contains(*ip))
    };
    own.iter().filter(matters).copied().collect()
}

pub(super) fn tables(
    config: &Config,
    own: &BTreeSet<IpAddr>,
    endpoints: &[Endpoint],
) -> Result<Tables, DaemonError> {
    let internal: Vec<IpNet> =
        own.iter().copied().chain(endpoints.iter().map(|e| e.address.ip())).map(IpNet::from).collect();
    // Only the `lunar` handoff, whose relay reads plain HTTP, leaves TLS alone.
    let tls_direct = config.gateway.handoff == Handoff::Lunar;
    let policy = &config.policy;
    let gateway: Vec<SocketAddr> = endpoints.iter().map(|e| e.address).collect();
    let rules = Rules {
        allow: &policy.allow,
        block: &policy.block,
        ports: &policy.ports,
        tls_direct,
        internal: &internal,
        gateway: &gateway,
    };
    Ok(compile::compile(&rules)?)
}

pub(super) fn kernel_log(config: &Config) -> bool {
    config.log_level >= tracing::level_filters::LevelFilter::DEBUG
}

pub(super) fn settings(
    config: &Config,
    own: &BTreeSet<IpAddr>,
    endpoints: &[Endpoint],
    names: &[NamedAnswer],
) -> Settings {
    let policy = &config.policy;
    let (syn_timeout, syn_retries) = syn_bound(config.gateway.connect_timeout);
    let mut settings = Settings {
        lease: span(config.failsafe.lease),
        grace: span(config.health.interval + config.health.timeout),
        cooldown: span(config.failsafe.exit_cooldown_after),
        threshold: config.failsafe.enter_cooldown_after_attempts.into(),
        mark: MARK,
        syn_timeout,
        syn_retries,
        endpoint_count: endpoints.len() as u32,
        counted_entries: (1 + policy.allow.len() + policy.block.len()).min(COUNTED_ENTRIES as usize) as u32,
        allow_entries: policy.allow.len().min(COUNTED_ENTRIES as usize) as u32,
        min_ttl: span(policy.min_ttl),
        dns_grace: span(policy.dns_grace),
        ..Settings::default()
    };
    for (place, endpoint) in settings.endpoints.iter_mut().zip(endpoints) {
        *place = endpoint.slot as u8;
    }
    let here = endpoints.iter().any(|e| is_here(e.address.ip(), own));
    if here || matches!(config.gateway.process, GatewayProcess::Selector(_)) {
        settings.flags |= flag::EXEMPT_PROCESSES;
    }
    if endpoints.iter().any(|e| e.address.ip().is_loopback()) {
        settings.flags |= flag::NAMESPACES;
    }
    if !names.is_empty() {
        settings.flags |= flag::NAMES;
    }
    if names.iter().any(|named| named.answer.wanted()) {
        settings.flags |= flag::NAMES_WANTED;
    }
    if policy.quic == Quic::Refuse {
        settings.flags |= flag::REFUSE_QUIC;
    }
    if policy.dry_run {
        settings.flags |= flag::DRY_RUN;
    }
    if kernel_log(config) {
        settings.flags |= flag::FLOW_EVENTS;
    }
    match config.gateway.handoff {
        Handoff::OriginalDst => {
            settings.handoff = handoff::ORIGINAL_DST;
        }
        Handoff::ProxyProtocol => {
            settings.handoff = handoff::PROXY_PROTOCOL;
            settings.flags |= flag::PROXY_HEADER;
        }
        Handoff::Lunar => {
            settings.handoff = handoff::LUNAR;
            settings.flags |= flag::RELAY;
        }
        // Refused by the configuration.
        Handoff::Connect => {}
    }
    settings
}

const _: () = assert!(MAX_ENDPOINTS <= u8::MAX as u32);
