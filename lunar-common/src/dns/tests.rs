use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    question::{Tag, asks_for_addresses, tag},
    records::addresses,
    *,
};
use crate::net::{Address, Destination};

const KEY: [u64; 2] = [1, 2];

fn server(text: &str) -> Destination {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}

fn question(id: u16, flags: u16, name: &[u8], kind: u16) -> Vec<u8> {
    let mut message = [id, flags, 1, 0, 0, 1].map(u16::to_be_bytes).concat();
    message.extend_from_slice(name);
    message.extend([kind.to_be_bytes(), 1_u16.to_be_bytes()].concat());
    // What EDNS appends.
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    message
}

fn tag_of(message: &[u8], server: &Destination) -> Option<Tag> {
    let header = Header::read(message)?;
    tag(message, KEY, header.id, server).map(|(tag, _)| tag)
}

#[test]
fn a_header_says_what_the_message_is() {
    let header = |flags: u16, questions: u16| {
        Header::read([7, flags, questions, 3, 0, 0].map(u16::to_be_bytes).as_flattened()).unwrap()
    };
    assert!(header(0x0100, 1).asks() && !header(0x0100, 1).replies());
    assert!(header(0x8180, 1).replies() && !header(0x8180, 1).asks());
    assert!(!header(0x8180, 0).replies() && !header(0x8180, 2).replies());
    assert!(!header(0x0100, 0).asks() && !header(0x2800, 1).asks(), "an UPDATE is no question");
    assert!(!header(0xa800, 1).replies() && header(0xa800, 1).is_of_another_kind());
    assert!(!header(0x8180, 1).is_of_another_kind() && !header(0x0100, 1).is_of_another_kind());
    assert!(header(0x8380, 1).truncated() && !header(0x8180, 1).truncated());
    assert!(header(0x8180, 1).found() && !header(0x8183, 1).found());
    assert_eq!(header(0x8180, 1).answers, 3);
    assert_eq!(Header::read(&[0; 11][..]), None);
}

#[test]
fn the_same_question_has_the_same_tag_and_any_other_another() {
    let one = server("192.0.2.53:53");
    let asked = tag_of(&question(7, 0x0100, b"\x03api\x06stripe\x03com\0", 1), &one);
    assert!(asked.is_some());
    let answer = question(7, 0x8180, b"\x03ApI\x06sTRIPe\x03COM\0", 1);
    assert_eq!(tag_of(&answer, &one), asked, "whatever the case");
    for (what, message, server) in [
        ("id", question(8, 0x8180, b"\x03api\x06stripe\x03com\0", 1), one),
        ("name", question(7, 0x8180, b"\x03apj\x06stripe\x03com\0", 1), one),
        ("labels", question(7, 0x8180, b"\x0aapi.stripe\x03com\0", 1), one),
        ("type", question(7, 0x8180, b"\x03api\x06stripe\x03com\0", 28), one),
        ("server", question(7, 0x8180, b"\x03api\x06stripe\x03com\0", 1), server("192.0.2.54:53")),
        ("port", question(7, 0x8180, b"\x03api\x06stripe\x03com\0", 1), server("192.0.2.53:5353")),
    ] {
        let other = tag_of(&message, &server);
        assert!(other.is_some() && other != asked, "{what}");
    }
    // Types 65 and 97 are a capital and a small letter.
    let of_type = |kind| tag_of(&question(7, 0, b"\x01a\0", kind), &one);
    assert_ne!(of_type(65), of_type(97));
}

#[test]
fn names_that_may_not_be_asked_for_have_no_tag() {
    let one = server("192.0.2.53:53");
    let mut long: Vec<u8> = [63; 256].to_vec();
    long.push(0);
    for name in [&b"\x40"[..], b"\xc0\x0c", b"\x03ab", &long] {
        let message = [7_u16, 0, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
        let message = [&message, name, &[0, 1, 0, 1]].concat();
        assert_eq!(tag_of(&message, &one), None, "{name:?}");
    }
}

#[test]
fn the_root_and_other_classes_are_asked_about_too_but_not_for_addresses() {
    let one = server("192.0.2.53:53");
    let of = |tail: &[u8]| [[7_u16, 0, 1, 0, 0, 0].map(u16::to_be_bytes).as_flattened(), tail].concat();
    let asks = |message: &[u8], end| (tag_of(message, &one), asks_for_addresses(message, end));
    let a = asks(&of(b"\x01a\0\0\x01\0\x01"), 15);
    assert!(a.0.is_some() && a.1);
    for (what, tail, end) in [
        ("class", &b"\x01a\0\0\x01\0\x03"[..], 15),
        ("type", b"\x01a\0\0\x10\0\x01", 15),
        ("root's name servers", b"\0\0\x02\0\x01", 13),
    ] {
        let other = asks(&of(tail), end);
        assert!(other.0.is_some() && other.0 != a.0 && !other.1, "{what}");
    }
    assert!(
        asks(&of(b"\x01a\0\0\x1c\0\x01"), 15).1 && asks(&of(b"\x01a\0\0\xff\0\x01"), 15).1,
        "AAAA and ANY"
    );
    assert!(!asks(&of(b"\x01a\0\0\x01"), 15).1, "cut off");
}

#[test]
fn addresses_are_found_behind_aliases() {
    let mut answer = question(7, 0x8180, b"\x01a\0", 1);
    answer.truncate(12 + 3 + 4);
    let at = answer.len() as u32;
    answer.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0c");
    answer.extend_from_slice(b"\x01b\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xcb\0\x71\x09");
    answer.extend_from_slice(
        b"\x01b\0\0\x1c\0\x01\xff\0\0\x3c\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
    );
    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    let found = vec![(address("203.0.113.9"), 60), (address("2001:db8::1"), 0)];
    assert_eq!(addresses(&answer, at, 3), (found.clone(), true));
    assert_eq!(addresses(&answer, at, 2), (found[..1].to_vec(), true));
    assert_eq!(addresses(&answer, at, 4), (found.clone(), false), "one more is promised than there is");
    for cut in at as usize..answer.len() {
        assert!(!addresses(&answer[..cut], at, 3).1, "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_the_reader_panic(message: Vec<u8>, at in 0_u32..80, count in 0_u32..100) {
        let server = server("192.0.2.53:53");
        tag_of(&message, &server);
        addresses(&message, at, count);
        name::key(&message);
    }

    #[test]
    fn bytes_that_look_like_a_message_do_not_either(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let name: Vec<u8> = labels.iter().flat_map(|l| [&[l.len() as u8], &l[..]].concat()).collect();
        let message = [&question(1, 0x8180, &name, 1)[..], &tail].concat();
        let asked = tag_of(&message, &server("192.0.2.53:53"));
        // What follows the question has no part in it.
        let longer = [&message[..], b"more"].concat();
        if asked.is_some() {
            prop_assert_eq!(tag_of(&longer, &server("192.0.2.53:53")), asked);
        }
        addresses(&message, 12, 40);
    }
}
