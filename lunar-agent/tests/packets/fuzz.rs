//! Packets that nobody should believe: a great many, most of them damaged answers to questions that are outstanding.

use std::time::Instant;

use hickory_proto::{
    rr::{DNSClass, RData, Record, RecordData},
    serialize::binary::{BinDecodable, BinDecoder},
};
use lunar_common::net::Address;

use crate::{
    damage::{Template, damage, from_environment, seeded, stray},
    frames::{ETHERNET, Route},
    harness::{Kernel, Trial, now},
    model::Model,
    policy::Policy,
    reading::{self, Answer, Reading},
};

/// Packets of a run; `LUNAR_PACKETS` sets another number.
const PACKETS: u64 = 1_000_000;
/// Valid answers that packets are made of.
const TEMPLATES: usize = 2_000;
/// Packets between two looks at what is known.
const BATCH: u64 = 256;
/// Addresses that are known at most before the next look, far from a target's limit.
const KNOWN: usize = 8_000;

/// If hickory-proto reads all records of the answer, it has to find the same addresses.
fn ask_hickory(message: &[u8], answer: &Answer) -> bool {
    let end = reading::end_of_question(message);
    let mut decoder = BinDecoder::new(message);
    decoder.read_slice(end).unwrap();
    let mut theirs = Vec::new();
    for _ in 0..answer.count.min(64) {
        match Record::<RData>::read(&mut decoder) {
            Ok(record) if record.data.is_update() => return false,
            Ok(record) => theirs.extend(address_of(&record)),
            Err(_) => return false,
        }
    }
    let ours: Vec<_> = answer.addresses.iter().map(|found| (found.address, found.ttl)).collect();
    assert_eq!(ours, theirs, "{message:02x?}");
    true
}

/// The address in a record, and its TTL as RFC 2181 has it.
pub fn address_of(record: &Record) -> Option<(Address, u32)> {
    let ip: std::net::IpAddr = match &record.data {
        RData::A(a) => a.0.into(),
        RData::AAAA(a) => a.0.into(),
        _ => return None,
    };
    let ttl = if record.ttl >> 31 == 0 { record.ttl } else { 0 };
    (record.dns_class == DNSClass::IN).then(|| (ip.into(), ttl))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An answer to the question that is outstanding, damaged.
    Damaged,
    /// One that is not.
    Valid,
    Stray,
}

/// How many packets.
#[derive(Default, Debug)]
struct Tally {
    /// Damaged answers to a question that was outstanding.
    damaged: u64,
    /// Of these: taken for its answer, so that its records were looked at.
    damaged_read: u64,
    /// Of these: something was learned.
    damaged_learned: u64,
    /// Undamaged ones.
    valid: u64,
    strays: u64,
    /// hickory-proto, too, read all records of the answer, and found the same addresses.
    agreed: u64,
    /// As the kernel counted them.
    answers: u64,
    unasked: u64,
    malformed: u64,
    /// Addresses.
    inserted: u64,
}

impl Tally {
    fn count(&mut self, kind: Kind, reading: &Reading, policy: &Policy) {
        let answer = if let Reading::Answer(answer) = reading { Some(answer) } else { None };
        let learned = |a: &&Answer| {
            a.found && a.of_addresses && !a.addresses.is_empty() && policy.of_name(&a.name).is_some()
        };
        match kind {
            Kind::Damaged => {
                self.damaged += 1;
                self.damaged_read += u64::from(answer.is_some());
                self.damaged_learned += u64::from(answer.filter(learned).is_some());
            }
            Kind::Valid => self.valid += 1,
            Kind::Stray => self.strays += 1,
        }
    }
}

#[test]
fn a_million_packets_insert_nothing_that_they_should_not() {
    let (mut rng, seed) = seeded();
    let packets = from_environment("LUNAR_PACKETS").unwrap_or(PACKETS);
    let policy = Policy::usual();
    let mut kernel = Kernel::new(&policy);
    let templates: Vec<_> = (0..TEMPLATES).map(|_| Template::random(&mut rng)).collect();
    let routes = [Route::v4(), Route::v6(), Route { options: 3, ..Route::v4() }];
    let sockets = routes.map(|route| (route, Trial::of(route.server)));
    let mut model = Model::new(&policy);
    let mut tally = Tally::default();
    let began = Instant::now();
    for n in 1..=packets {
        let (route, socket) = rng.choice(&sockets).unwrap();
        let template = rng.choice(&templates).unwrap();
        let (question, mut answer) = template.filled(&mut rng);
        kernel.set_trial(socket);
        kernel.send(&route.out(&question));
        let asked = reading::asked(&question, route.server).unwrap();
        let (kind, frame) = match rng.u8(0..20) {
            0..=13 => {
                let whole = answer.clone();
                damage(&mut rng, &mut answer, template.end);
                (if answer == whole { Kind::Valid } else { Kind::Damaged }, route.back(&answer))
            }
            14 => (Kind::Valid, route.back(&answer)),
            _ => (Kind::Stray, stray(&mut rng, route, &answer)),
        };
        let before = now();
        kernel.receive(&frame);
        let when = (before, now());
        let reading = reading::read(&frame[ETHERNET..], Some(&asked));
        match &reading {
            Reading::Answer(read) if kind != Kind::Stray => {
                assert!(
                    kind != Kind::Valid || read.ended,
                    "a valid answer that cannot be read: {answer:02x?}"
                );
                if read.found && !read.addresses.is_empty() {
                    tally.agreed += u64::from(ask_hickory(&answer, read));
                }
            }
            _ => assert!(kind != Kind::Valid, "a valid answer that is none: {answer:02x?}"),
        }
        tally.count(kind, &reading, &policy);
        model.meet(&reading, when);
        if n % BATCH == 0 || n == packets || model.len() > KNOWN {
            let taken = kernel.take();
            tally.answers += taken.counted.answers;
            tally.unasked += taken.counted.unasked;
            tally.malformed += taken.counted.malformed;
            tally.inserted += taken.learned.len() as u64;
            model.check(&taken, &format!("LUNAR_SEED={seed}, up to packet {n}"));
        }
    }
    println!("{packets} packets in {:.1?}: {tally:?}", began.elapsed());
    assert!(tally.damaged * 2 >= packets, "{tally:?}");
    // The damage must not be such that nearly nothing gets to the reader of records.
    assert!(tally.damaged_read * 2 >= tally.damaged, "{tally:?}");
    assert!(tally.damaged_learned * 10 >= tally.damaged, "{tally:?}");
}
