#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use super::*;

fn entries(texts: &[&str]) -> Vec<PolicyEntry> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(allow: &[&str], block: &[&str]) -> config::Policy {
    config::Policy {
        allow: entries(allow),
        block: entries(block),
        ports: vec![80],
        min_ttl: Duration::ZERO,
        dns_grace: Duration::ZERO,
        quic: config::Quic::Allow,
        dry_run: false,
    }
}

fn by_hand(allow: &[&str], block: &[&str]) -> ByHand {
    ByHand { allow: entries(allow), block: entries(block) }
}

/// What a change makes of a policy with these lists, or how it is refused.
fn change(
    (was, hand): (&config::Policy, &ByHand),
    how: Change,
    texts: &[&str],
) -> Result<(config::Policy, ByHand, Vec<String>), String> {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    changed(was, hand, how, &texts).map_err(|refusal| refusal.to_string())
}

#[test]
fn what_is_added_is_by_hand_and_at_the_end() {
    let (was, hand) = (policy(&["a.x"], &["b.x"]), by_hand(&[], &["b.x"]));
    let (now, hand_now, told) = change((&was, &hand), Change::Allow, &["C.x.", "10.0.0.1/8"]).unwrap();
    assert_eq!(now, policy(&["a.x", "c.x", "10.0.0.0/8"], &["b.x"]));
    assert_eq!(hand_now, by_hand(&["c.x", "10.0.0.0/8"], &["b.x"]));
    assert_eq!(told, ["allowed c.x", "allowed 10.0.0.0/8"]);
    let (now, hand_now, told) = change((&was, &hand), Change::Block, &["a.x:81"]).unwrap();
    assert_eq!((now, hand_now), (policy(&["a.x"], &["b.x", "a.x:81"]), by_hand(&[], &["b.x", "a.x:81"])));
    assert_eq!(told, ["blocked a.x:81"]);
}

#[test]
fn what_is_removed_is_in_no_list() {
    let (was, hand) = (policy(&["a.x", "b.x", "c.x"], &["b.x", "d.x"]), by_hand(&["c.x"], &["d.x"]));
    let (now, hand_now, told) = change((&was, &hand), Change::Remove, &["d.x", "b.x", "c.x"]).unwrap();
    assert_eq!((now, hand_now), (policy(&["a.x"], &[]), by_hand(&[], &[])));
    assert_eq!(told, ["removed d.x", "removed b.x", "removed c.x"]);
}

#[test]
fn a_change_that_is_refused_says_why() {
    let (was, hand) = (policy(&["a.x", "b.x"], &["c.x"]), by_hand(&["b.x"], &[]));
    let empty = policy(&[], &["c.x"]);
    for (was, how, texts, reason) in [
        (&was, Change::Allow, &["d.x", "b.x"][..], "b.x is in the list already"),
        (&was, Change::Block, &["d.x", "D.x"], "d.x is in the list already"),
        (&was, Change::Allow, &["d.x", "a..b"], "\"a..b\" has an empty label"),
        (&was, Change::Remove, &["c.x", "d.x"], "d.x is in neither list"),
        (&was, Change::Remove, &["c.x", "c.x"], "c.x is in neither list"),
        (&was, Change::Remove, &["b.x", "a.x"], "b.x is the last entry of the allow list"),
        (&empty, Change::Allow, &["d.x"], "the allow list is empty"),
    ] {
        let refused = change((was, &hand), how, texts).unwrap_err();
        assert!(refused.contains(reason), "{how:?} {texts:?}: {refused}");
    }
}

/// A reload keeps what is by hand, once, and an empty allow list stays empty: it wants everything.
#[test]
fn a_configuration_gets_what_was_added_by_hand() {
    let hand = by_hand(&["a.x", "b.x"], &["c.x", "d.x"]);
    let added = hand.added_to(policy(&["b.x", "e.x"], &["d.x"]));
    assert_eq!(added, policy(&["b.x", "e.x", "a.x"], &["d.x", "c.x"]));
    assert_eq!(hand.added_to(policy(&[], &[])), policy(&[], &["c.x", "d.x"]));
}

/// What an empty allow list keeps out of effect is said, can be forgotten, and then is not brought back.
#[test]
fn what_is_dormant_is_named_and_can_be_removed() {
    let (wants_all, hand) = (policy(&[], &[]), by_hand(&["a.x", "b.x"], &[]));
    let said = hand.dormant(&wants_all).unwrap();
    assert!(said.contains("not in effect: a.x, b.x. policy.allow is empty"), "{said}");
    assert_eq!(hand.dormant(&policy(&["c.x"], &[])), None);
    assert_eq!(by_hand(&[], &["c.x"]).dormant(&wants_all), None);

    let (now, hand, told) = change((&wants_all, &hand), Change::Remove, &["a.x"]).unwrap();
    assert_eq!((now, told), (wants_all, vec!["removed a.x".to_owned()]));
    assert_eq!(hand.added_to(policy(&["c.x"], &[])), policy(&["c.x", "b.x"], &[]));

    let many: Vec<String> = (0..10).map(|n| format!("n{n}.x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let said = by_hand(&many, &[]).dormant(&policy(&[], &[])).unwrap();
    assert!(said.contains("n7.x, and 2 more.") && !said.contains("n8.x"), "{said}");
}

/// In time that grows as the lists do: a comparison of each with each would be 700 million here, and cost the lease.
#[test]
fn a_long_batch_against_long_lists_comes_and_goes_whole() {
    let names = |count: usize, below: &str| -> Vec<String> {
        (0..count).map(|n| format!("some-host{n}.{below}")).collect()
    };
    let parsed =
        |texts: &[String]| -> Vec<PolicyEntry> { texts.iter().map(|t| t.parse().unwrap()).collect() };
    let was = config::Policy { allow: parsed(&names(90_000, "x")), ..policy(&[], &[]) };
    let batch = names(8_000, "y");
    let (now, hand, told) = changed(&was, &ByHand::default(), Change::Allow, &batch).unwrap();
    assert_eq!(hand.added_to(was.clone()), now);
    let (after, none, _) = changed(&now, &hand, Change::Remove, &batch).unwrap();
    assert_eq!((after, none), (was, ByHand::default()));
    assert_eq!(told, ["allowed 8000 entries"]);
}
