//! From a name to the policy's pattern, and from an address to the table of those that are known.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST},
    maps::lpm_trie::Key,
};
use lunar_common::{
    dns::{
        self,
        name::{END, KEY, Letter, Letters},
        question::LONGEST_NAME,
    },
    names::{
        Learned, LearnedKey, MAX_LEARNED_PER_TARGET, Missed, Named, NamedKey, PLACES, Place, Put, put,
        put_in_the_way,
    },
    net::Address,
    time::KtimeNs,
};

use super::{packet::Payload, repeat};
use crate::{
    atomic::{self, load},
    count, maps,
};

/// The name that an answer is about, by what the policy makes of it.
#[derive(Clone, Copy)]
pub struct Name {
    /// Id of the cgroup of the target that asked.
    pub cgroup: u64,
    /// Its slot + 1.
    pub target: u32,
    /// Id of the pattern.
    pub pattern: u32,
}

struct LetterWalk {
    scratch: *mut maps::Scratch,
    letters: Letters,
    /// Bytes of the key.
    length: u32,
}

unsafe extern "C" fn next_letter(i: u32, walk: *mut LetterWalk) -> i64 {
    // SAFETY: `repeat` passes what it was given.
    let walk = unsafe { &mut *walk };
    if i >= LONGEST_NAME {
        return 1;
    }
    // SAFETY: the masks keep both places inside their arrays, of 256 and 520 bytes; without `black_box`, LLVM moves the
    // subtraction out of the verifier's sight.
    unsafe {
        let byte = (*walk.scratch).named.wire.as_ptr().add(i as usize & 0xff).read();
        match walk.letters.step(byte) {
            Letter::Write(letter) => {
                let place = core::hint::black_box(END as u32 - i) as usize & 0x1ff;
                (*walk.scratch).space.as_mut_ptr().add(place).write(letter);
                0
            }
            Letter::End => {
                walk.length = i;
                1
            }
            Letter::Bad => 1,
        }
    }
}

/// The pattern that the name of a question matches, given where it ends in the message; `None` if none does. Leaves the
/// name in the scratch space for [`keep`].
#[inline(always)]
pub fn pattern(message: &Payload, end: u32) -> Option<u32> {
    let (skb, at) = message.parts();
    match pattern_of_name(skb, at, end) {
        0 => None,
        found => Some(found - 1),
    }
}

/// That pattern + 1, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pattern_of_name(skb: *mut __sk_buff, at: u32, end: u32) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: a live map value of this CPU, and answers come in softirqs.
    let named = unsafe { &mut (*scratch).named };
    let length = end.wrapping_sub(dns::HEADER);
    if !Payload::new(skb, at, 0).copy(dns::HEADER, &mut named.wire, length) {
        return 0;
    }
    named.length = length;
    let mut walk = LetterWalk { scratch, letters: Letters::default(), length: 0 };
    repeat(LONGEST_NAME, next_letter, &mut walk);
    let length = core::hint::black_box(walk.length) & 0xff;
    if length == 0 {
        return 0;
    }
    let start = END + 1 - length as usize;
    // SAFETY: `length` is 1 to 255, so the key begins between 6 and 260, and has its 4 + 256 bytes in the space of 520; the
    // length before it may be unaligned.
    unsafe {
        let space = (&raw mut (*scratch).space).cast::<u8>();
        space.add(END).write(0);
        let key = space.add(start - 4);
        key.cast::<u32>().write_unaligned(length * 8);
        maps::NAMES.get(&*key.cast::<Key<[u8; KEY]>>()).map_or(0, |pattern| *pattern + 1)
    }
}

/// Keeps an address of the name that was found last; says whether there was room, for it and for what was known. If it is `wanted` and was not known
/// before, the connects that were made to it lately were misses.
#[inline(always)]
pub fn keep(name: &Name, address: Address, expires: KtimeNs, wanted: bool, now: KtimeNs) -> bool {
    let [high, low] = address.halves();
    let enter = || {
        enter_address(
            name.cgroup,
            high,
            low,
            u64::from(name.target) << 32 | u64::from(name.pattern),
            expires.0,
        )
    };
    let mut kept = enter();
    if kept == BUSY {
        kept = enter();
    }
    let crowded = kept == NO_ROOM;
    if crowded {
        kept = make_way(name.cgroup, high, low, name.pattern, expires.0);
    }
    if kept > NEW {
        forget_name(name.cgroup, high, low, kept - NEW - 1);
        kept = NEW;
    }
    if kept == NEW {
        keep_name(name.cgroup, high, low, name.pattern, now.0);
        if wanted {
            missed(name, address, now);
        }
    }
    !crowded && matches!(kept, KNOWN | NEW)
}

/// Results of [`enter_address`]: there was no room; another CPU or the agent came in between; it was known; it was not. Beyond
/// that it was not, and took the place of another pattern, whose number is added, and one.
const NO_ROOM: u32 = 0;
const BUSY: u32 = 1;
const KNOWN: u32 = 2;
const NEW: u32 = 3;

/// Enters an address (its words in two numbers), known to a target with this cgroup's id by a pattern, until `expires`
/// (nanoseconds). `name`: the target's slot + 1 in the upper half, the pattern in the lower.
#[unsafe(no_mangle)]
pub extern "C" fn enter_address(cgroup: u64, high: u64, low: u64, name: u64, expires: u64) -> u32 {
    let key = LearnedKey { cgroup, address: Address::from_halves([high, low]) };
    let (target, pattern) = ((name >> 32) as u32, name as u32);
    if let Some(learned) = maps::LEARNED.get_ptr_mut(key) {
        return extend(learned, |places, now| put(places, pattern, KtimeNs(expires), now));
    }
    let Some(counts) = maps::NAME_COUNTS.get_ptr_mut(target.wrapping_sub(1)) else { return NO_ROOM };
    // SAFETY: a live map value; only the field's address is taken.
    let known = unsafe { &raw mut (*counts).known };
    if load(known) >= MAX_LEARNED_PER_TARGET {
        return NO_ROOM;
    }
    let mut new = Learned::default();
    new.places[0] = Place::new(pattern, KtimeNs(expires)).0;
    match maps::LEARNED.insert(key, new, BPF_NOEXIST.into()) {
        Ok(()) => {
            atomic::add(known, 1);
            NEW
        }
        Err(EEXIST) => BUSY,
        Err(_) => NO_ROOM,
    }
}

/// Keeps the name that was found last, for an address that is known by it since `now` (nanoseconds).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_name(cgroup: u64, high: u64, low: u64, pattern: u32, now: u64) -> u32 {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(0) else { return 0 };
    let key = NamedKey { cgroup, address: Address::from_halves([high, low]), pattern, pad: 0 };
    // SAFETY: as in `pattern_of_name`.
    let named: &Named = unsafe {
        (*scratch).named.since = KtimeNs(now);
        &(*scratch).named
    };
    // Without it `policy show` has no name for the address, and a changed policy keeps it only while the pattern is the same.
    maps::NAMED.insert(key, named, BPF_ANY.into()).is_ok().into()
}

/// Forgets the name by which an address was known under a pattern.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget_name(cgroup: u64, high: u64, low: u64, pattern: u32) -> u32 {
    let key = NamedKey { cgroup, address: Address::from_halves([high, low]), pattern, pad: 0 };
    maps::NAMED.remove(key).is_ok().into()
}

/// `-EEXIST`.
const EEXIST: i32 = -17;

/// The same of a pattern that blocks, where an address has no place left: one that does not block gives way.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn make_way(cgroup: u64, high: u64, low: u64, pattern: u32, expires: u64) -> u32 {
    let blocks = |pattern| maps::NAME_ANSWERS.get(pattern).is_some_and(|answer| answer.blocks != 0);
    let key = LearnedKey { cgroup, address: Address::from_halves([high, low]) };
    if !blocks(pattern) {
        return NO_ROOM;
    }
    let Some(learned) = maps::LEARNED.get_ptr_mut(key) else { return NO_ROOM };
    extend(learned, |places, _| put_in_the_way(places, pattern, KtimeNs(expires), blocks))
}

/// Enters a pattern into an address that is known, if there is a place for it.
#[inline(always)]
fn extend(learned: *mut Learned, place_for: impl Fn(&[u64; PLACES], KtimeNs) -> Option<Put>) -> u32 {
    let now = maps::now();
    // SAFETY: a live map value; read word by word.
    let places: [u64; PLACES] = core::array::from_fn(|i| load(unsafe { &raw const (*learned).places[i] }));
    let Some(Put { at, was, place }) = place_for(&places, now) else { return NO_ROOM };
    // SAFETY: as above; the mask keeps the place within the array.
    let word = unsafe { &raw mut (*learned).places[at & (PLACES - 1)] };
    if was != place && !atomic::swap(word, was.0, place.0) {
        return BUSY;
    }
    if was.0 != 0 && was.pattern() != place.pattern() {
        NEW + 1 + was.pattern()
    } else if was.0 != 0 && was.holds(now) {
        KNOWN
    } else {
        NEW
    }
}

/// Counts the connects of a target that were made lately to an address that turns out to be wanted.
#[inline(always)]
fn missed(name: &Name, address: Address, now: KtimeNs) {
    let (tag, place) = Missed::tag(name.cgroup, address);
    let Some(missed) = maps::MISSED.get_ptr_mut(place) else { return };
    let count = load(missed).recent(tag, now);
    if count != 0 {
        // SAFETY: a live map value.
        unsafe { (*missed).tag = 0 };
        count::add_of_target!(name.target, count, dns_misses);
    }
}
