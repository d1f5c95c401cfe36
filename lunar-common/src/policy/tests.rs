use super::*;
use proptest::prelude::*;

#[test]
fn port_classes_do_not_disturb_their_neighbours() {
    let mut word = 0;
    PortClass::Intercepted.enter(&mut word, 80);
    PortClass::TlsDirect.enter(&mut word, 81);
    PortClass::ByEntry.enter(&mut word, 82);
    PortClass::ByEntry.enter(&mut word, 80);
    assert_eq!(PortClass::of(word, 80), PortClass::ByEntry);
    assert_eq!(PortClass::of(word, 81), PortClass::TlsDirect);
    assert_eq!(PortClass::of(word, 82), PortClass::ByEntry);
    assert_eq!(PortClass::of(word, 83), PortClass::Ignored);
}

#[test]
fn the_parts_of_an_answer_do_not_disturb_each_other() {
    let all = Answer::new(true, 4095).by(COUNTED_ENTRIES - 1);
    assert_eq!((all.wanted(), all.blocked(), all.rule(), all.entry()), (true, false, 4095, 16_383));
    let blocked = all.block();
    assert_eq!((blocked.wanted(), blocked.blocked(), blocked.rule()), (false, true, 4095));
    assert_eq!(blocked.by(7).entry(), 7);
    assert_eq!(all.by(COUNTED_ENTRIES), Answer::new(true, 4095), "too great to be counted");
}

#[test]
fn port_zero_is_an_empty_place() {
    let rule = PortRule { extra: [8443, 0, 0, 0, 0, 0, 0, 0], blocked: [0; 8] };
    assert!(rule.adds(8443) && !rule.adds(0) && !rule.blocks(0) && !rule.adds(443));
}

proptest! {
    #[test]
    fn the_search_finds_the_last_boundary_not_after_the_key(
        mut starts in proptest::collection::btree_set(0_u32..500, 0..60),
        key in 0_u32..520,
    ) {
        starts.insert(0);
        let list: Vec<_> = starts.iter().map(|s| BoundaryV4 { start: *s, answer: *s + 1 }).collect();
        let bucket = Bucket { at: 0, count: list.len() as u32 };
        let expected = starts.iter().rev().find(|s| **s <= key).unwrap() + 1;
        prop_assert_eq!(search(V4(key), bucket, |i| list.get(i as usize).copied()), Answer(expected));
    }
}
