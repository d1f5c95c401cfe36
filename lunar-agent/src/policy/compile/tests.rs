//! Every case goes through the kernel's own look-up and verdict.

use super::*;
use crate::policy::names::find;
use lunar_common::{
    failsafe::Ticket,
    net::Address,
    opinion::Opinion,
    policy::{COUNTED_ENTRIES, Family, PortClass, search, skim, v4_key, v6_key},
    verdict::{Facts, Reason, Verdict, decide},
};

mod cases;
mod contract;
mod names;
mod random;

use contract::{contract, counted_of_address, counted_of_name};

/// A connect of which everything but port and policy allows the redirect, to an address with these names.
struct Connect<'a> {
    tables: &'a Tables,
    ip: IpAddr,
    names: &'a [&'a str],
    port: u16,
}

impl Facts for Connect<'_> {
    fn port_class(&self) -> PortClass {
        PortClass::of(self.tables.ports[usize::from(self.port) / 32], self.port)
    }
    fn exempt(&self) -> bool {
        false
    }
    fn lease_fresh(&self) -> bool {
        true
    }
    fn policy(&self) -> Opinion {
        let of = |answer: Answer| {
            let rule = &self.tables.rules[usize::from(answer.rule())];
            Opinion::of(answer, (answer.rule() != 0).then_some(rule), self.port)
        };
        let found = self.names.iter().filter_map(|name| find(&self.tables.names, name));
        let of_names = found.fold(Opinion::NONE, |all, named| all.and(of(named.answer)));
        of(look_up(self.tables, self.ip)).and(of_names.of_all_names())
    }
    fn dry_run(&self) -> bool {
        false
    }
    fn choose(&self) -> Verdict {
        Verdict {
            reason: Reason::Redirected,
            nth: 0,
            ticket: Ticket(0),
            missing: None,
            opinion: Opinion::NONE,
        }
    }
}

/// The answer for an address.
fn look_up(tables: &Tables, ip: IpAddr) -> Answer {
    let address = Address::from(ip);
    let Tables { buckets_v4, buckets_v6, boundaries_v4, boundaries_v6, .. } = tables;
    let Tables { outline_v4, outline_v6, .. } = tables;
    let (skimmed, searched) = if address.is_v4() {
        let key = v4_key(address);
        let boundary = |i| boundaries_v4.get(i as usize).copied();
        let searched = search(key, buckets_v4[key.bucket() as usize], boundary);
        (skim(key, |i| outline_v4.get(i as usize).copied()), searched)
    } else {
        let key = v6_key(address);
        let boundary = |i| boundaries_v6.get(i as usize).copied();
        let searched = search(key, buckets_v6[key.bucket() as usize], boundary);
        (skim(key, |i| outline_v6.get(i as usize).copied()), searched)
    };
    // Where the outline says anything it says what a search would.
    assert_eq!(skimmed.unwrap_or(searched), searched, "{}", ip);
    searched
}

fn verdict(tables: &Tables, ip: IpAddr, names: &[&str], port: u16) -> Reason {
    decide(&Connect { tables, ip, names, port }).reason
}

/// What the search relies on.
fn assert_sound<B>(buckets: &[Bucket], boundaries: &[B], start: impl Fn(&B) -> u128, shift: u32) {
    assert_eq!(buckets.len(), 65_536);
    let mut next = 0;
    for (number, bucket) in (0_u128..).zip(buckets).filter(|(_, bucket)| bucket.count != 0) {
        assert_eq!(bucket.at, next, "boundaries lie in the order of their buckets");
        assert!(bucket.count <= 1 << 20);
        next += bucket.count;
        let own = &boundaries[bucket.at as usize..next as usize];
        assert_eq!(start(&own[0]), number << shift);
        assert!(own.is_sorted_by(|a, b| start(a) < start(b)));
        assert!(own.iter().all(|b| start(b) >> shift == number));
    }
    assert_eq!(next as usize, boundaries.len());
}

fn assert_tables_sound(tables: &Tables) {
    assert_eq!(tables.ports.len(), 2048);
    assert_eq!(tables.rules[0], PortRule::default());
    assert!(tables.names.is_sorted_by(|a, b| a.pattern < b.pattern));
    assert_sound(&tables.buckets_v4, &tables.boundaries_v4, |b| b.start.into(), 16);
    let start = |b: &BoundaryV6| u128::from(b.high) << 64 | u128::from(b.low);
    assert_sound(&tables.buckets_v6, &tables.boundaries_v6, start, 112);
}

/// `"host"` or `"host port"`; bits beyond a prefix may be set.
fn entry(text: &str) -> PolicyEntry {
    let (host, port) =
        text.split_once(' ').map_or((text, None), |(host, port)| (host, Some(port.parse().unwrap())));
    let host = host.parse().map_or_else(|_| Host::Name(host.parse().unwrap()), Host::Net);
    PolicyEntry { host, port }
}

fn entries(texts: &[&str]) -> Vec<PolicyEntry> {
    texts.iter().map(|text| entry(text)).collect()
}

fn rules<'a>(allow: &'a [PolicyEntry], block: &'a [PolicyEntry], ports: &'a [u16]) -> Rules<'a> {
    Rules { allow, block, ports, tls_direct: false, internal: &[], gateway: &[] }
}

#[test]
fn equal_neighbours_are_one_range() {
    let internal = ["203.0.0.0/17", "203.0.128.0/17", "203.0.113.0/24"].map(|net| net.parse().unwrap());
    let tables = compile(&Rules { internal: &internal, ..rules(&[], &[], &[80]) }).unwrap();
    assert_eq!(tables.buckets_v4[203 << 8], Bucket { at: Answer::UNWANTED.0, count: 0 });
    assert_eq!(tables.buckets_v4[203 << 8 | 1], Bucket { at: Answer::new(true, 0).0, count: 0 });
    assert_eq!(tables.rules.len(), 1);
}

#[test]
fn a_network_that_comes_twice_is_counted_for_the_first() {
    let allow = entries(&["198.51.0.0/16", "203.0.0.0/16", "203.0.0.0/16"]);
    let tables = compile(&rules(&allow, &[], &[80])).unwrap();
    assert_eq!((&*tables.boundaries_v4, &*tables.boundaries_v6), (&[][..], &[][..]));
    assert_eq!(tables.buckets_v4[203 << 8], Bucket { at: Answer::new(true, 0).by(2).0, count: 0 });
}

/// Who looks no further than the outline counts no hit and learns of no block.
#[test]
fn the_outline_decides_only_where_no_entry_speaks() {
    let says = |tables: &Tables, ip: &str| {
        let key = v4_key(Address::from(ip.parse::<IpAddr>().unwrap()));
        skim(key, |i| tables.outline_v4.get(i as usize).copied())
    };
    let block = entries(&["203.0.0.0/16", "198.51.0.0/16 80", "192.0.0.0/16 9"]);
    let tables = compile(&rules(&[], &block, &[80])).unwrap();
    for (ip, expected) in [
        ("203.0.1.1", None),
        ("198.51.1.1", None),
        // Nothing intercepts the port, but the entry has a number.
        ("192.0.1.1", None),
        ("8.8.8.8", Some(Answer::new(true, 0))),
        ("10.1.1.1", Some(Answer::UNWANTED)),
    ] {
        assert_eq!(says(&tables, ip), expected, "{ip}");
    }
    let allow = entries(&["203.0.0.0/16"]);
    let tables = compile(&rules(&allow, &[], &[80])).unwrap();
    assert_eq!((says(&tables, "203.0.1.1"), says(&tables, "8.8.8.8")), (None, Some(Answer::UNWANTED)));
    // An entry that is too far down the list to be counted blocks all the same.
    let mut block = vec![entry("2001:db8::/32"); COUNTED_ENTRIES as usize - 1];
    block.push(entry("203.0.0.0/16"));
    let tables = compile(&rules(&[], &block, &[80])).unwrap();
    assert_eq!(look_up(&tables, "203.0.1.1".parse().unwrap()), Answer::UNWANTED.block());
    assert_eq!(says(&tables, "203.0.1.1"), None);
}

#[test]
fn the_gateway_is_blocked_on_its_port_and_by_no_entry() {
    let allow = entries(&["203.0.113.0/24 8000", "*.x 8000"]);
    let block = entries(&["198.51.100.0/24"]);
    let gateway = ["203.0.113.7:8000".parse().unwrap(), "[2001:db8::7]:80".parse().unwrap()];
    let rules = Rules { gateway: &gateway, ..rules(&allow, &block, &[80]) };
    let tables = compile(&rules).unwrap();
    for (ip, name, port, expected) in [
        ("203.0.113.7", "", 8000, Reason::Policy),
        ("203.0.113.7", "a.x", 8000, Reason::Policy),
        ("203.0.113.7", "", 80, Reason::Redirected),
        ("203.0.113.8", "", 8000, Reason::Redirected),
        ("2001:db8::7", "a.x", 80, Reason::Policy),
        ("2001:db8::7", "a.x", 8000, Reason::Redirected),
    ] {
        let ip = ip.parse().unwrap();
        assert_eq!(verdict(&tables, ip, &[name], port), expected, "{ip} {name} {port}");
        assert_eq!(contract(&rules, ip, &[name], port), expected, "the oracle: {ip} {name} {port}");
    }
    assert_eq!(look_up(&tables, "203.0.113.7".parse().unwrap()).entry(), 1);
    assert_eq!(look_up(&tables, "198.51.100.1".parse().unwrap()).entry(), 3);
    assert_eq!(look_up(&tables, "2001:db8::7".parse().unwrap()).entry(), 0);
}

#[test]
fn equal_port_rules_are_one() {
    let allow = entries(&["203.0.113.1/32 81", "203.0.113.1/32 82", "2001:db8::/32 82", "2001:db8::/32 81"]);
    assert_eq!(compile(&rules(&allow, &[], &[80])).unwrap().rules.len(), 2);
}

#[test]
fn eight_ports_fit_an_address_and_nine_do_not() {
    let named = |count: u16| -> Vec<PolicyEntry> {
        // Half of them from the network around it.
        let net = |n| if n % 2 == 0 { "203.0.113.0/24" } else { "203.0.113.7/32" };
        (1..=count)
            .map(|n| PolicyEntry { host: net(n).parse::<IpNet>().unwrap().into(), port: Some(8000 + n) })
            .collect()
    };
    let (eight, nine) = (named(8), named(9));
    let blocking = |block| rules(&[], block, &[8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008, 8009]);
    let allowing = |allow| rules(allow, &[], &[80]);
    for rules in [blocking(&eight), allowing(&eight)] {
        let tables = compile(&rules).unwrap();
        for port in 8000..8011 {
            let ip = "203.0.113.7".parse().unwrap();
            assert_eq!(verdict(&tables, ip, &[], port), contract(&rules, ip, &[], port), "{port}");
        }
    }
    for (rules, kind) in [(blocking(&nine), "block"), (allowing(&nine), "intercept")] {
        let message = compile(&rules).unwrap_err().to_string();
        for part in ["9 ports", kind, "203.0.113.7 ", "203.0.113.7/32", "policy.ports"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    // Ports that nothing intercepts take no place.
    let rules = Rules { ports: &[80], ..blocking(&nine) };
    assert_eq!(compile(&rules).unwrap().rules.len(), 1);
}

#[test]
fn the_port_rules_of_a_generation_are_limited() {
    let named = |count: u16| -> Vec<PolicyEntry> {
        let net = |n: u16| IpNet::from(IpAddr::from([203, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
        (0..count).map(|n| PolicyEntry { host: net(n).into(), port: Some(10_000 + n) }).collect()
    };
    let allowing = |allow: &[PolicyEntry]| compile(&rules(allow, &[], &[80]));
    let most = MAX_PORT_RULES as u16 - 1;
    assert_eq!(allowing(&named(most)).unwrap().rules.len(), MAX_PORT_RULES as usize);
    let message = allowing(&named(most + 1)).unwrap_err().to_string();
    assert!(message.contains("203.0.15.255;") && message.contains("4095"), "{message}");
}

#[test]
fn a_bucket_that_cannot_be_searched_is_refused() {
    let range = |n: usize| (0x2001_u128 << 112 | n as u128, Answer::new(n % 2 == 1, 0));
    let ranges: Vec<_> = [(0, Answer::UNWANTED)].into_iter().chain((1..1 << 20).map(range)).collect();
    let (buckets, starts) = divide(&V6, &ranges, |start, _| start).unwrap();
    assert_eq!(buckets[0x2001], Bucket { at: 0, count: 1 << 20 });
    assert_eq!(starts.len(), 1 << 20);
    let more: Vec<_> = ranges.into_iter().chain([range(1 << 20)]).collect();
    let message = divide(&V6, &more, |start, _| start).unwrap_err().to_string();
    assert!(message.contains("2001::/16") && message.contains("1048577"), "{message}");
}
