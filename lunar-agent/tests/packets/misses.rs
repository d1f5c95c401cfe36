//! Answers of which not everything could be used: what is lost for names of the policy is counted, once for each answer.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use lunar_common::{names::MAX_LEARNED_PER_TARGET, time::KtimeNs};

use crate::{
    frames::Route,
    harness::{Counted, Taken, now},
    messages::{self, address, name},
    policy::Policy,
    scene::{ID, Scene},
};

const ANSWER: Counted = Counted { answers: 1, misses: 0, unasked: 0, malformed: 0, forgotten: 0 };
const MISS: Counted = Counted { misses: 1, ..ANSWER };

/// Wanted, blocked (its addresses might be redirected for another name's sake), and not in the policy.
const NAMES: [(&str, Option<&str>, Counted); 3] = [
    ("api.stripe.com", Some("api.stripe.com"), MISS),
    ("tracker.example", Some("tracker.example"), MISS),
    ("elsewhere.test", None, ANSWER),
];

fn nth(n: u32) -> IpAddr {
    Ipv4Addr::from(0xcb00_7100 + n).into()
}

fn answer(name: &Name, addresses: u32) -> Message {
    let mut reply = messages::reply(ID, name, RecordType::A);
    for n in 0..addresses {
        reply.add_answer(address(name, 60, nth(n)));
    }
    reply
}

/// The name is asked for and answered so; what that left.
fn after(scene: &mut Scene, asked: &Name, message: &[u8]) -> Taken {
    scene.asks(asked, RecordType::A);
    scene.gets_bytes(message);
    scene.kernel.take()
}

fn learned(taken: &Taken) -> Vec<IpAddr> {
    taken.addresses().into_iter().map(|(ip, _)| ip).collect()
}

fn first(count: u32) -> Vec<IpAddr> {
    (0..count).map(nth).collect()
}

#[test]
fn what_was_truncated_is_a_miss_unless_the_agent_knows_the_name() {
    for (text, pattern, counted) in NAMES {
        let mut scene = Scene::new(Route::v4());
        let asked = name(text);
        for addresses in [0, 2] {
            let mut message = answer(&asked, addresses);
            message.metadata.truncation = true;
            let taken = after(&mut scene, &asked, &message.to_vec().unwrap());
            assert_eq!(learned(&taken), first(if pattern.is_some() { addresses } else { 0 }), "{text}");
            assert_eq!(taken.counted, counted, "{text}, {addresses} addresses");
        }
        if let Some(pattern) = pattern {
            scene.kernel.set_known(scene.policy.id(pattern));
            let mut message = answer(&asked, 2);
            message.metadata.truncation = true;
            let taken = after(&mut scene, &asked, &message.to_vec().unwrap());
            assert_eq!((learned(&taken), taken.counted), (first(2), ANSWER), "{text}, which the agent knows");
        }
    }
}

#[test]
fn more_than_64_records_are_a_miss_and_the_first_are_kept() {
    for (text, pattern, counted) in NAMES {
        let mut scene = Scene::new(Route::v4());
        let asked = name(text);
        for (addresses, kept, counted) in
            [(63, 63, ANSWER), (64, 64, ANSWER), (65, 64, counted), (90, 64, counted)]
        {
            let message = answer(&asked, addresses).to_vec().unwrap();
            let taken = after(&mut scene, &asked, &message);
            assert_eq!(
                learned(&taken),
                first(if pattern.is_some() { kept } else { 0 }),
                "{text} {addresses}"
            );
            assert_eq!(taken.counted, counted, "{text} {addresses}");
        }
        // That the agent knows the name is no comfort: its answer may have been cut like this one.
        if let Some(pattern) = pattern {
            scene.kernel.set_known(scene.policy.id(pattern));
            let message = answer(&asked, 65).to_vec().unwrap();
            assert_eq!(after(&mut scene, &asked, &message).counted, counted, "{text}");
        }
    }
}

#[test]
fn a_record_that_is_cut_off_or_unsound_is_a_miss_and_those_before_it_are_kept() {
    for (text, pattern, counted) in NAMES {
        let mut scene = Scene::new(Route::v4());
        let asked = name(text);
        let whole = answer(&asked, 3).to_vec().unwrap();
        let one = (whole.len() - answer(&asked, 0).to_vec().unwrap().len()) / 3;
        let kept = |count| first(if pattern.is_some() { count } else { 0 });
        for cut in 1..=one {
            let taken = after(&mut scene, &asked, &whole[..whole.len() - cut]);
            assert_eq!((learned(&taken), taken.counted), (kept(2), counted), "{text}, {cut} bytes cut off");
        }
        // In the last record: its name's first byte, and the length of its data.
        let (label, length) = (whole.len() - one, whole.len() - 5);
        for (what, at, value) in [
            ("label of an unknown kind", label, 0x80),
            ("short data", length, 3),
            ("long data", length, 5),
            ("far", length - 1, 1),
        ] {
            let mut message = whole.clone();
            message[at] = value;
            let taken = after(&mut scene, &asked, &message);
            assert_eq!((learned(&taken), taken.counted), (kept(2), counted), "{text}, {what}");
        }
        // More records than there are.
        let mut message = whole.clone();
        message[7] = 4;
        let taken = after(&mut scene, &asked, &message);
        assert_eq!((learned(&taken), taken.counted), (kept(3), counted), "{text}, a fourth is promised");
    }
}

#[test]
fn an_answer_without_addresses_is_no_miss() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name("api.stripe.com");
    let message = answer(&stripe, 0).to_vec().unwrap();
    after(&mut scene, &stripe, &message).assert_nothing_but(ANSWER, "empty");
}

#[test]
fn a_fifth_pattern_of_an_address_is_a_miss() {
    let mut scene = Scene::new(Route::v4());
    let names = ["one.example", "two.example", "three.example", "four.example"];
    for text in names {
        scene.resolves(&name(text), &["203.0.113.9"]);
    }
    scene.resolves(&name("five.example"), &["203.0.113.9", "203.0.113.10"]);
    // Another name of one of the four is none.
    scene.resolves(&name("one.example"), &["203.0.113.9"]);
    let taken = scene.kernel.take();
    let five = vec![scene.policy.id("five.example")];
    let expected: [(IpAddr, _); 2] =
        [("203.0.113.9".parse().unwrap(), ids(&scene, &names)), ("203.0.113.10".parse().unwrap(), five)];
    assert_eq!(taken.addresses(), expected);
    assert_eq!(taken.counted, Counted { answers: 6, misses: 1, ..Counted::default() });
}

fn ids(scene: &Scene, names: &[&str]) -> Vec<u32> {
    let mut ids: Vec<_> = names.iter().map(|text| scene.policy.id(text)).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_blocked_name_takes_the_place_of_one_that_is_not() {
    let mut scene = Scene::new(Route::v4());
    let address: IpAddr = "203.0.113.9".parse().unwrap();
    for text in ["one.example", "two.example", "three.example", "four.example", "tracker.example"] {
        scene.resolves(&name(text), &["203.0.113.9"]);
    }
    let taken = scene.kernel.take();
    let left = ids(&scene, &["two.example", "three.example", "four.example", "tracker.example"]);
    assert_eq!(taken.addresses(), [(address, left)]);
    assert_eq!(taken.named.len(), 4, "the name of the one that gave way went with it");
    assert_eq!(taken.counted, Counted { answers: 5, misses: 1, ..Counted::default() }, "as a miss");
    // Where all four block, the last of which took a place, there is nothing to win, and the fifth is a miss too.
    let mut blocking = Scene::with(
        Route::v4(),
        Policy::new(&["one.example"], &["a.example", "b.example", "c.example", "d.example", "e.example"]),
    );
    for text in ["one.example", "a.example", "b.example", "c.example", "d.example", "e.example"] {
        blocking.resolves(&name(text), &["203.0.113.9"]);
    }
    let taken = blocking.kernel.take();
    assert_eq!(
        taken.addresses(),
        [(address, ids(&blocking, &["a.example", "b.example", "c.example", "d.example"]))]
    );
    assert_eq!(taken.counted, Counted { answers: 6, misses: 2, ..Counted::default() });
}

#[test]
fn what_asks_for_no_addresses_is_no_miss_and_teaches_none() {
    let mut scene = Scene::new(Route::v4());
    let stripe = name("api.stripe.com");
    for kind in [RecordType::TXT, RecordType::HTTPS, RecordType::CNAME, RecordType::SRV] {
        let mut reply = messages::reply(ID, &stripe, kind);
        reply.add_answer(address(&stripe, 60, nth(1)));
        reply.metadata.truncation = true;
        scene.asks(&stripe, kind);
        scene.gets(&reply);
        scene.kernel.take().assert_nothing_but(ANSWER, &kind.to_string());
    }
    let mut reply = messages::reply(ID, &stripe, RecordType::ANY);
    reply.add_answer(address(&stripe, 60, nth(1)));
    scene.asks(&stripe, RecordType::ANY);
    scene.gets(&reply);
    assert_eq!(learned(&scene.kernel.take()), first(2)[1..]);
}

#[test]
fn an_address_that_leads_nowhere_else_is_blocked_but_not_wanted() {
    let mut scene = Scene::new(Route::v4());
    for (text, kept) in [("api.stripe.com", 0), ("tracker.example", 1)] {
        scene.resolves(&name(text), &["169.254.169.254"]);
        let taken = scene.kernel.take();
        assert_eq!((taken.learned.len(), taken.counted), (kept, ANSWER), "{text}");
    }
}

#[test]
fn an_address_beyond_a_targets_limit_is_a_miss() {
    for (text, pattern, counted) in NAMES {
        let mut scene = Scene::new(Route::v4());
        let asked = name(text);
        scene.kernel.set_count(MAX_LEARNED_PER_TARGET - 2);
        let taken = after(&mut scene, &asked, &answer(&asked, 5).to_vec().unwrap());
        let room = if pattern.is_some() { 2 } else { 0 };
        assert_eq!((learned(&taken), taken.counted), (first(room), counted), "{text}");
        assert_eq!(taken.known, MAX_LEARNED_PER_TARGET - 2 + u64::from(room), "{text}");
    }
    // What is known already stays known, and is renewed.
    let mut scene = Scene::new(Route::v4());
    let stripe = name("api.stripe.com");
    scene.resolves(&stripe, &["203.0.113.9"]);
    scene.kernel.set_count(MAX_LEARNED_PER_TARGET);
    scene.resolves(&stripe, &["203.0.113.9"]);
    scene.resolves(&name("one.example"), &["203.0.113.9"]);
    let taken = scene.kernel.take();
    assert_eq!(taken.places("203.0.113.9").len(), 2);
    assert_eq!(taken.counted, Counted { answers: 3, ..Counted::default() });
}

#[test]
fn connects_made_before_the_answer_are_misses_if_the_address_is_wanted() {
    const MINUTE: u64 = 60_000_000_000;
    let mut scene = Scene::new(Route::v4());
    // What was answered, how long ago the connects were, and how many misses they are.
    for (text, ago, misses) in [
        ("api.stripe.com", 0, 3),
        ("api.stripe.com", MINUTE / 2, 3),
        ("api.stripe.com", 2 * MINUTE, 0),
        ("tracker.example", 0, 0),
        ("elsewhere.test", 0, 0),
    ] {
        let at = KtimeNs(now().0 - ago);
        let noted: IpAddr = "203.0.113.9".parse().unwrap();
        scene.kernel.note_missed(noted.into(), 3, at);
        // Of another address nothing was noted; the second answer tells nothing new.
        scene.resolves(&name(text), &["203.0.113.10"]);
        assert_eq!(scene.kernel.take().counted.misses, 0, "{text}");
        for _ in 0..2 {
            scene.resolves(&name(text), &["203.0.113.9"]);
        }
        assert_eq!(scene.kernel.take().counted.misses, misses, "{text}, {ago} ns ago");
        // They are counted once, also if the address is forgotten and learned again.
        scene.resolves(&name(text), &["203.0.113.9"]);
        assert_eq!(scene.kernel.take().counted.misses, 0, "{text}");
    }
}
