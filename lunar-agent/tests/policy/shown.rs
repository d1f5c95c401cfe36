//! What is shown of the policy, and of what is not in effect.

use std::net::Ipv4Addr;

use lunar_common::{
    abi::maps,
    names::{LearnedKey, Named, NamedKey, PLACES, Place},
    net::Address,
    time::KtimeNs,
};
use nix::time::{ClockId, clock_gettime};

use super::{NAMED, entry, look_up, show, with_policy};
use crate::{
    raw::RawMap,
    world::{eventually, target},
};

/// The agent resolves exact names itself: an application that has known the address for long is redirected.
#[test]
fn an_exact_name_is_known_without_any_question_of_the_target() {
    let (scene, _running, _agent) =
        with_policy("exact", "allow = [\"api.example\", \"203.0.113.0/24:8443\"]");
    eventually("the agent resolves the name", || entry(&show(&scene), NAMED)["known"] == 1);
    scene.connects(&scene.world.app, 25);
    assert_eq!(scene.world.verdict("redirected"), 25);
    let view = show(&scene);
    assert_eq!((&view["wants"], &view["count"]), (&"listed".into(), &2.into()));
    let shown = entry(&view, NAMED);
    assert_eq!(shown["list"], "allow");
    assert!(shown["source"].as_str().unwrap().contains("agent.toml:"), "{shown:#}");
    let known = &shown["addresses"][0];
    assert_eq!(
        (&known["address"], &known["name"], &known["from"]),
        (&"203.0.113.10".into(), &NAMED.into(), &"agent".into())
    );
    assert!(shown["resolution"]["answered_ms"].is_u64() && shown["resolution"]["failure"].is_null());
    // Both entries want the address. Those of addresses are asked before those of names, so that one has the hits.
    let hits = |text: &str| entry(&view, text)["hits"].as_u64().unwrap();
    assert_eq!((hits("203.0.113.0/24:8443"), hits(NAMED)), (25, 0), "{view:#}");
    let (code, table) = scene.said(&["policy", "show", "API"]);
    assert!(code == 0 && table.contains("203.0.113.10") && !table.contains("8443"), "{table}");
}

/// Connects that were made before the agent found out what they meant are counted, not hidden.
#[test]
fn a_connect_before_its_address_was_known_is_a_miss() {
    let (scene, _running, _agent) = with_policy("missed", "allow = [\"*.example\"]");
    scene.connects(&scene.world.app, 7);
    assert_eq!(scene.world.verdict("policy"), 7);
    let misses = || target(&scene.world.status(), "app")["dns"]["miss"].as_u64().unwrap();
    assert_eq!(misses(), 0);
    // By the target's own question, which comes late.
    look_up(&scene, NAMED);
    assert_eq!(misses(), 7);
    // And by the agent's.
    let to = "203.0.113.12:80";
    let _other = scene.world.providers(&[to]);
    let result = scene.world.client(&["connects", "--to", to, "--count", "3"]);
    assert_eq!(result["ok"], 3, "{result}");
    assert_eq!(scene.said(&["policy", "allow", "other.example"]).0, 0);
    eventually("the agent finds out", || misses() == 10);
    let result = scene.world.client(&["connects", "--to", to, "--count", "3"]);
    assert_eq!(result["ok"], 3, "{result}");
    assert_eq!((misses(), scene.world.verdict("redirected")), (10, 3));
}

/// A name that cannot be resolved is a problem of the policy and not of the gateway.
#[test]
fn a_name_without_an_address_is_a_problem_of_the_policy() {
    let policy = "allow = [\"nobody.example\", \"api.example\"]\nmin_ttl = \"1s\"";
    let (scene, [mut dns], _agent) = with_policy("unresolved", policy);
    eventually("one name is resolved and the other is not", || {
        let shown = show(&scene);
        entry(&shown, NAMED)["known"] == 1
            && entry(&shown, "nobody.example")["resolution"]["failure"].is_string()
    });
    let status = scene.world.status();
    let problem = status["policy"]["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("nobody.example cannot be resolved: "), "{status:#}");
    assert_eq!(status["gateway"]["problems"], serde_json::json!([]));
    let text = scene.said(&["status"]).1;
    assert!(text.contains(&format!("warning  policy: {problem}")), "{text}");

    // When the server dies, the name that had an address keeps it, and both places say so.
    dns.kill().unwrap();
    let note = |name: &str| -> String {
        let table = scene.said(&["policy", "show", name]).1;
        table.lines().find(|line| line.contains("not resolved, ")).unwrap_or_default().to_owned()
    };
    eventually("the name is looked up again", || !note(NAMED).is_empty());
    assert!(note(NAMED).ends_with("; using the addresses of before"), "{}", note(NAMED));
    assert!(!note("nobody").contains("of before"), "{}", note("nobody"));
    scene.connects(&scene.world.app, 3);
    assert_eq!(scene.world.verdict("redirected"), 3);
}

/// The wire form of the longest name below `example`, of letters that take two bytes each in JSON.
fn longest_name() -> Vec<u8> {
    let labels = [63, 63, 63, 53].map(|length| [vec![length], vec![b'"'; length.into()]].concat());
    [&labels.concat()[..], b"\x07example\0"].concat()
}

/// A container with a DNS server of its own chooses the names that it learns, and how many. That may keep nobody from
/// seeing the policy, nor push out what others know.
#[test]
fn what_one_target_learns_leaves_the_list_readable() {
    const FLOOD: u32 = 10_000;
    let (scene, _running, agent) = with_policy("flood", "allow = [\"*.example\", \"api.example\"]");
    eventually("the agent resolves the name", || entry(&show(&scene), NAMED)["known"] == 1);
    let known = RawMap::open(&agent.pinned("maps").join(maps::LEARNED), PLACES * 8, 1).unwrap();
    let named = RawMap::open(&agent.pinned("maps").join(maps::NAMED), size_of::<Named>(), 1).unwrap();
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    let in_an_hour = KtimeNs((now.tv_sec() as u64 + 3600) * 1_000_000_000);
    // Patterns are numbered in the order of their texts.
    let pattern = 1_u32;
    let mut place = Place::new(pattern, in_an_hour).0.to_ne_bytes().to_vec();
    place.resize(known.value_size, 0);
    let wire = longest_name();
    let mut name = [&[0; 8][..], &(wire.len() as u32).to_ne_bytes(), &[0; 4], &wire].concat();
    name.resize(named.value_size, 0);
    for n in 0..FLOOD {
        let address = Address::from(std::net::IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        let key = [&scene.world.app.id().to_ne_bytes()[..], &address.octets()].concat();
        assert_eq!(key.len(), size_of::<LearnedKey>());
        known.write(&key, &place).unwrap();
        let key = [&key[..], &pattern.to_ne_bytes(), &[0; 4]].concat();
        assert_eq!(key.len(), size_of::<NamedKey>());
        named.write(&key, &name).unwrap();
    }

    let view = show(&scene);
    let flooded = entry(&view, "*.example");
    let listed = flooded["addresses"].as_array().unwrap();
    assert_eq!(flooded["known"], FLOOD);
    assert!((1_000..9_000).contains(&listed.len()), "{}", listed.len());
    let name = listed[0]["name"].as_str().unwrap();
    assert!(name.len() == 253 && name.starts_with("\"\"") && listed[0]["from"] == "app", "{name}");
    assert_eq!(entry(&view, NAMED)["addresses"][0]["address"], "203.0.113.10");
    let (code, table) = scene.said(&["policy", "show"]);
    assert!(code == 0 && table.contains("and 9992 more of *.example\n"), "{table}");
}
