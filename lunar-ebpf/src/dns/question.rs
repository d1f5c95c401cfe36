//! Questions on their way out: who asked what of whom, so that only the answer to that is believed.

use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use lunar_common::{
    dns::{
        self, Header,
        question::{LABELS, Labels, Tag, Tagger, WORDS, Walk},
    },
    names::{Asked, QUESTIONS, Resolver},
    net::{Address, Destination, NetworkOrder},
    time::KtimeNs,
};

use super::{
    packet::{Packet, Payload, Way, may_be_dns},
    repeat,
};
use crate::{
    atomic::{self, load},
    count, maps,
};

/// Remembers the question of a packet that a target's socket sends. Runs in the sender's context, where others may come in
/// between: nothing here is shared but the socket's own storage.
#[inline(always)]
pub fn remember(ctx: &SkBuffContext) -> Option<()> {
    if !may_be_dns(ctx, Way::Out) {
        return None;
    }
    // Before the headers: most UDP sockets never named a DNS server, and have none.
    let resolver = maps::resolver_of_packet(ctx)?;
    let attachment = maps::attachment_of_packet();
    // SAFETY: live storage; the fields were written by the hook of the same call.
    let (target, server) = unsafe { ((*resolver).target, (*resolver).server) };
    if target == 0 || target != attachment.target {
        return None;
    }
    let packet = Packet::read(ctx, Way::Out)?;
    let header = Header::read(&packet.message)?;
    if !header.asks() {
        return None;
    }
    let now = maps::now();
    let (asked, _) = tag(&packet.message, header.id, &server)?;
    // Others may have sent it elsewhere than the application meant (a service's address turned into one of its servers'):
    // it is that server's answer that comes. Where a port was rewritten too, it is turned back before the answer is seen.
    let twin = if packet.server.port.to_host() == dns::PORT && packet.server != server {
        tag(&packet.message, header.id, &packet.server).map_or(NONE, |(twin, _)| twin)
    } else {
        NONE
    };
    enter(resolver, asked, twin, now);
    if twin != NONE {
        enter(resolver, twin, asked, now);
    }
    Some(())
}

/// No question.
const NONE: Tag = Tag(0);

/// Looks for the best place that a question may be in.
struct PlaceWalk {
    resolver: *const Resolver,
    tag: Tag,
    now: KtimeNs,
    rank: u64,
    best: u32,
    /// What the best place holds.
    holds: u64,
}

unsafe extern "C" fn next_place(nth: u32, walk: *mut PlaceWalk) -> i64 {
    // SAFETY: `repeat` passes what it was given.
    let walk = unsafe { &mut *walk };
    let place = Asked::place(walk.tag, nth as usize);
    // SAFETY: the place is within the array of the live storage; each word is read as one.
    let asked = unsafe {
        let asked = &raw const (*walk.resolver).asked[place];
        Asked { tag: load(&raw const (*asked).tag), twin: 0, at: load(&raw const (*asked).at) }
    };
    let rank = asked.rank(walk.tag, walk.now);
    if rank < walk.rank {
        walk.rank = rank;
        walk.best = place as u32;
        walk.holds = asked.tag;
    }
    i64::from(rank == Asked::HERE)
}

/// The best place for a question, its rank, and what it holds.
#[inline(always)]
fn place_for(resolver: *const Resolver, tag: Tag, now: KtimeNs) -> (usize, u64, u64) {
    let mut walk = PlaceWalk { resolver, tag, now, rank: u64::MAX, best: 0, holds: 0 };
    repeat(Asked::probes() as u32, next_place, &mut walk);
    (core::hint::black_box(walk.best) as usize & (QUESTIONS - 1), walk.rank, walk.holds)
}

/// Puts a question where its answer will look for it.
#[inline(always)]
fn enter(resolver: *mut Resolver, tag: Tag, twin: Tag, now: KtimeNs) {
    let (place, rank, was) = place_for(resolver, tag, now);
    // SAFETY: the place is within the array of the live storage; only its fields' addresses are taken.
    let (word, with, at) = unsafe {
        let asked = &raw mut (*resolver).asked[place];
        (&raw mut (*asked).tag, &raw mut (*asked).twin, &raw mut (*asked).at)
    };
    // SAFETY: as above, aligned; written first, since whoever finds the tag believes them.
    unsafe {
        with.write_volatile(twin.0);
        at.write_volatile(now);
    }
    let entered = was == tag.0 || atomic::swap(word, was, tag.0);
    // One that waited had to give way, or another thread's question took the place in this moment.
    if rank > Asked::FREE || !entered {
        count::of_all!(dns_forgotten);
    }
}

/// Whether the socket waits for the answer to this question; if so, it waits no longer, from whichever server.
#[inline(always)]
pub fn take(resolver: *mut Resolver, tag: Tag, now: KtimeNs) -> bool {
    match take_one(resolver, tag, now) {
        None => false,
        Some(NONE) => true,
        Some(twin) => {
            take_one(resolver, twin, now);
            true
        }
    }
}

/// Ends the waiting for one of them; its twin, if it was waited for.
#[inline(always)]
fn take_one(resolver: *mut Resolver, tag: Tag, now: KtimeNs) -> Option<Tag> {
    let (place, rank, _) = place_for(resolver, tag, now);
    if rank != Asked::HERE {
        return None;
    }
    // SAFETY: as in `enter`.
    let (word, twin, at) = unsafe {
        let asked = &raw mut (*resolver).asked[place];
        (&raw mut (*asked).tag, &raw const (*asked).twin, &raw const (*asked).at)
    };
    let (twin, waits) = (Tag(load(twin)), !(Asked { tag: tag.0, twin: 0, at: load(at) }).is_free(now));
    (waits && atomic::swap(word, tag.0, 0)).then_some(twin)
}

/// Bytes of a question after its name: type and class.
pub const TAIL: u32 = 4;

struct LabelWalk {
    message: Payload,
    labels: Labels,
    ended: u32,
}

unsafe extern "C" fn next_label(_: u32, walk: *mut LabelWalk) -> i64 {
    // SAFETY: `repeat` passes what it was given.
    let walk = unsafe { &mut *walk };
    match walk.labels.step(&walk.message) {
        Walk::On => 0,
        end => {
            walk.ended = u32::from(end == Walk::End);
            1
        }
    }
}

struct TagWalk {
    message: Payload,
    tagger: Tagger,
    ended: u32,
}

unsafe extern "C" fn next_word(nth: u32, walk: *mut TagWalk) -> i64 {
    // SAFETY: `repeat` passes what it was given.
    let walk = unsafe { &mut *walk };
    match walk.tagger.step(&walk.message, nth) {
        Walk::On => 0,
        end => {
            walk.ended = u32::from(end == Walk::End);
            1
        }
    }
}

/// Where the name of the question ends in a message that begins at `at` of a packet; 0 if there is no proper one.
#[unsafe(no_mangle)]
pub extern "C" fn end_of_name(skb: *mut __sk_buff, at: u32) -> u32 {
    let mut walk = LabelWalk { message: Payload::new(skb, at, 0), labels: Labels::new(), ended: 0 };
    repeat(LABELS, next_label, &mut walk);
    if walk.ended == 0 { 0 } else { walk.labels.at }
}

/// The raw [`Tag`] of that question, given where its name ends, the id and the server: the address' words in two numbers,
/// and the port in the upper half of `port_and_id`. 0 if there is no proper question.
#[unsafe(no_mangle)]
pub extern "C" fn tag_of_question(
    skb: *mut __sk_buff,
    at_and_end: u64,
    port_and_id: u32,
    high: u64,
    low: u64,
) -> u64 {
    let Some(control) = maps::control() else { return 0 };
    // SAFETY: a live map value; the key is written once, before any question.
    let key = unsafe { (*control).dns_key };
    let message = Payload::new(skb, (at_and_end >> 32) as u32, 0);
    let port = NetworkOrder::<u16>::from_raw((port_and_id >> 16) as u16);
    let server = Destination::new(Address::from_halves([high, low]), port);
    let tagger = Tagger::new(key, port_and_id as u16, &server, at_and_end as u32);
    let mut walk = TagWalk { message, tagger, ended: 0 };
    repeat(WORDS + 1, next_word, &mut walk);
    if walk.ended == 0 {
        return 0;
    }
    walk.tagger.end(&walk.message).map_or(0, |tag| tag.0)
}

/// The tag of a message's question, and where the name in it ends. [`dns::question::tag`], with the kernel's loops.
#[inline(always)]
pub fn tag(message: &Payload, id: u16, server: &Destination) -> Option<(Tag, u32)> {
    let (skb, at) = message.parts();
    let end = end_of_name(skb, at);
    if end == 0 {
        return None;
    }
    let [high, low] = server.address.halves();
    let port_and_id = u32::from(server.port.raw()) << 16 | u32::from(id);
    match tag_of_question(skb, u64::from(at) << 32 | u64::from(end), port_and_id, high, low) {
        0 => None,
        tag => Some((Tag(tag), end)),
    }
}
