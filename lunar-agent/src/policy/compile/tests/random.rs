//! Random policies against the oracle.

use super::*;
use crate::policy::internal::INTERNAL;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const PORTS: [u16; 12] = [22, 80, 443, 8000, 8001, 8002, 8003, 8004, 8005, 8006, 8007, 8443];

/// Networks that nest deeply: few stems, few bits set below them.
pub(super) fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (
        prop_oneof![Just(0xcb00_7100), Just(0x0a00_0000), Just(0), Just(u32::MAX), any::<u32>()],
        0..32_u8,
        0..=32_u8,
    )
        .prop_map(|(stem, bit, length)| {
            IpNet::new_assert(Ipv4Addr::from_bits(stem ^ 1 << bit).into(), length)
        });
    let v6 = (
        prop_oneof![
            Just(0x2001_0db8_u128 << 96),
            Just(0xfd_u128 << 120),
            Just(0),
            Just(u128::MAX),
            any::<u128>()
        ],
        0..128_u8,
        0..=128_u8,
    )
        .prop_map(|(stem, bit, length)| {
            IpNet::new_assert(Ipv6Addr::from_bits(stem ^ 1 << bit).into(), length)
        });
    // The v4-mapped ones are normalised before they get here.
    let v6 = v6.prop_filter("v4-mapped", |net| !mapped(net.addr()));
    prop_oneof![v4, v6]
}

pub(super) fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn of_nets() -> impl Strategy<Value = Host> {
    net().prop_map(Host::Net)
}

pub(super) fn listed(
    hosts: impl Strategy<Value = Host>,
    most: usize,
) -> impl Strategy<Value = Vec<PolicyEntry>> {
    let port = prop_oneof![2 => Just(None), 1 => proptest::sample::select(&PORTS[..]).prop_map(Some)];
    let fresh = proptest::collection::vec((hosts, port, any::<bool>()), 0..most);
    // Some hosts come twice, with the port of another.
    fresh.prop_map(|entries| {
        let entry = |host: &Host, port| PolicyEntry { host: host.clone(), port };
        let ports = entries.iter().rev().map(|&(_, port, _)| port);
        let again = entries.iter().zip(ports).filter(|(e, _)| e.2).map(|(e, port)| entry(&e.0, port));
        entries.iter().map(|(host, port, _)| entry(host, *port)).chain(again).collect()
    })
}

pub(super) fn gateways() -> impl Strategy<Value = Vec<SocketAddr>> {
    let port = proptest::sample::select(&PORTS[..]);
    proptest::collection::vec((net(), port).prop_map(|(net, port)| (net.addr(), port).into()), 0..3)
}

fn nets_of<'a>(entries: impl Iterator<Item = &'a PolicyEntry>) -> impl Iterator<Item = IpNet> {
    entries.filter_map(|entry| match entry.host {
        Host::Net(net) => Some(net),
        Host::Name(_) => None,
    })
}

/// The addresses at which something can change, and their neighbours.
fn edges(nets: impl Iterator<Item = IpNet>) -> Vec<IpAddr> {
    let around = |net: IpNet| match (net.network(), net.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            [first.to_bits().wrapping_sub(1), first.to_bits(), last.to_bits(), last.to_bits().wrapping_add(1)]
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        (first, last) => {
            let bits = |ip| if let IpAddr::V6(ip) = ip { ip.to_bits() } else { 0 };
            let (first, last) = (bits(first), bits(last));
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    };
    nets.flat_map(around).filter(|&ip| !mapped(ip)).collect()
}

/// How many ports the contract gives or takes, by the number of places they need, where an entry speaks of `host`.
pub(super) fn most_ports(rules: &Rules<'_>, meant: impl Fn(&Host) -> bool, gateways: usize) -> usize {
    let named = |list: &[PolicyEntry], port| list.iter().any(|e| e.port == Some(port) && meant(&e.host));
    let extra = PORTS.iter().filter(|&&p| !rules.ports.contains(&p) && named(rules.allow, p)).count();
    let blocked = PORTS.iter().filter(|&&p| named(rules.block, p)).count();
    extra.max(blocked + gateways)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_say_what_the_contract_says(
        allow in prop_oneof![Just(Vec::new()), listed(of_nets(), 40)],
        block in listed(of_nets(), 25),
        internal in proptest::collection::vec(net(), 0..5),
        gateway in gateways(),
        ports in proptest::sample::subsequence(&PORTS[..], 0..5),
        tls_direct: bool,
        random_v4: [u32; 16],
        random_v6: [u128; 16],
    ) {
        let rules =
            Rules { allow: &allow, block: &block, ports: &ports, tls_direct, internal: &internal, gateway: &gateway };
        let tables = match compile(&rules) {
            Ok(tables) => tables,
            Err(CompileError::PortsOfAddress { address, .. }) => {
                let meant = |host: &Host| matches!(host, Host::Net(net) if net.contains(&address));
                prop_assert!(most_ports(&rules, meant, gateway.len()) > PORTS_PER_RULE);
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        assert_tables_sound(&tables);
        let nets = nets_of(allow.iter().chain(&block)).chain(internal.iter().copied()).chain(INTERNAL);
        let mut addresses = edges(nets);
        addresses.extend(random_v4.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        addresses.extend(random_v6.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
        addresses.extend(gateway.iter().map(|at| at.ip()));
        for ip in addresses {
            prop_assert_eq!(look_up(&tables, ip).entry(), counted_of_address(&rules, ip), "{}", ip);
            for port in PORTS.into_iter().chain([9]) {
                prop_assert_eq!(verdict(&tables, ip, &[], port), contract(&rules, ip, &[], port), "{} {}", ip, port);
            }
        }
    }
}

#[test]
fn a_hundred_thousand_networks() {
    // Sebastiano Vigna's splitmix64: any spread-out numbers do, but the same ones each time.
    let mut state = 0_u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut entries: Vec<_> = (0..100_000)
        .map(|n| {
            let net = if n % 4 == 0 {
                let bits = 0x2000_u128 << 112 | u128::from(random()) << 61 | u128::from(random());
                IpNet::new_assert(Ipv6Addr::from_bits(bits).into(), 20 + (random() % 109) as u8)
            } else {
                IpNet::new_assert(Ipv4Addr::from_bits(random() as u32).into(), 18 + (random() % 15) as u8)
            };
            PolicyEntry { host: net.into(), port: (n % 50 == 0).then(|| 8000 + (random() % 3) as u16) }
        })
        .collect();
    let block = entries.split_off(70_000);
    let rules = rules(&entries, &block, &[80, 443]);
    let tables = compile(&rules).unwrap();
    assert_tables_sound(&tables);
    assert!(tables.boundaries_v4.len() > 50_000 && tables.boundaries_v6.len() > 20_000);
    let some = nets_of(entries.iter().chain(&block).step_by(2_000));
    for ip in edges(some) {
        for port in [80, 8001] {
            assert_eq!(verdict(&tables, ip, &[], port), contract(&rules, ip, &[], port), "{ip} {port}");
        }
    }
}
