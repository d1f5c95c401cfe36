//! A reader of packets, written for the tests out of RFC 1035 and the limits that lunar-common states: what may be made of a
//! packet, for those too that no library reads.

use std::net::{IpAddr, SocketAddr};

use lunar_common::{
    dns::records::{MOST, STEPS},
    net::Address,
};

const HEADER: usize = 12;
const LONGEST_NAME: usize = 255;
const IN: u16 = 1;
const UDP: u8 = 17;
const DNS: u16 = 53;

/// A question that has been asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    pub id: u16,
    /// On the wire, in small letters.
    pub name: Vec<u8>,
    pub kind: u16,
    pub class: u16,
    pub server: SocketAddr,
}

impl Question {
    /// Whether it is one for addresses: of type A, AAAA or ANY.
    pub fn asks_for_addresses(&self) -> bool {
        self.class == IN && [1, 28, 255].contains(&self.kind)
    }
}

/// An address in an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub address: Address,
    /// Seconds.
    pub ttl: u32,
    /// Where it lies in the message.
    pub at: usize,
}

/// An answer to a question that was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The question's name on the wire, as it lies in the answer.
    pub name: Vec<u8>,
    /// The server found it.
    pub found: bool,
    /// The question was one for addresses.
    pub of_addresses: bool,
    pub truncated: bool,
    /// Records that it says it has.
    pub count: u16,
    pub addresses: Vec<Found>,
    /// It was read to its end, or to the most records.
    pub ended: bool,
}

/// What a packet is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// Nothing from a DNS server, or a message that has nothing to do with queries.
    Other,
    /// From one, and no proper answer.
    Malformed,
    /// An answer to something else.
    Unasked,
    Answer(Answer),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a packet that begins with its IP header, after `asked` was asked.
pub fn read(packet: &[u8], asked: Option<&Question>) -> Reading {
    let Some((server, message)) = datagram(packet, Way::In).filter(|(server, _)| server.port() == DNS) else {
        return Reading::Other;
    };
    if message.len() >= HEADER && u16_at(message, 2).is_some_and(|flags| flags & 0x7800 != 0) {
        return Reading::Other;
    }
    let Some((question, end, name)) = question(message, server, 0x8000) else { return Reading::Malformed };
    if asked != Some(&question) {
        return Reading::Unasked;
    }
    // The header is there.
    let (flags, count) = (u16_at(message, 2).unwrap(), u16_at(message, 6).unwrap());
    let (addresses, ended) = records(message, end, count);
    Reading::Answer(Answer {
        name: name.to_vec(),
        found: flags & 15 == 0,
        of_addresses: question.asks_for_addresses(),
        truncated: flags & 0x200 != 0,
        count,
        addresses,
        ended,
    })
}

/// The questions that the kernel should wait for after a packet has left a socket that talks to `server`: of that one, and
/// of the one that the packet goes to, if that is another.
pub fn sent(packet: &[u8], server: SocketAddr) -> Vec<Question> {
    let Some((to, message)) = datagram(packet, Way::Out) else { return vec![] };
    let another = (to.port() == DNS && to != server).then_some(to);
    [Some(server), another].into_iter().flatten().filter_map(|server| asked(message, server)).collect()
}

enum Way {
    In,
    Out,
}

/// The server and the message of a UDP packet.
fn datagram(packet: &[u8], way: Way) -> Option<(SocketAddr, &[u8])> {
    let (protocol, at, ends) = match packet.first()? >> 4 {
        4 => {
            let header: [u8; 20] = packet.get(..20)?.try_into().ok()?;
            let ip = |at| IpAddr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap());
            (header[9], usize::from(header[0] & 15) * 4, [ip(12), ip(16)])
        }
        6 => {
            let header: [u8; 40] = packet.get(..40)?.try_into().ok()?;
            let ip = |at| IpAddr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap());
            (header[6], 40, [ip(8), ip(24)])
        }
        _ => return None,
    };
    let ports = [u16_at(packet, at)?, u16_at(packet, at + 2)?];
    let end = match way {
        Way::In => 0,
        Way::Out => 1,
    };
    let message = packet.get(at + 8..).unwrap_or_default();
    (protocol == UDP).then(|| (SocketAddr::new(ends[end], ports[end]), message))
}

/// The question of a message, where it ends, and its name as it lies there. `response`: what the highest bit of the flags has
/// to be.
fn question(message: &[u8], server: SocketAddr, response: u16) -> Option<(Question, usize, &[u8])> {
    let (id, flags, count) = (u16_at(message, 0)?, u16_at(message, 2)?, u16_at(message, 4)?);
    if message.len() < HEADER || flags & 0xf800 != response || count != 1 {
        return None;
    }
    let mut end = HEADER;
    loop {
        let length = usize::from(*message.get(end)?);
        end += 1 + length;
        if length > 63 || end - HEADER > LONGEST_NAME {
            return None;
        }
        if length == 0 {
            break;
        }
    }
    let name = &message[HEADER..end];
    let (kind, class) = (u16_at(message, end)?, u16_at(message, end + 2)?);
    // Length bytes are below the letters.
    Some((Question { id, name: name.to_ascii_lowercase(), kind, class, server }, end + 4, name))
}

/// The question that a message asks of a server.
pub fn asked(message: &[u8], server: SocketAddr) -> Option<Question> {
    question(message, server, 0).map(|(question, _, _)| question)
}

/// Where the question of a message ends.
pub fn end_of_question(message: &[u8]) -> usize {
    let nowhere = SocketAddr::from(([0; 4], 0));
    question(message, nowhere, 0x8000).unwrap().1
}

/// The addresses among `count` records, and whether these were read to their end. Stops at the first that is not sound.
pub fn records(message: &[u8], mut at: usize, count: u16) -> (Vec<Found>, bool) {
    let mut found = Vec::new();
    let mut steps = 0;
    for _ in 0..count.min(MOST as u16) {
        let Some(after) = record(message, at, &mut steps, &mut found) else { return (found, false) };
        at = after;
    }
    (found, steps < STEPS)
}

fn record(message: &[u8], mut at: usize, steps: &mut u32, found: &mut Vec<Found>) -> Option<usize> {
    loop {
        *steps += 1;
        if *steps > STEPS {
            return None;
        }
        match *message.get(at)? {
            0 => {
                at += 1;
                break;
            }
            length @ 1..=63 => at += 1 + usize::from(length),
            64..=191 => return None,
            192.. => {
                at += 2;
                break;
            }
        }
    }
    let (kind, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
    let ttl = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
    let length = usize::from(u16_at(message, at + 8)?);
    let at = at + 10;
    let data = message.get(at..at + length)?;
    let ip = match (class, kind) {
        (IN, 1) => Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
        (IN, 28) => Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
        _ => None,
    };
    // RFC 2181 section 8.
    let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
    found.extend(ip.map(|ip| Found { address: ip.into(), ttl, at }));
    Some(at + length)
}
