//! Each reason, and the policy against its contract read entry by entry.

use super::*;
use crate::{
    policy::{self, PolicyEntry, internal::INTERNAL},
    relay::http::head::{Limits, read_request},
};
use proptest::prelude::*;

fn entries(texts: &[&str]) -> Vec<PolicyEntry> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules<'a>(allow: &'a [PolicyEntry], block: &'a [PolicyEntry]) -> Rules<'a> {
    Rules { allow, block, ports: &[80, 443], tls_direct: false, internal: &[], gateway: &[] }
}

fn policy(allow: &[&str], block: &[&str]) -> NamePolicy {
    NamePolicy::new(&rules(&entries(allow), &entries(block))).unwrap()
}

fn head(host: &str, lines: &str) -> RequestHead {
    let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
    read_request(text.as_bytes(), Limits { bytes: 1000, headers: 10 }).unwrap().unwrap()
}

#[test]
fn each_reason() {
    use Gateway::{Cooldown, Forced, LeaseStale, Usable};
    let policy = policy(&["*.example"], &["blocked.example"]);
    let (yes, no) = ("x-lunar-allow: true\r\n", "x-lunar-allow: no\r\n");
    for (host, lines, gateway, expected) in [
        ("a.example", "", Usable, Route::Gateway),
        ("A.Example.:80", "", Usable, Route::Gateway),
        ("a.example", yes, Usable, Route::Gateway),
        ("a.example", no, Usable, Route::Direct(Reason::Header)),
        ("stranger.test", "", Usable, Route::Splice(Reason::Policy)),
        ("stranger.test", yes, Usable, Route::Gateway),
        ("stranger.test", no, Usable, Route::Direct(Reason::Header)),
        ("blocked.example", "", Usable, Route::Splice(Reason::Policy)),
        ("blocked.example", yes, Usable, Route::Gateway),
        ("203.0.113.7", "", Usable, Route::Splice(Reason::NoName)),
        ("[2001:db8::1]:80", "", Usable, Route::Splice(Reason::NoName)),
        ("203.0.113.7", yes, Usable, Route::Direct(Reason::NoName)),
        ("203.0.113.7", no, Usable, Route::Direct(Reason::NoName)),
        ("a.example", "", Forced, Route::Direct(Reason::Forced)),
        ("a.example", "", LeaseStale, Route::Direct(Reason::LeaseStale)),
        ("a.example", "", Cooldown, Route::Direct(Reason::Cooldown)),
        ("stranger.test", yes, Forced, Route::Direct(Reason::Forced)),
        ("stranger.test", "", Cooldown, Route::Splice(Reason::Policy)),
    ] {
        let original = "203.0.113.7:80".parse().unwrap();
        assert_eq!(
            route(&head(host, lines), original, &policy, gateway),
            expected,
            "{host} {lines:?} {gateway:?}"
        );
    }
    let why = NotUnderstood::TooLarge(9);
    assert_eq!(Route::from(why), Route::Splice(Reason::NotUnderstood(why)));
}

#[test]
fn the_name_has_the_last_word() {
    let named = policy(
        &["a.example", "*.b.example", "api.test:8443", "198.51.100.0/24"],
        &["no.b.example", "a.example:443", "198.51.100.9"],
    );
    let all = policy(&[], &["no.test", "*.never.test", "203.0.113.9", "partly.test:80"]);
    for (policy, name, original, expected) in [
        (&named, "a.example", "203.0.113.7:80", true),
        (&named, "a.example", "203.0.113.7:443", false),
        (&named, "x.a.example", "203.0.113.7:80", false),
        (&named, "x.y.b.example", "[2001:db8::7]:80", true),
        (&named, "b.example", "203.0.113.7:80", false),
        (&named, "no.b.example", "203.0.113.7:80", false),
        (&named, "api.test", "203.0.113.7:8443", true),
        (&named, "api.test", "203.0.113.7:80", true),
        (&named, "a.example", "203.0.113.7:8443", false),
        (&named, "api.test", "203.0.113.7:22", false),
        (&named, "anything.test", "198.51.100.7:80", true),
        (&named, "anything.test", "[::ffff:198.51.100.7]:80", true),
        (&named, "no.b.example", "198.51.100.7:80", false),
        (&named, "a.example", "198.51.100.9:80", false),
        (&named, "a.example", "10.0.0.1:80", true),
        (&all, "anything.test", "203.0.113.7:80", true),
        (&all, "anything.test", "[2001:db8::7]:443", true),
        (&all, "anything.test", "203.0.113.7:8080", false),
        (&all, "anything.test", "10.0.0.1:80", false),
        (&all, "anything.test", "203.0.113.9:80", false),
        (&all, "no.test", "203.0.113.7:80", false),
        (&all, "x.never.test", "203.0.113.7:80", false),
        (&all, "never.test", "203.0.113.7:80", true),
        (&all, "partly.test", "203.0.113.7:80", false),
        (&all, "partly.test", "203.0.113.7:443", true),
    ] {
        assert_eq!(policy.wants(name, original.parse().unwrap()), expected, "{name} at {original}");
    }
}

fn any_entries() -> impl Strategy<Value = Vec<PolicyEntry>> {
    let host = r"(\*\.)?([ab]\.){0,2}[ab]|203\.0\.113\.[0-3](/3[0-2])?|2001:db8::[0-3]|10\.0\.0\.0/8";
    let entry = (host, proptest::option::of(proptest::sample::select(&[80_u16, 443, 8443][..])));
    let entry = entry.prop_map(|(host, port)| PolicyEntry { port, ..host.parse().unwrap() });
    proptest::collection::vec(entry, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_policy_means_what_its_entries_say(
        allow in any_entries(),
        block in any_entries(),
        name in r"([ab]\.){0,3}[ab]",
        ip in proptest::sample::select(
            &["203.0.113.1", "203.0.113.2", "2001:db8::1", "10.0.0.1", "198.51.100.1"][..]
        ),
        port in proptest::sample::select(&[80_u16, 443, 8443, 8443, 8443, 22][..]),
    ) {
        let ip: IpAddr = ip.parse().unwrap();
        let meant = |entry: &&PolicyEntry| match &entry.host {
            policy::Host::Net(net) => net.contains(&ip),
            policy::Host::Name(pattern) => {
                let text = pattern.to_string();
                text.strip_prefix('*').map_or(name == text, |suffix| name.ends_with(suffix))
            }
        };
        let allowed: Vec<_> = allow.iter().filter(meant).collect();
        let external = !INTERNAL.iter().any(|net| net.contains(&ip));
        let wanted = if allow.is_empty() { external } else { !allowed.is_empty() };
        let intercepted = matches!(port, 80 | 443) || allowed.iter().any(|entry| entry.port == Some(port));
        let blocked = block.iter().filter(meant).any(|entry| entry.port.is_none_or(|p| p == port));
        let policy = NamePolicy::new(&rules(&allow, &block)).unwrap();
        let found = policy.wants(&name, (ip, port).into());
        let expected = wanted && intercepted && !blocked;
        prop_assert_eq!(found, expected, "{:?} {:?} {} {} {}", allow, block, name, ip, port);
    }
}
