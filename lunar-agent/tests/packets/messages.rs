//! Messages, made by hickory-proto.

use std::net::IpAddr;

use fastrand::Rng;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, CNAME, HTTPS, MX, NS, NULL, SOA, SRV, SVCB, TXT,
            svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue},
        },
    },
};

/// A name; its case is kept.
pub fn name(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
}

/// The longest name there may be below a suffix: 255 bytes on the wire.
pub fn longest(suffix: &str) -> String {
    // Each label has a byte before it, and the root has one.
    let mut left = 255 - 2 - suffix.len();
    let mut text = String::new();
    while left > 0 {
        let label = if left == 65 { 31 } else { left.min(64) - 1 };
        text += &"x".repeat(label);
        text.push('.');
        left -= label + 1;
    }
    text + suffix
}

/// A question.
pub fn question(id: u16, name: &Name, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    message
}

/// An answer with no records yet.
pub fn reply(id: u16, name: &Name, kind: RecordType) -> Message {
    let mut message = question(id, name, kind);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message
}

/// An A or AAAA record.
pub fn address(name: &Name, ttl: u32, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}

/// A CNAME record.
pub fn alias(name: &Name, ttl: u32, to: &Name) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(to.clone())))
}

/// EDNS, as most resolvers send it.
pub fn edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns
}

/// Writes letters large and small at random (0x20).
pub fn mixed_case(rng: &mut Rng, text: &str) -> String {
    text.chars().map(|c| if rng.bool() { c.to_ascii_uppercase() } else { c }).collect()
}

fn random_label(rng: &mut Rng) -> String {
    (0..rng.usize(1..12)).map(|_| *rng.choice(b"abcxyz0189-_").unwrap() as char).collect()
}

/// A name that the policy may match: exactly, below a suffix, nearly, or not at all.
pub fn random_name(rng: &mut Rng) -> Name {
    let label = |rng: &mut Rng| random_label(rng);
    let text = match rng.u8(0..20) {
        0..=4 => (rng
            .choice(["api.stripe.com", "internal.corp", "one.example", "five.example", "tracker.example"])
            .unwrap())
        .to_owned(),
        5..=9 => format!("{}.openai.com", label(rng)),
        10 => format!("{}.{}.deep.ads.openai.com", label(rng), label(rng)),
        11 => format!("{}.ads.openai.com", label(rng)),
        12 => format!("{}.blocked.example", label(rng)),
        13 => longest("openai.com"),
        14 => longest("example.net"),
        15 => (rng
            .choice([
                "openai.com",
                "xopenai.com",
                "stripe.com",
                "api.stripe.com.example",
                "x.api.stripe.com",
                "blocked.example",
                "com",
            ])
            .unwrap())
        .to_owned(),
        // A label that imitates others, and bytes that no entry has.
        16 => {
            let labels: [&[&[u8]]; 5] = [
                &[b"api.stripe", b"com"],
                &[b"x.openai", b"com"],
                &[b"\0", b"openai", b"com"],
                &[b"\xff\xfe", b"openai", b"com"],
                &[b"a b", b"openai", b"com"],
            ];
            return Name::from_labels(rng.choice(labels).unwrap().iter().copied()).unwrap();
        }
        _ => format!("{}.{}.test", label(rng), label(rng)),
    };
    name(&if rng.bool() { mixed_case(rng, &text) } else { text })
}

/// A time to live: ordinary, or one of those at which something changes.
fn random_ttl(rng: &mut Rng) -> u32 {
    match rng.u8(0..4) {
        0 => rng
            .choice([0, 1, 29, 30, 31, 86_399, 86_400, 86_401, i32::MAX as u32, 1 << 31, u32::MAX])
            .unwrap(),
        1 => rng.u32(..),
        _ => rng.u32(0..100_000),
    }
}

/// Any address, as its family's record.
pub fn random_address(rng: &mut Rng) -> IpAddr {
    if rng.bool() {
        IpAddr::from(rng.u32(..).to_be_bytes())
    } else {
        IpAddr::from(rng.u128(..).to_be_bytes())
    }
}

fn random_data(rng: &mut Rng, other: &Name) -> RData {
    match rng.u8(0..9) {
        0 => RData::TXT(TXT::new(vec![random_label(rng), "v=spf1 a:203.0.113.9".into()])),
        1 => {
            let params = vec![
                (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".into(), "h2".into()]))),
                (
                    SvcParamKey::Ipv4Hint,
                    SvcParamValue::Ipv4Hint(IpHint(vec![A::from(std::net::Ipv4Addr::from(rng.u32(..)))])),
                ),
            ];
            RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
        }
        2 => RData::SVCB(SVCB::new(0, other.clone(), vec![])),
        3 => RData::MX(MX::new(10, other.clone())),
        4 => RData::NS(NS(other.clone())),
        5 => RData::SRV(SRV::new(1, 2, 443, other.clone())),
        6 => {
            let code = rng.choice([64_000, 65_280, 65_281]).unwrap();
            let data = (0..rng.usize(1..40)).map(|_| rng.u8(..)).collect();
            RData::Unknown { code: RecordType::from(code), rdata: NULL::with(data) }
        }
        7 => RData::SOA(SOA::new(other.clone(), other.clone(), rng.u32(..), 1, 2, 3, 4)),
        _ => RData::CNAME(CNAME(other.clone())),
    }
}

fn random_record(rng: &mut Rng, owner: &Name, addresses_in: u8) -> Record {
    let ttl = random_ttl(rng);
    let mut record = if rng.u8(0..10) < addresses_in {
        let ip = random_address(rng);
        address(owner, ttl, ip)
    } else {
        let other = if rng.bool() { owner.clone() } else { random_name(rng) };
        let data = random_data(rng, &other);
        Record::from_rdata(owner.clone(), ttl, data)
    };
    if rng.u8(0..50) == 0 {
        record.dns_class = DNSClass::CH;
    }
    record
}

/// An answer of any kind to a question for a name. The authority and the additional section have addresses too.
pub fn random_reply(rng: &mut Rng, id: u16, name: &Name) -> Message {
    let kind = rng
        .choice([RecordType::A, RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::TXT])
        .unwrap();
    let mut message = reply(id, name, kind);
    message.metadata.authoritative = rng.bool();
    message.metadata.truncation = rng.u8(0..20) == 0;
    message.metadata.authentic_data = rng.bool();
    message.metadata.checking_disabled = rng.bool();
    if rng.u8(0..20) == 0 {
        message.metadata.response_code =
            rng.choice([ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused]).unwrap();
    }
    let mut owner = name.clone();
    for _ in 0..if rng.u8(0..3) == 0 { rng.usize(0..=3) } else { 0 } {
        let to = random_name(rng);
        let ttl = random_ttl(rng);
        message.add_answer(alias(&owner, ttl, &to));
        owner = to;
    }
    for _ in 0..rng.usize(0..=8) + if rng.u8(0..8) == 0 { 12 } else { 0 } {
        message.add_answer(random_record(rng, &owner, 7));
    }
    for _ in 0..if rng.u8(0..3) == 0 { rng.usize(0..=3) } else { 0 } {
        message.add_authority(random_record(rng, name, 3));
    }
    for _ in 0..if rng.u8(0..3) == 0 { rng.usize(0..=3) } else { 0 } {
        message.add_additional(random_record(rng, name, 8));
    }
    if rng.bool() {
        message.set_edns(edns());
    }
    message
}
