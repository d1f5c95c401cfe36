//! Valid answers, one kind at a time.

use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};

use crate::{
    frames::Route,
    harness::{Counted, Taken, Trial},
    messages::{self, address, alias, name},
    model::place_at,
    scene::{ID, Scene},
};

const STRIPE: &str = "api.stripe.com";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One answer was read, nothing else happened, and these addresses are known by this pattern.
fn assert_learned(scene: &mut Scene, pattern: &str, addresses: &[&str], what: &str) -> Taken {
    let taken = scene.kernel.take();
    let id = scene.policy.id(pattern);
    let mut expected: Vec<_> = addresses.iter().map(|text| (ip(text), vec![id])).collect();
    expected.sort();
    assert_eq!(taken.addresses(), expected, "{what}");
    assert_eq!(taken.counted, Counted { answers: 1, ..Counted::default() }, "{what}");
    assert_eq!(taken.known, addresses.len() as u64, "{what}");
    taken
}

fn reply(name: &Name) -> Message {
    messages::reply(ID, name, RecordType::A)
}

#[test]
fn addresses_of_both_families_are_learned_over_both_and_behind_ip_options() {
    let mut scene = Scene::new(Route::v6());
    for route in
        [0, 1, 4, 10].map(|options| Route { options, ..Route::v4() }).into_iter().chain([Route::v6()])
    {
        scene.anew(route);
        let all = ["203.0.113.9", "203.0.113.10", "2001:db8::9"];
        scene.resolves(&name(STRIPE), &all);
        assert_learned(&mut scene, STRIPE, &all, &format!("{route:?}"));
    }
}

#[test]
fn the_answer_behind_aliases_is_the_names() {
    let mut scene = Scene::new(Route::v4());
    let (asked, edge, last) = (name("Chat.openai.com"), name("edge.cdn.example"), name("tracker.example"));
    let mut reply = messages::reply(ID, &asked, RecordType::A);
    reply.add_answer(alias(&asked, 300, &edge));
    reply.add_answer(alias(&edge, 300, &last));
    reply.add_answer(address(&last, 20, ip("203.0.113.1")));
    reply.add_answer(address(&last, 20, ip("203.0.113.2")));
    scene.asks(&asked, RecordType::A);
    scene.gets(&reply);
    assert_learned(&mut scene, "*.openai.com", &["203.0.113.1", "203.0.113.2"], "aliases");
}

#[test]
fn case_does_not_matter_and_the_name_is_kept_as_it_was_written() {
    let mut scene = Scene::new(Route::v4());
    scene.asks(&name("aPI.strIPe.Com"), RecordType::A);
    let mut reply = reply(&name("ApI.STRipe.cOM"));
    reply.add_answer(address(&name(STRIPE), 60, ip("203.0.113.9")));
    scene.gets(&reply);
    let taken = assert_learned(&mut scene, STRIPE, &["203.0.113.9"], "0x20");
    let [(key, named)] = &taken.named[..] else { panic!("{} names", taken.named.len()) };
    assert_eq!((key.address, key.pattern), (ip("203.0.113.9").into(), scene.policy.id(STRIPE)));
    assert_eq!(&named.wire[..named.length as usize], b"\x03ApI\x06STRipe\x03cOM\0");
}

#[test]
fn edns_on_both_sides_changes_nothing() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name(STRIPE);
    let mut question = messages::question(ID, &stripe, RecordType::A);
    question.set_edns(messages::edns());
    scene.kernel.send(&scene.route.out(&question.to_vec().unwrap()));
    let mut reply = reply(&stripe);
    reply.add_answer(address(&stripe, 60, ip("203.0.113.9")));
    reply.set_edns(messages::edns());
    scene.gets(&reply);
    assert_learned(&mut scene, STRIPE, &["203.0.113.9"], "EDNS");
}

#[test]
fn names_of_records_may_be_compressed_in_any_way() {
    let record = |name: &[u8], last: u8| [name, b"\0\x01\0\x01\0\0\0\x3c\0\x04\xcb\0\x71", &[last]].concat();
    let head = reply(&name(STRIPE)).to_vec().unwrap();
    let mut scene = Scene::new(Route::v4());
    for (what, names) in [
        ("pointers to the question", [&b"\xc0\x0c"[..], b"\xc0\x0c"]),
        ("a label, then a pointer into the question", [b"\x01x\xc0\x10", b"\xc0\x17"]),
        ("written out", [b"\x03api\x06stripe\x03com\0", b"\x03API\x06stripe\x03com\0"]),
        ("the root", [b"\0", b"\0"]),
        ("a pointer to a pointer", [b"\xc0\x0c", b"\xc0\x20"]),
    ] {
        scene.asks(&name(STRIPE), RecordType::A);
        let mut message = [&head[..], &record(names[0], 1), &record(names[1], 2)].concat();
        message[7] = 2;
        scene.gets_bytes(&message);
        assert_learned(&mut scene, STRIPE, &["203.0.113.1", "203.0.113.2"], what);
    }
}

#[test]
fn the_longest_names_are_matched() {
    let mut scene = Scene::new(Route::v6());
    let longest = messages::longest("openai.com");
    let mixed = messages::mixed_case(&mut Rng::with_seed(1), &longest);
    scene.resolves(&name(&mixed), &["203.0.113.9"]);
    let taken = assert_learned(&mut scene, "*.openai.com", &["203.0.113.9"], "255 bytes");
    assert_eq!(taken.named[0].1.length, 255);
}

#[test]
fn the_most_specific_entry_decides_and_a_suffix_does_not_mean_itself() {
    let mut scene = Scene::new(Route::v4());
    for (asked, pattern) in [
        ("x.openai.com", Some("*.openai.com")),
        ("a.b.openai.com", Some("*.openai.com")),
        ("x.ads.openai.com", Some("*.ads.openai.com")),
        ("ads.openai.com", Some("*.openai.com")),
        ("x.deep.ads.openai.com", Some("*.deep.ads.openai.com")),
        ("internal.corp", Some("internal.corp")),
        ("openai.com", None),
        ("xopenai.com", None),
        ("x.api.stripe.com", None),
        ("stripe.com", None),
        ("elsewhere.test", None),
    ] {
        scene.resolves(&name(asked), &["203.0.113.9"]);
        let known: &[&str] = if pattern.is_some() { &["203.0.113.9"] } else { &[] };
        assert_learned(&mut scene, pattern.unwrap_or(STRIPE), known, asked);
    }
}

#[test]
fn a_label_with_a_dot_is_no_other_name() {
    let mut scene = Scene::new(Route::v4());
    for labels in [&[&b"api.stripe"[..], b"com"][..], &[b"x.openai", b"com"], &[b"\0", b"openai", b"com"]] {
        let imitation = Name::from_labels(labels.iter().copied()).unwrap();
        scene.resolves(&imitation, &["203.0.113.9"]);
        assert_learned(&mut scene, STRIPE, &[], &format!("{labels:?}"));
    }
}

#[test]
fn what_other_sections_say_is_not_learned() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name(STRIPE);
    let mut reply = reply(&stripe);
    reply.add_answer(address(&stripe, 60, ip("203.0.113.1")));
    reply.add_authority(address(&stripe, 60, ip("203.0.113.2")));
    reply.add_additional(address(&stripe, 60, ip("203.0.113.3")));
    scene.asks(&stripe, RecordType::A);
    scene.gets(&reply);
    assert_learned(&mut scene, STRIPE, &["203.0.113.1"], "sections");
}

#[test]
fn an_address_is_known_for_its_ttl_or_the_least_and_the_grace() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name(STRIPE);
    // As RFC 2181 section 8 and the configuration say, in seconds.
    let cases = [
        (0, 30),
        (29, 30),
        (30, 30),
        (31, 31),
        (3_600, 3_600),
        (86_400, 86_400),
        (86_401, 86_400),
        (i32::MAX as u32, 86_400),
        (1 << 31, 30),
        (u32::MAX, 30),
    ];
    for (ttl, seconds) in cases {
        let mut reply = reply(&stripe);
        reply.add_answer(address(&stripe, ttl, ip("203.0.113.9")));
        scene.asks(&stripe, RecordType::A);
        let (before, after) = scene.gets(&reply);
        let taken = assert_learned(&mut scene, STRIPE, &["203.0.113.9"], &ttl.to_string());
        let [place] = taken.places("203.0.113.9")[..] else { panic!("{ttl}") };
        let place_at = |now| place_at(place.pattern(), now, seconds).0;
        assert!((place_at(before)..=place_at(after)).contains(&place.0), "{ttl}");
    }
    // The longer time stays, whichever comes first.
    for ttls in [[3_600, 60], [60, 3_600]] {
        let mut when = None;
        for ttl in ttls {
            let mut reply = reply(&stripe);
            reply.add_answer(address(&stripe, ttl, ip("203.0.113.9")));
            scene.asks(&stripe, RecordType::A);
            let at = scene.gets(&reply);
            if ttl == 3_600 {
                when = Some(at);
            }
        }
        let place = scene.kernel.take().places("203.0.113.9")[0];
        let place_at = |now| place_at(place.pattern(), now, 3_600).0;
        let (before, after) = when.unwrap();
        assert!((place_at(before)..=place_at(after)).contains(&place.0), "{ttls:?}");
    }
}

#[test]
fn an_address_of_two_names_is_known_by_both() {
    let mut scene = Scene::new(Route::v4());
    scene.resolves(&name(STRIPE), &["203.0.113.9"]);
    scene.resolves(&name("tracker.example"), &["203.0.113.9", "203.0.113.10"]);
    let taken = scene.kernel.take();
    let mut both = vec![scene.policy.id(STRIPE), scene.policy.id("tracker.example")];
    both.sort_unstable();
    let blocked = vec![scene.policy.id("tracker.example")];
    assert_eq!(taken.addresses(), [(ip("203.0.113.9"), both), (ip("203.0.113.10"), blocked)]);
    assert_eq!((taken.named.len(), taken.known), (3, 2));
    assert_eq!(taken.counted, Counted { answers: 2, ..Counted::default() });
}

#[test]
fn two_questions_at_a_time_are_answered_in_either_order() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name(STRIPE);
    scene.asks(&stripe, RecordType::A);
    scene.asks(&stripe, RecordType::AAAA);
    for (kind, text) in [(RecordType::AAAA, "2001:db8::9"), (RecordType::A, "203.0.113.9")] {
        let mut reply = messages::reply(ID, &stripe, kind);
        reply.add_answer(address(&stripe, 60, ip(text)));
        scene.gets(&reply);
    }
    let taken = scene.kernel.take();
    assert_eq!(taken.learned.len(), 2);
    assert_eq!(taken.counted, Counted { answers: 2, ..Counted::default() });
}

#[test]
fn the_answer_of_the_server_that_got_the_question_counts_too() {
    // A service's address that a packet filter turned into one of its servers'.
    let asked: std::net::SocketAddr = "10.96.0.10:53".parse().unwrap();
    let mut scene = Scene::new(Route::v4());
    let stripe = name(STRIPE);
    for (server, learns) in
        [(asked, true), (scene.route.server, true), ("10.0.0.54:53".parse().unwrap(), false)]
    {
        // The socket knows the service's address, the packet has the server's.
        scene.kernel.set_trial(&Trial::of(asked));
        scene.asks(&stripe, RecordType::A);
        let mut reply = reply(&stripe);
        reply.add_answer(address(&stripe, 60, Ipv4Addr::new(203, 0, 113, 9).into()));
        scene.kernel.receive(&Route::to(server).back(&reply.to_vec().unwrap()));
        assert_eq!(scene.kernel.take().learned.len(), usize::from(learns), "{server}");
        // It waited for one answer, from whichever of the two.
        let waits = scene.kernel.trial().resolver.asked.iter().filter(|asked| asked.tag != 0).count();
        assert_eq!(waits, if learns { 0 } else { 2 }, "{server}");
    }
}

#[test]
fn a_socket_whose_questions_go_elsewhere_forgets_none() {
    let asked: std::net::SocketAddr = "10.96.0.10:53".parse().unwrap();
    let mut scene = Scene::new(Route::v4());
    scene.kernel.set_trial(&Trial::of(asked));
    let stripe = name(STRIPE);
    for _ in 0..1_000 {
        scene.resolves(&stripe, &["203.0.113.9"]);
    }
    let counted = scene.kernel.take().counted;
    assert_eq!(counted, Counted { answers: 1_000, ..Counted::default() });
}
