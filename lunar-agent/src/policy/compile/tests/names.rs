//! Names: against the contract, read entry by entry, and what is particular to them.

use super::random::{PORTS, gateways, listed, mapped, most_ports, net};
use super::*;
use crate::policy::pattern::tests::means;
use proptest::prelude::*;

const R: Reason = Reason::Redirected;
const P: Reason = Reason::Policy;
const N: Reason = Reason::NotIntercepted;

#[test]
fn each_sentence_of_the_contract() {
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [(&'a str, &'a [&'a str], u16, Reason)]);
    let cases: &[Case] = &[
        (
            "with an allow list only what it names, internal addresses included",
            &["api.stripe.com", "*.openai.com", "internal.corp"],
            &[],
            &[
                ("203.0.113.7", &["api.stripe.com"], 80, R),
                ("203.0.113.7", &["x.api.stripe.com"], 80, P),
                ("203.0.113.7", &["stripe.com"], 80, P),
                ("203.0.113.7", &["api.openai.com"], 80, R),
                ("203.0.113.7", &["a.b.openai.com"], 80, R),
                ("203.0.113.7", &["openai.com"], 80, P),
                ("203.0.113.7", &["notopenai.com"], 80, P),
                ("10.1.2.3", &["internal.corp"], 80, R),
                ("203.0.113.7", &[], 80, P),
                ("203.0.113.7", &["nobody.example", "api.stripe.com"], 80, R),
                ("203.0.113.7", &["api.stripe.com"], 22, N),
            ],
        ),
        (
            "without one every external address is wanted, except by a blocked name",
            &[],
            &["bad.example", "*.worse.example", "partly.example 443"],
            &[
                ("203.0.113.7", &["good.example"], 80, R),
                ("203.0.113.7", &["bad.example"], 80, P),
                ("203.0.113.7", &["a.worse.example"], 443, P),
                ("203.0.113.7", &["partly.example"], 443, P),
                ("203.0.113.7", &["partly.example"], 80, R),
                ("10.0.0.1", &["good.example"], 80, P),
            ],
        ),
        (
            "block wins, also when it is less specific",
            &["api.x", "*.y", "203.0.113.0/24"],
            &["*.x", "b.y", "*.c.y 80", "198.51.100.0/24 443"],
            &[
                ("192.0.2.1", &["api.x"], 80, P),
                ("192.0.2.1", &["a.y"], 80, R),
                ("192.0.2.1", &["b.y"], 80, P),
                ("192.0.2.1", &["a.c.y"], 80, P),
                ("192.0.2.1", &["a.c.y"], 443, R),
                // An address' own entry and a name's: either side's block wins.
                ("203.0.113.7", &["api.x"], 80, P),
                ("198.51.100.1", &["a.y"], 80, R),
                ("198.51.100.1", &["a.y"], 443, P),
                ("192.0.2.1", &["a.y", "b.y"], 80, P),
            ],
        ),
        (
            "an allow entry with a port adds it, for itself and all below",
            &["*.x 8443", "a.x 9000", "a.y", "203.0.113.0/24 8001"],
            &["b.x 8443", "198.51.100.7/32 8443", "c.x 8001"],
            &[
                ("192.0.2.1", &["z.x"], 8443, R),
                ("192.0.2.1", &["z.x"], 80, R),
                ("192.0.2.1", &["z.x"], 9000, N),
                ("192.0.2.1", &["a.x"], 8443, R),
                ("192.0.2.1", &["a.x"], 9000, R),
                ("192.0.2.1", &["a.y"], 8443, N),
                ("192.0.2.1", &["b.x"], 8443, P),
                ("192.0.2.1", &["b.x"], 80, R),
                // A port that only a name adds, blocked for an address; and the other way round.
                ("198.51.100.7", &["z.x"], 8443, P),
                ("198.51.100.7", &["z.x"], 80, R),
                ("203.0.113.1", &["c.x"], 8001, P),
                ("203.0.113.1", &["z.x"], 8001, R),
            ],
        ),
    ];
    for (sentence, allow, block, expected) in cases {
        let (allow, block) = (entries(allow), entries(block));
        let rules = rules(&allow, &block, &[80, 443]);
        let tables = compile(&rules).unwrap();
        assert_tables_sound(&tables);
        for (ip, names, port, reason) in *expected {
            let ip = ip.parse().unwrap();
            assert_eq!(verdict(&tables, ip, names, *port), *reason, "{sentence}: {ip} {names:?} {port}");
            assert_eq!(
                contract(&rules, ip, names, *port),
                *reason,
                "the oracle, {sentence}: {ip} {names:?} {port}"
            );
        }
    }
}

#[test]
fn a_block_is_told_from_mere_want_of_an_allow() {
    let answer = |allow: &[&str], block: &[&str], name| {
        let (allow, block) = (entries(allow), entries(block));
        find(&compile(&rules(&allow, &block, &[80])).unwrap().names, name).map(|named| named.answer)
    };
    let blocked = Answer::UNWANTED.block();
    assert_eq!(answer(&[], &["*.x"], "a.x"), Some(blocked.by(1)));
    assert_eq!(answer(&["a.x"], &["*.x"], "a.x"), Some(blocked.by(2)));
    assert_eq!(answer(&["a.x"], &["*.x"], "x"), None);
    assert_eq!(answer(&["*.x", "a.x"], &[], "a.x"), Some(Answer::new(true, 0).by(2)));
    assert_eq!(answer(&["*.x", "y"], &["a.x 80"], "a.x"), Some(Answer::new(true, 1).by(1)));
    assert_eq!(answer(&["y"], &["a.x 80"], "a.x"), Some(Answer::new(false, 1).by(2)));
    assert_eq!(answer(&[], &["a.x", "*.x"], "a.x"), Some(blocked.by(1)), "the innermost");
}

#[test]
fn names_have_the_limits_of_addresses() {
    let named = |count: u16| -> Vec<PolicyEntry> {
        let host = |n| if n % 2 == 0 { "*.x" } else { "a.x" };
        (1..=count).map(|n| entry(&format!("{} {}", host(n), 8000 + n))).collect()
    };
    assert_eq!(compile(&rules(&named(8), &[], &[80])).unwrap().rules.len(), 3);
    let message = compile(&rules(&named(9), &[], &[80])).unwrap_err().to_string();
    for part in ["9 ports to intercept for a.x;", "policy.ports"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // One set of rules for both kinds.
    let different = |count: u16| -> Vec<PolicyEntry> {
        (0..count).map(|n| entry(&format!("n{n:04}.x {}", 10_000 + n))).collect()
    };
    let most = MAX_PORT_RULES as u16 - 1;
    let (mut fits, mut one_more) = (different(most), different(most));
    fits.push(entry("203.0.113.7/32 10000"));
    one_more.push(entry("203.0.113.7/32 9999"));
    assert_eq!(compile(&rules(&fits, &[], &[80])).unwrap().rules.len(), MAX_PORT_RULES as usize);
    let message = compile(&rules(&one_more, &[], &[80])).unwrap_err().to_string();
    assert!(message.contains("at the latest with n4094.x;") && message.contains("4095"), "{message}");
}

/// Names never make the rules of a policy without them grow.
#[test]
fn blocked_ports_are_kept_only_where_something_may_ask() {
    let block = entries(&["198.51.100.0/24 80", "192.0.2.0/24 8443"]);
    let count = |allow: &[&str]| compile(&rules(&entries(allow), &block, &[80])).unwrap().rules.len();
    assert_eq!(count(&["203.0.113.0/24"]), 1);
    assert_eq!(count(&["203.0.113.0/24", "a.x"]), 2);
    assert_eq!(count(&["a.x 8443"]), 4, "two that are blocked, and what the name adds");
}

/// Names that nest: few labels.
fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&["a", "b", "c"][..]), 1..5)
        .prop_map(|labels| labels.join("."))
}

fn host() -> impl Strategy<Value = Host> {
    let pattern = (name(), any::<bool>()).prop_map(|(name, below)| {
        Host::Name(format!("{}{name}", if below { "*." } else { "" }).parse().unwrap())
    });
    prop_oneof![3 => pattern, 1 => net().prop_map(Host::Net)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn names_and_addresses_together_say_what_the_contract_says(
        allow in prop_oneof![1 => Just(Vec::new()), 3 => listed(host(), 25)],
        block in listed(host(), 15),
        gateway in gateways(),
        ports in proptest::sample::subsequence(&PORTS[..], 0..5),
        tls_direct: bool,
        names in proptest::collection::vec(name(), 24),
        others in proptest::collection::vec((net(), 0..3_usize), 40),
    ) {
        let rules = Rules {
            allow: &allow, block: &block, ports: &ports, tls_direct, internal: &[], gateway: &gateway,
        };
        let tables = match compile(&rules) {
            Ok(tables) => tables,
            Err(CompileError::PortsOfName { pattern, .. }) => {
                // A name that the pattern means and no more specific one does.
                let name = pattern.to_string().replace('*', "z");
                let meant = |host: &Host| matches!(host, Host::Name(p) if means(p, &name));
                prop_assert!(most_ports(&rules, meant, 0) > PORTS_PER_RULE);
                return Ok(());
            }
            Err(CompileError::PortsOfAddress { address, .. }) => {
                let meant = |host: &Host| matches!(host, Host::Net(net) if net.contains(&address));
                prop_assert!(most_ports(&rules, meant, gateway.len()) > PORTS_PER_RULE);
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        assert_tables_sound(&tables);
        for name in &names {
            let found = find(&tables.names, name).map_or(Answer::UNWANTED, |named| named.answer);
            prop_assert_eq!(found.entry(), counted_of_name(&rules, name), "{}", name);
            let linear = tables.names.iter().filter(|named| means(&named.pattern, name));
            let longest = linear.max_by_key(|named| named.pattern.key().0);
            prop_assert_eq!(longest.map_or(Answer::UNWANTED, |named| named.answer), found, "{}", name);
        }
        for ((net, count), at) in others.iter().zip(0..).filter(|((net, _), _)| !mapped(net.addr())) {
            let names: Vec<_> = names.iter().cycle().skip(at).take(*count).map(String::as_str).collect();
            for port in PORTS.into_iter().chain([9]) {
                let expected = contract(&rules, net.addr(), &names, port);
                let got = verdict(&tables, net.addr(), &names, port);
                prop_assert_eq!(got, expected, "{} {:?} {}", net, names, port);
            }
        }
    }
}

#[test]
fn a_hundred_thousand_names() {
    let text = |n: usize| match n % 4 {
        0 => format!("*.zone{}.example", n / 4),
        _ => format!("host{n}.zone{}.example", n / 40),
    };
    let mut allow: Vec<PolicyEntry> = (0..100_000).map(|n| entry(&text(n))).collect();
    let block = allow.split_off(90_000);
    let rules = rules(&allow, &block, &[80]);
    let tables = compile(&rules).unwrap();
    assert_tables_sound(&tables);
    assert_eq!(tables.names.len(), 100_000);
    let ip = "203.0.113.7".parse().unwrap();
    for n in (0..100_000).step_by(5_003) {
        for name in [text(n).replace('*', "a.b"), format!("none.{}", text(n).replace("*.", ""))] {
            let expected = contract(&rules, ip, &[&name], 80);
            assert_eq!(verdict(&tables, ip, &[&name], 80), expected, "{name}");
        }
    }
}
