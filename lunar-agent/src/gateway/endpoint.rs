//! Endpoints: from what is configured to addresses, and to their slots in the maps.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lunar_common::abi::MAX_ENDPOINTS;

use crate::config::{EndpointSpec, Host};

/// One address of the gateway, in its slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// As configured, `host:port`.
    pub name: String,
    /// Host of its probes, by name if it has one.
    pub host: String,
    /// Port of its health check, where it differs from `gateway.health.port`.
    pub health_port: Option<u16>,
    /// Its place in the maps.
    pub slot: u32,
}

/// What became of one configured endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolution {
    /// As configured.
    pub spec: EndpointSpec,
    /// Its addresses. An endpoint that cannot be resolved is no error of the configuration: it keeps the addresses
    /// it had, and without any, traffic is direct until it can be.
    pub addresses: BTreeSet<SocketAddr>,
    /// Why these are not what its name means now.
    pub problem: Option<String>,
}

impl Resolution {
    /// A name that could not be resolved keeps the addresses it had.
    pub fn or_before(mut self, before: &Self) -> Self {
        if let Some(problem) = &mut self.problem
            && self.addresses.is_empty()
            && !before.addresses.is_empty()
        {
            problem.push_str("; using the addresses of before");
            self.addresses.clone_from(&before.addresses);
        }
        self
    }
}

/// Resolves a configured endpoint.
pub async fn resolve(spec: EndpointSpec) -> Resolution {
    let (addresses, problem) = match &spec.host {
        Host::Ip(ip) => (BTreeSet::from([SocketAddr::new(*ip, spec.port)]), None),
        Host::Name(name) => match tokio::net::lookup_host((name.as_str(), spec.port)).await {
            Ok(found) => (found.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())).collect(), None),
            Err(e) => (BTreeSet::new(), Some(format!("{name} cannot be resolved: {e}"))),
        },
    };
    Resolution { spec, addresses, problem }
}

/// Gives each address its slot: the one it has, else one that nobody held, else that of an address which is no longer
/// wanted. Addresses beyond the last slot are left out.
pub fn place(resolutions: &[Resolution], held: &[(u32, SocketAddr)]) -> Vec<Endpoint> {
    let mut placed: Vec<Endpoint> = Vec::new();
    for Resolution { spec, addresses, .. } in resolutions {
        for address in addresses {
            if placed.iter().any(|e| e.address == *address) {
                continue;
            }
            let wanted_later = |slot: u32| {
                held.iter().any(|(s, a)| *s == slot && resolutions.iter().any(|r| r.addresses.contains(a)))
            };
            let unheld = |slot: &u32| held.iter().all(|(s, _)| s != slot);
            let taken = |slot: u32| placed.iter().any(|e| e.slot == slot);
            let own = held.iter().find(|(slot, a)| a == address && !taken(*slot)).map(|(slot, _)| *slot);
            let free = || (0..MAX_ENDPOINTS).filter(|slot| !taken(*slot) && !wanted_later(*slot));
            let Some(slot) = own.or_else(|| free().find(unheld)).or_else(|| free().next()) else {
                continue;
            };
            placed.push(Endpoint {
                address: *address,
                name: spec.to_string(),
                host: host(spec),
                health_port: spec.health_port,
                slot,
            });
        }
    }
    placed
}

fn host(spec: &EndpointSpec) -> String {
    match &spec.host {
        Host::Name(name) => name.clone(),
        Host::Ip(IpAddr::V4(ip)) => ip.to_string(),
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolution(spec: &str, addresses: &[&str]) -> Resolution {
        let parsed = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        Resolution { spec: spec.parse().expect("an endpoint"), addresses: parsed, problem: None }
    }

    fn slots(placed: &[Endpoint]) -> Vec<(String, u32)> {
        placed.iter().map(|e| (e.address.to_string(), e.slot)).collect()
    }

    #[test]
    fn an_address_keeps_its_slot_and_with_it_its_word() {
        let held = [
            (0, "192.0.2.1:80".parse().expect("an address")),
            (1, "192.0.2.2:80".parse().expect("an address")),
        ];
        let now =
            [resolution("192.0.2.3:80", &["192.0.2.3:80"]), resolution("192.0.2.1:80", &["192.0.2.1:80"])];
        assert_eq!(slots(&place(&now, &held)), [("192.0.2.3:80".into(), 2), ("192.0.2.1:80".into(), 0)]);
    }

    #[test]
    fn a_held_slot_is_given_away_only_when_no_other_is_left() {
        let address = |n: u32| format!("192.0.2.{n}:80");
        let held: Vec<(u32, SocketAddr)> =
            (0..MAX_ENDPOINTS).map(|slot| (slot, address(slot + 1).parse().expect("an address"))).collect();
        let now = [resolution("gw:80", &[&address(100), &address(2)])];
        assert_eq!(slots(&place(&now, &held)), [(address(2), 1), (address(100), 0)]);
        assert_eq!(slots(&place(&now, &held[..3])), [(address(2), 1), (address(100), 3)]);
    }

    #[test]
    fn a_name_without_an_answer_keeps_its_addresses_and_says_so() {
        let before = resolution("gw:80", &["192.0.2.1:80"]);
        let unresolved =
            Resolution { addresses: BTreeSet::new(), problem: Some("gw: no".into()), ..before.clone() };
        let kept = unresolved.clone().or_before(&before);
        assert_eq!(kept.addresses, before.addresses);
        assert_eq!(kept.problem.as_deref(), Some("gw: no; using the addresses of before"));
        assert_eq!(unresolved.clone().or_before(&unresolved), unresolved);
    }

    #[test]
    fn addresses_are_placed_once_and_only_as_many_as_there_are_slots() {
        let many: Vec<String> = (1..=20).map(|n| format!("192.0.2.{n}:80")).collect();
        let texts: Vec<&str> = many.iter().map(String::as_str).collect();
        let now = [resolution("gw:80", &texts), resolution("192.0.2.1:80", &["192.0.2.1:80"])];
        let placed = place(&now, &[]);
        assert_eq!(placed.len(), MAX_ENDPOINTS as usize);
        let distinct: BTreeSet<u32> = placed.iter().map(|e| e.slot).collect();
        assert_eq!(distinct.len(), placed.len());
        assert!(place(&[resolution("gw:80", &[])], &[]).is_empty());
    }
}
