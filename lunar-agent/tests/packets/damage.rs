//! Valid answers, and what may become of them on their way.

use fastrand::Rng;
use hickory_proto::op::ResponseCode;
use lunar_common::net::Address;

use crate::{
    frames::{ETHERNET, LONGEST, Route},
    messages, reading,
};

/// Room that is left in a frame for what damage adds to a message.
const ROOM: usize = 200;

/// A number from the environment.
pub fn from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// The random numbers of a run, and the seed that makes the same again.
pub fn seeded() -> (Rng, u64) {
    let seed = from_environment("LUNAR_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("LUNAR_SEED={seed}");
    (Rng::with_seed(seed), seed)
}

/// A valid answer and the question it answers.
pub struct Template {
    question: Vec<u8>,
    answer: Vec<u8>,
    /// Where the question ends.
    pub end: usize,
    /// Where addresses lie in the answer, and how many bytes each has.
    addresses: Vec<(usize, usize)>,
}

impl Template {
    /// One of any kind.
    pub fn random(rng: &mut Rng) -> Self {
        loop {
            let name = messages::random_name(rng);
            let mut reply = messages::random_reply(rng, 0, &name);
            // Nearly all are of the kind of which something is learned.
            if rng.u8(0..10) != 0 {
                reply.metadata.response_code = ResponseCode::NoError;
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
            if answer.len() > LONGEST - ROOM {
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
    pub fn filled(&self, rng: &mut Rng) -> (Vec<u8>, Vec<u8>) {
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
pub fn damage(rng: &mut Rng, message: &mut Vec<u8>, end: usize) {
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
    message.truncate(LONGEST - ROOM);
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
pub fn stray(rng: &mut Rng, route: &Route, answer: &[u8]) -> Vec<u8> {
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
