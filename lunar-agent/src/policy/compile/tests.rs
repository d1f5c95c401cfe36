//! Every case goes through the kernel's own look-up and verdict.

use super::*;
use lunar_common::{
    failsafe::Ticket,
    net::Address,
    opinion::Opinion,
    policy::{Family, PortClass, search, skim, v4_key, v6_key},
    verdict::{Facts, Reason, Verdict, decide},
};

mod cases;
mod random;

/// A connect of which everything but port and policy allows the redirect.
struct Connect<'a> {
    tables: &'a Tables,
    ip: IpAddr,
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
        let address = Address::from(self.ip);
        let Tables { buckets_v4, buckets_v6, boundaries_v4, boundaries_v6, .. } = self.tables;
        let Tables { outline_v4, outline_v6, .. } = self.tables;
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
        assert_eq!(skimmed.unwrap_or(searched), searched, "{}", self.ip);
        let rule = &self.tables.rules[usize::from(searched.rule())];
        Opinion::of(searched, (searched.rule() != 0).then_some(rule), self.port)
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

fn verdict(tables: &Tables, ip: IpAddr, port: u16) -> Reason {
    decide(&Connect { tables, ip, port }).reason
}

/// The internal addresses in the words of the standard library.
fn always_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            a == 0
                || shared
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
        }
    }
}

/// The contract, read entry by entry.
fn contract(rules: &Rules<'_>, ip: IpAddr, port: u16) -> Reason {
    let names = |entry: &&PolicyEntry| net_of(entry).is_some_and(|net| net.contains(&ip));
    let general = rules.ports.contains(&port);
    if general && port == 443 && rules.tls_direct {
        return Reason::TlsDirect;
    }
    if !general && !rules.allow.iter().filter(names).any(|e| e.port == Some(port)) {
        return Reason::NotIntercepted;
    }
    let wanted = if rules.allow.is_empty() {
        !always_internal(ip) && !rules.internal.iter().any(|net| net.contains(&ip))
    } else {
        rules.allow.iter().any(|e| names(&e))
    };
    let blocked = rules.block.iter().filter(names).any(|e| e.port.is_none_or(|p| p == port));
    if wanted && !blocked { Reason::Redirected } else { Reason::Policy }
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
    assert_sound(&tables.buckets_v4, &tables.boundaries_v4, |b| b.start.into(), 16);
    let start = |b: &BoundaryV6| u128::from(b.high) << 64 | u128::from(b.low);
    assert_sound(&tables.buckets_v6, &tables.boundaries_v6, start, 112);
}

/// `"net"` or `"net port"`.
fn entry(text: &str) -> PolicyEntry {
    let (net, port) =
        text.split_once(' ').map_or((text, None), |(net, port)| (net, Some(port.parse().unwrap())));
    PolicyEntry { host: net.parse::<IpNet>().unwrap().into(), port }
}

fn entries(texts: &[&str]) -> Vec<PolicyEntry> {
    texts.iter().map(|text| entry(text)).collect()
}

#[test]
fn equal_neighbours_are_one_range() {
    let allow = entries(&["203.0.0.0/17", "203.0.128.0/17", "203.0.113.0/24", "203.0.113.0/24"]);
    let rules = Rules { allow: &allow, block: &[], ports: &[80], tls_direct: false, internal: &[] };
    let tables = compile(&rules).unwrap();
    assert_eq!(tables.boundaries_v4, []);
    assert_eq!(tables.boundaries_v6, []);
    assert_eq!(tables.rules.len(), 1);
    assert_eq!(tables.buckets_v4[203 << 8], Bucket { at: Answer::new(true, 0).0, count: 0 });
    assert_eq!(tables.buckets_v4[203 << 8 | 1], Bucket::default());
}

#[test]
fn equal_port_rules_are_one() {
    let allow = entries(&["203.0.113.1/32 81", "203.0.113.1/32 82", "2001:db8::/32 82", "2001:db8::/32 81"]);
    let rules = Rules { allow: &allow, block: &[], ports: &[80], tls_direct: false, internal: &[] };
    assert_eq!(compile(&rules).unwrap().rules.len(), 2);
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
    let blocking = |block| Rules {
        allow: &[],
        block,
        ports: &[8001, 8002, 8003, 8004, 8005, 8006, 8007, 8008, 8009],
        tls_direct: false,
        internal: &[],
    };
    let allowing = |allow| Rules { allow, block: &[], ports: &[80], tls_direct: false, internal: &[] };
    for rules in [blocking(&eight), allowing(&eight)] {
        let tables = compile(&rules).unwrap();
        for port in 8000..8011 {
            let ip = "203.0.113.7".parse().unwrap();
            assert_eq!(verdict(&tables, ip, port), contract(&rules, ip, port), "{port}");
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
    let allowing = |allow: &[PolicyEntry]| {
        compile(&Rules { allow, block: &[], ports: &[80], tls_direct: false, internal: &[] })
    };
    let most = MAX_PORT_RULES as u16 - 1;
    assert_eq!(allowing(&named(most)).unwrap().rules.len(), MAX_PORT_RULES as usize);
    let message = allowing(&named(most + 1)).unwrap_err().to_string();
    assert!(message.contains("203.0.15.255/32") && message.contains("4095"), "{message}");
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
