use proptest::prelude::*;

use super::*;

/// A v2 header as the specification lays it out, byte by byte.
fn v2_bytes(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend((addresses.len() as u16).to_be_bytes());
    bytes.extend(addresses);
    bytes
}

const V4: [u8; 12] = [198, 51, 100, 2, 203, 0, 113, 10, 0x9c, 0x40, 0, 80];

fn v6() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().expect("v6").octets());
    bytes.extend("2001:db8::10".parse::<std::net::Ipv6Addr>().expect("v6").octets());
    bytes.extend([0x9c, 0x40, 0x01, 0xbb]);
    bytes
}

fn destination(bytes: &[u8]) -> Option<String> {
    let header = parse(bytes).expect("a header").expect("a whole header");
    assert_eq!(header.length, bytes.len());
    header.destination.map(|d| d.to_string())
}

#[test]
fn destinations_of_both_versions_and_families() {
    for (bytes, expected) in [
        (v2_bytes(1, 0x11, &V4), "203.0.113.10:80"),
        (v2_bytes(1, 0x21, &v6()), "[2001:db8::10]:443"),
        (b"PROXY TCP4 198.51.100.2 203.0.113.10 40000 80\r\n".to_vec(), "203.0.113.10:80"),
        (b"PROXY TCP6 2001:db8::2 2001:db8::10 40000 443\r\n".to_vec(), "[2001:db8::10]:443"),
    ] {
        assert_eq!(destination(&bytes).as_deref(), Some(expected));
    }
}

#[test]
fn headers_that_name_no_tcp_destination() {
    for bytes in [
        v2_bytes(0, 0x00, &[]),       // LOCAL, a balancer's own health check
        v2_bytes(0, 0x11, &V4),       // LOCAL: the addresses must be ignored
        v2_bytes(1, 0x00, &[]),       // AF_UNSPEC
        v2_bytes(1, 0x12, &V4),       // UDP
        v2_bytes(1, 0x31, &[0; 216]), // UNIX
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec(),
    ] {
        assert_eq!(destination(&bytes), None, "{bytes:?}");
    }
}

#[test]
fn every_prefix_asks_for_more_and_what_follows_is_left_alone() {
    let mut with_tlv = V4.to_vec();
    with_tlv.extend([0x04, 0, 3, 1, 2, 3]);
    for header in [
        v2_bytes(1, 0x11, &V4),
        v2_bytes(1, 0x11, &with_tlv),
        v2_bytes(1, 0x21, &v6()),
        b"PROXY TCP4 198.51.100.2 203.0.113.10 40000 80\r\n".to_vec(),
    ] {
        for end in 0..header.len() {
            assert!(matches!(parse(&header[..end]), Ok(None)), "{end} of {header:?}");
        }
        let mut stream = header.clone();
        stream.extend(b"\r\nGET / \xff\xfe");
        let parsed = parse(&stream).expect("a header").expect("a whole header");
        assert_eq!(parsed.length, header.len());
    }
}

#[test]
fn what_is_no_header_is_refused_at_once() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"P0", b"\r\n\r\n\x01", b"\x16\x03"] {
        assert!(matches!(parse(bytes), Err(HeaderError::Absent)), "{bytes:?}");
    }
    for bytes in [
        &b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n"[..],
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY \xff\r\n",
        b"PROXY \r\n",
    ] {
        assert!(matches!(parse(bytes), Err(HeaderError::MalformedV1)), "{bytes:?}");
    }
    for bytes in [
        v2_bytes(1, 0x11, &V4[..11]), // too short for its family
        v2_bytes(2, 0x11, &V4),       // no such command
        v2_bytes(1, 0x41, &V4),       // no such family
    ] {
        assert!(matches!(parse(&bytes), Err(HeaderError::MalformedV2(_))), "{bytes:?}");
    }
}

#[test]
fn length_is_bounded_before_the_bytes_come() {
    let mut bytes = v2_bytes(1, 0x11, &[0; V2_LIMIT - V2_FIXED]);
    assert!(matches!(parse(&bytes), Ok(Some(_))));
    bytes[14..16].copy_from_slice(&((V2_LIMIT - V2_FIXED + 1) as u16).to_be_bytes());
    assert!(matches!(parse(&bytes[..16]), Err(HeaderError::TooLong { .. })));
    let line = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    assert!(matches!(parse(&line[..V1_LIMIT - 1]), Ok(None)));
    assert!(matches!(parse(&line[..V1_LIMIT]), Err(HeaderError::TooLong { .. })));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_prefix_never_panic(
        v2 in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let prefix = if v2 { v2::PROTOCOL_PREFIX } else { b"PROXY TCP4 " };
        let bytes = [prefix, &tail].concat();
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
        }
    }

    #[test]
    fn a_changed_byte_never_panics_nor_overruns(at in 0usize..28, to in any::<u8>()) {
        let mut bytes = v2_bytes(1, 0x11, &V4);
        bytes[at] = to;
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
        }
    }
}
