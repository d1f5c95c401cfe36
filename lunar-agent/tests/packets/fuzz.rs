//! Packets that nobody should believe: a great many, most of them damaged answers to questions that are outstanding.

use std::time::Instant;

use fastrand::Rng;
use hickory_proto::{
    rr::{DNSClass, RData, Record, RecordData},
    serialize::binary::{BinDecodable, BinDecoder},
};
use lunar_common::net::Address;

use crate::{
    frames::{ETHERNET, LONGEST, Route},
    harness::{Kernel, Trial, now},
    messages,
    model::Model,
    policy::Policy,
    reading::{self, Answer, Question, Reading},
};

/// Packets of a run; `LUNAR_PACKETS` sets another number.
const PACKETS: u64 = 1_000_000;
/// Valid answers that packets are made of.
const TEMPLATES: usize = 2_000;
/// Packets between two looks at what is known.
const BATCH: u64 = 256;
/// Addresses that are known at most before the next look, far from a target's limit.
const KNOWN: usize = 8_000;

/// A number from the environment.
fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// The random numbers of a run, and the seed that makes the same again.
pub fn seeded() -> (Rng, u64) {
    let seed = from_environment("LUNAR_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LUNAR_SEED={seed}");
    (Rng::with_seed(seed), seed)
}

/// A valid answer and the question it answers.
struct Template {
    question: Vec<u8>,
    answer: Vec<u8>,
    /// Where the question ends.
    end: usize,
    /// Where addresses lie in the answer, and how many bytes each has.
    addresses: Vec<(usize, usize)>,
}

impl Template {
    fn random(rng: &mut Rng) -> Self {
        loop {
            let name = messages::random_name(rng);
            let mut reply = messages::random_reply(rng, 0, &name);
            // Nearly all are of the kind of which something is learned.
            if rng.u8(0..10) != 0 {
                reply.metadata.response_code = hickory_proto::op::ResponseCode::NoError;
                reply.metadata.truncation = false;
            }
            // A few have more records than are looked at.
            if rng.u8(0..50) == 0 {
                for _ in 0..70 {
                    let ip = std::net::Ipv4Addr::from(rng.u32(..)).into();
                    reply.add_answer(messages::address(&name, 60, ip));
                }
            }
            let question = messages::question(0, &name, reply.queries[0].query_type()).to_vec().unwrap();
            let answer = reply.to_vec().unwrap();
            if answer.len() > LONGEST - 200 {
                continue;
            }
            let end = reading::end_of_question(&answer);
            let (found, _) = reading::records(&answer, end, reply.answers.len() as u16);
            let size = |a: Address| if a.is_v4() { 4 } else { 16 };
            let addresses = found.iter().map(|found| (found.at, size(found.address))).collect();
            return Self { question, answer, end, addresses };
        }
    }

    /// The question and the answer with an id, and with addresses that no other answer has.
    fn filled(&self, rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
        let id = rng.u16(..).to_be_bytes();
        let (mut question, mut answer) = (self.question.clone(), self.answer.clone());
        question[..2].copy_from_slice(&id);
        answer[..2].copy_from_slice(&id);
        for &(at, size) in &self.addresses {
            rng.fill(&mut answer[at..at + size]);
        }
        (question, answer)
    }
}

/// Damages a message, mostly after its question.
fn damage(rng: &mut Rng, message: &mut Vec<u8>, end: usize) {
    for _ in 0..rng.u8(1..=3) {
        if message.is_empty() {
            return;
        }
        let from = if rng.u8(0..12) == 0 { 0 } else { end.min(message.len() - 1) };
        let at = rng.usize(from..message.len());
        match rng.u8(0..12) {
            0..=2 => message[at] ^= 1 << rng.u8(0..8),
            3 => message[at] = rng.choice([0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xc0, 0xff]).unwrap(),
            4 => message[at] = rng.u8(..),
            5 => message.truncate(at),
            6 => {
                for _ in 0..rng.u8(1..6) {
                    message.insert(at, rng.u8(..));
                }
            }
            7 => drop(message.drain(at..(at + rng.usize(1..6)).min(message.len()))),
            // The numbers of records.
            8 if message.len() > 12 => {
                let count = if rng.bool() { rng.u16(0..100) } else { rng.u16(..) };
                let place = rng.choice([6, 6, 8, 10]).unwrap();
                message[place..place + 2].copy_from_slice(&count.to_be_bytes());
            }
            // Pointers: to themselves, back, forward.
            9 if at + 2 <= message.len() => {
                let to = if rng.bool() { at } else { rng.usize(0..0x4000) } as u16 | 0xc000;
                message[at..at + 2].copy_from_slice(&to.to_be_bytes());
            }
            // A piece of it once more.
            10 => {
                let piece = message[at..(at + rng.usize(1..64)).min(message.len())].to_vec();
                let to = rng.usize(at..=message.len());
                message.splice(to..to, piece);
            }
            _ => length_lies(rng, message, end),
        }
    }
    message.truncate(LONGEST - 200);
}

/// Gives a record another type, class or length of data.
fn length_lies(rng: &mut Rng, message: &mut [u8], end: usize) {
    let (found, _) = reading::records(message, end, 64);
    let Some(found) = rng.choice(&found) else { return };
    let (back, value) = match rng.u8(0..4) {
        0 => (10, rng.choice([1_u16, 5, 28, 255]).unwrap()),
        1 => (8, rng.u16(0..4)),
        2 => (2, rng.u16(0..40)),
        _ => (2, rng.u16(..)),
    };
    message[found.at - back..][..2].copy_from_slice(&value.to_be_bytes());
}

/// Something else than an answer to what was asked.
fn stray(rng: &mut Rng, route: &Route, answer: &[u8]) -> Vec<u8> {
    let bytes = |rng: &mut Rng, most: usize| (0..rng.usize(1..most)).map(|_| rng.u8(..)).collect::<Vec<u8>>();
    match rng.u8(0..6) {
        0 => {
            let length = if rng.u8(0..10) == 0 { 1_500 } else { 120 };
            [&[0; ETHERNET][..], &bytes(rng, length)].concat()
        }
        1 | 2 => route.back(&bytes(rng, 600)),
        // A header of IP or UDP that is damaged.
        3 => {
            let mut frame = route.back(answer);
            for _ in 0..rng.u8(1..4) {
                let at = rng.usize(ETHERNET..ETHERNET + 48);
                frame[at] = rng.u8(..);
            }
            frame
        }
        4 => {
            let mut frame = route.back(answer);
            frame.truncate(rng.usize(ETHERNET + 1..=frame.len()));
            frame
        }
        // Asked by nobody.
        _ => {
            let mut other = answer.to_vec();
            other[rng.usize(0..2)] ^= 1 << rng.u8(0..8);
            route.back(&other)
        }
    }
}

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

#[derive(Default, Debug)]
struct Tally {
    /// Damaged answers to a question that was outstanding.
    damaged: u64,
    /// Undamaged ones.
    valid: u64,
    strays: u64,
    /// Of the damaged: taken for answers.
    damaged_read: u64,
    /// Of these: something was learned of them.
    damaged_learned: u64,
    /// Of all: hickory-proto agreed on the addresses.
    agreed: u64,
    /// As the kernel counted them.
    answers: u64,
    unasked: u64,
    malformed: u64,
    inserted: u64,
}

#[test]
fn a_million_packets_insert_nothing_that_they_should_not() {
    let (mut rng, seed) = seeded();
    let packets = from_environment("LUNAR_PACKETS").unwrap_or(PACKETS);
    let policy = Policy::usual();
    let mut kernel = Kernel::new(&policy);
    let templates: Vec<_> = (0..TEMPLATES).map(|_| Template::random(&mut rng)).collect();
    let mut with_options = Route::v4();
    with_options.options = 3;
    let routes = [Route::v4(), Route::v4(), Route::v6(), with_options];
    let sockets = routes.map(|route| Trial::of(route.server));
    let mut model = Model::new(&policy);
    let mut tally = Tally::default();
    let began = Instant::now();
    for n in 1..=packets {
        let i = rng.usize(0..routes.len());
        let route = &routes[i];
        let template = rng.choice(&templates).unwrap();
        let (question, mut answer) = template.filled(&mut rng);
        kernel.set_trial(&sockets[i]);
        kernel.send(&route.out(&question));
        let asked: Question = reading::asked(&question, route.server).unwrap();
        let die = rng.u8(0..20);
        let frame = match die {
            0..=13 => {
                damage(&mut rng, &mut answer, template.end);
                tally.damaged += 1;
                route.back(&answer)
            }
            14 => {
                tally.valid += 1;
                route.back(&answer)
            }
            _ => {
                tally.strays += 1;
                stray(&mut rng, route, &answer)
            }
        };
        let before = now();
        kernel.receive(&frame);
        let when = (before, now());
        let reading = reading::read(&frame[ETHERNET..], Some(&asked));
        if let Reading::Answer(read) = &reading {
            if die <= 14 && read.found && !read.addresses.is_empty() {
                tally.agreed += u64::from(ask_hickory(&answer, read));
            }
            let learned = read.found && !read.addresses.is_empty() && policy.of_name(&read.name).is_some();
            if die <= 13 {
                tally.damaged_read += 1;
                tally.damaged_learned += u64::from(learned);
            }
            assert!(die != 14 || read.ended || read.count > 64, "a valid answer that cannot be read: {answer:02x?}");
        }
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
    assert!(tally.damaged * 2 >= packets);
    // The damage must not be such that nearly nothing gets to the reader of answers.
    assert!(tally.damaged_read * 2 >= tally.damaged && tally.damaged_learned * 10 >= tally.damaged, "{tally:?}");
}
