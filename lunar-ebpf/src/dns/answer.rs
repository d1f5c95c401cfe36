//! Answers on their way in, read before the application gets them.

use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use lunar_common::{
    abi::Settings,
    dns::{
        Header,
        question::asks_for_addresses,
        records::{Found, MOST, Records, STEPS},
    },
    names::expiry,
    net::Address,
    time::KtimeNs,
};

use super::{
    learn::{self, Name},
    packet::{Packet, Payload, Way, may_be_dns},
    question, repeat,
};
use crate::{count, maps};

/// Learns what a packet to a target's socket tells of names that the policy has.
#[inline(always)]
pub fn learn(ctx: &SkBuffContext) -> Option<()> {
    if !may_be_dns(ctx, Way::In) {
        return None;
    }
    let packet = Packet::read(ctx, Way::In)?;
    let attachment = maps::attachment_of_packet();
    let resolver = maps::resolver_of_packet(ctx)?;
    // SAFETY: live storage.
    let target = unsafe { (*resolver).target };
    if target == 0 || target != attachment.target {
        return None;
    }
    let message = &packet.message;
    let header = Header::read(message);
    if header.is_some_and(|h| h.is_of_another_kind()) {
        return None;
    }
    let read = header.filter(|h| h.replies()).and_then(|h| {
        let (tag, end) = question::tag(message, h.id, &packet.server)?;
        Some((h, tag, end))
    });
    let Some((header, tag, end)) = read else {
        count::of_all!(dns_malformed);
        return None;
    };
    let now = maps::now();
    if !question::take(resolver, tag, now) {
        count::of_all!(dns_unasked);
        return None;
    }
    count::of_target!(target, dns_answers);
    if !header.found() || !asks_for_addresses(message, end) {
        return None;
    }
    let pattern = learn::pattern(message, end)?;
    let answer = maps::NAME_ANSWERS.get(pattern).copied().unwrap_or_default();
    let (skb, from) = message.parts();
    let records = u64::from(end + question::TAIL) << 32 | u64::from(u32::from(header.answers).min(MOST));
    let from = u64::from(from) << 32 | u64::from(message.length());
    let name = u64::from(target) << 32 | u64::from(pattern);
    let whole = learn_addresses(skb, from, records, attachment.cgroup, name) != 0;
    // What was cut off may be known to the agent; what could not be kept is not. A name that is blocked is missed as one
    // that is wanted is: its addresses may be redirected for another's sake.
    let cut = header.truncated() && answer.known == 0 || u32::from(header.answers) > MOST;
    if !whole || cut {
        count::of_target!(target, dns_misses);
    }
    Some(())
}

struct RecordWalk<'a> {
    message: Payload,
    records: *mut Records,
    settings: &'a Settings,
    name: Name,
    wanted: u32,
    whole: u32,
    now: KtimeNs,
}

/// 1 for an address (its words in two numbers) that means something else on every host, otherwise 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leads_nowhere_else(high: u64, low: u64) -> u32 {
    Address::from_halves([high, low]).is_nowhere_else().into()
}

/// Every address was kept.
const KEPT: u32 = 1;
/// The end of the answer was reached.
const ENDED: u32 = 2;

unsafe extern "C" fn next_record(_: u32, walk: *mut RecordWalk<'_>) -> i64 {
    // SAFETY: `repeat` passes what it was given.
    let walk = unsafe { &mut *walk };
    // SAFETY: a live map value of this CPU, and answers come in softirqs.
    let records = unsafe { &mut *walk.records };
    match records.step(&walk.message, walk.message.length()) {
        Found::Nothing => 0,
        Found::Address(address, ttl) => {
            let [high, low] = address.halves();
            // A name that means this host is not the gateway's to reach; but blocked is blocked.
            if walk.wanted & leads_nowhere_else(high, low) != 0 {
                return 0;
            }
            let expires = expiry(walk.now, ttl, walk.settings.min_ttl, walk.settings.dns_grace);
            if !learn::keep(&walk.name, address, expires, walk.wanted != 0, walk.now) {
                walk.whole &= !KEPT;
            }
            0
        }
        Found::End => {
            walk.whole |= ENDED;
            1
        }
        Found::Bad => 1,
    }
}

/// Keeps the addresses of an answer; says whether it was read to its end and all were kept. Each argument is two numbers:
/// where in the packet the message begins and its length; where in the message the records begin and how many there are;
/// the target's slot + 1 and the pattern.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn learn_addresses(
    skb: *mut __sk_buff,
    message: u64,
    records: u64,
    cgroup: u64,
    name: u64,
) -> u32 {
    let (Some(settings), Some(scratch)) = (maps::settings(), maps::SCRATCH.get_ptr_mut(0)) else { return 0 };
    // SAFETY: as in `next_record`; only the field's address is taken, and then written.
    let walked = unsafe {
        let walked = &raw mut (*scratch).records;
        *walked = Records::new((records >> 32) as u32, records as u32);
        walked
    };
    let name = Name { cgroup, target: (name >> 32) as u32, pattern: name as u32 };
    let answer = maps::NAME_ANSWERS.get(name.pattern).copied().unwrap_or_default();
    let mut walk = RecordWalk {
        message: Payload::new(skb, (message >> 32) as u32, message as u32),
        records: walked,
        settings,
        name,
        wanted: u32::from(answer.get().wanted()),
        whole: KEPT,
        now: maps::now(),
    };
    repeat(STEPS, next_record, &mut walk);
    u32::from(walk.whole == KEPT | ENDED)
}
