//! The functions that the verifier looks at apart from their callers: global in BTF, so each is verified once, with
//! unknown arguments, and not again for every state in which it is called. With everything inline the verdict took
//! 130,000 verified instructions and a quarter of a second to load; so it takes a few thousand.
//!
//! The kernel wants their arguments and results to be plain numbers.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use lunar_common::{
    abi::{
        Control, Event, LISTENERS_PER_ENDPOINT, LISTENERS_PER_RELAYED, MAX_ENDPOINTS, RELAY_LEASE, Settings,
        TO_RELAY, endpoint, event, flag,
    },
    bar::{self, Bar},
    failsafe::{self, Attempt, Outcome, Step, Ticket, Word},
    lookup,
    names::LearnedKey,
    net::{Address, Destination, NetworkOrder},
    opinion::Opinion,
    policy::{V4, V6},
    syn,
    time::KtimeNs,
    verdict::{self, EndpointFacts, Fitness, Packed, REASONS, Reason, Turns},
};

use crate::{
    atomic::{self, load},
    count, maps,
    policy::Policy,
};

/// The endpoints, as a socket sees them.
struct Endpoints<'a> {
    settings: &'a Settings,
    control: *const Control,
    /// Family of the addresses that the socket can reach, 4 or 6; 0 for none.
    family: u32,
    /// Cookie of its network namespace.
    netns: u64,
    /// Slot + 1 of its target.
    target: u32,
    now: KtimeNs,
}

impl EndpointFacts for Endpoints<'_> {
    #[inline(always)]
    fn endpoints(&self) -> u32 {
        self.settings.endpoint_count
    }

    #[inline(always)]
    fn first(&self, count: u32) -> u32 {
        // With one endpoint any number does, and the clock's is at hand; a constant would make the verifier walk the
        // list twice, once from each start.
        let random = if count > 1 {
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_get_prandom_u32() }
        } else {
            self.now.0 as u32
        };
        // Multiply and shift: a fair share without a division.
        ((u64::from(random) * u64::from(count)) >> 32) as u32
    }

    #[inline(always)]
    fn suitable(&self) -> u32 {
        suitable(self.family, self.netns, self.target, self.now.0)
    }

    #[inline(always)]
    fn forced(&self) -> bool {
        // SAFETY: as in `suitable`.
        load(unsafe { &raw const (*self.control).forced }) != 0
    }

    #[inline(always)]
    fn take(&self, turns: Turns, step: u32, so_far: Packed) -> Packed {
        Packed(take(turns.0, step, so_far.0, self.now.0))
    }
}

/// Slot of the nth endpoint of the list.
#[inline(always)]
pub fn slot(settings: &Settings, nth: u32) -> u32 {
    // The mask is for the verifier.
    u32::from(settings.endpoints[nth as usize & (MAX_ENDPOINTS as usize - 1)])
}

/// The bar between a target (slot + 1) and an endpoint.
#[inline(always)]
fn bar(target: u32, endpoint: u32) -> Option<*mut u64> {
    maps::BARS.get_ptr_mut(bar::place(target.wrapping_sub(1), endpoint))
}

/// The endpoints of the list, a bit each, that take connections of a target (slot + 1) at `now` (nanoseconds) from a socket that
/// reaches addresses of `family`, in the network namespace with the cookie `netns`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn suitable(family: u32, netns: u64, target: u32, now: u64) -> u32 {
    let (Some(settings), Some(control)) = (maps::settings(), maps::control()) else { return 0 };
    // SAFETY: a live map value; only the field's address is taken.
    let unready = load(unsafe { &raw const (*control).unready });
    let mut all = 0;
    for nth in 0..MAX_ENDPOINTS {
        if nth >= settings.endpoint_count {
            break;
        }
        let slot = slot(settings, nth);
        let Some(endpoint) = maps::ENDPOINTS.get(slot) else { break };
        let reached = if settings.flags & flag::RELAY != 0 {
            // The relay reaches them all, whatever the socket does; a free slot is nobody's.
            family != 0 && endpoint.family != 0
        } else {
            u32::from(endpoint.family) == family
                && (endpoint.netns == 0 || endpoint.netns == netns)
                && !bar(target, slot).is_some_and(|word| Bar(load(word)).holds(KtimeNs(now)))
        };
        if reached && unready >> (slot & 31) & 1 == 0 {
            all |= 1 << nth;
        }
    }
    all
}

/// Raises it: a redirected connect found no port.
#[inline(always)]
pub fn raise_bar(target: u32, endpoint: u32) {
    if let Some(word) = bar(target, endpoint) {
        let raised = Bar(load(word)).raised(maps::now());
        // SAFETY: a live map value, aligned; one store, and of two at a time either will do.
        unsafe { word.write_volatile(raised.0) };
    }
}

/// One step of the choice, at `now` (nanoseconds): [`Turns::take`] in plain numbers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take(turns: u32, step: u32, so_far: u64, now: u64) -> u64 {
    let Some(settings) = maps::settings() else { return so_far };
    Turns(turns).take(step, Packed(so_far), |nth| fitness(settings, slot(settings, nth), KtimeNs(now))).0
}

#[inline(always)]
fn fitness(settings: &Settings, slot: u32, now: KtimeNs) -> Fitness {
    let (Some(word), Some(entry)) = (maps::FAILSAFE.get_ptr(slot), maps::ENDPOINTS.get(slot)) else {
        return Fitness::Cooling;
    };
    let Some(ticket) = Word(load(word)).admit(now, settings.grace) else {
        return Fitness::Cooling;
    };
    if overdue_syn(slot, now) {
        Fitness::Cooling
    } else if entry.flags & endpoint::LOCAL != 0 && !listening(slot) {
        Fitness::NoListener(ticket)
    } else {
        Fitness::Fit(ticket)
    }
}

/// Whether the endpoint in `slot` has left a SYN unanswered for too long.
#[inline(always)]
fn overdue_syn(slot: u32, now: KtimeNs) -> bool {
    let Some(syns) = maps::SYNS.get_ptr(slot) else { return false };
    // SAFETY: the index is within the array of the live map value.
    (0..syn::SYN_SLOTS).any(|place| syn::overdue(load(unsafe { &raw const (*syns).started[place] }), now))
}

/// Whether a listening socket of the endpoint in `slot` is alive. The kernel empties a place when its socket closes.
#[inline(always)]
fn listening(slot: u32) -> bool {
    (0..LISTENERS_PER_ENDPOINT).any(|place| maps::listener(slot * LISTENERS_PER_ENDPOINT + place))
}

/// Where the relay takes connections of `family` in the network namespace with the cookie `netns`, at `now` (nanoseconds): the raw
/// port in bits 0 to 15, its place in 16 to 31, the raw IPv4 address in 32 to 63; no port: nowhere.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn relay_at(netns: u64, family: u32, now: u64) -> u64 {
    let Some(control) = maps::control() else { return 0 };
    // SAFETY: the value is copied at once; the agent replaces it as a whole.
    let Some(relay) = (unsafe { maps::RELAYS.get(netns) }).copied() else {
        // It is to come: the agent finds the namespace by its process.
        count::tell(Event {
            at: KtimeNs(now),
            kind: event::NO_RELAY,
            tgid: count::tgid(),
            ..Event::default()
        });
        return 0;
    };
    // SAFETY: a live map value; only the field's address is taken.
    let heartbeat = load(unsafe { &raw const (*control).relay_heartbeat });
    let v6 = u32::from(family == 6);
    if KtimeNs(now).since(heartbeat) >= RELAY_LEASE
        || fails(relay.place)
        || !maps::relay_listens(relay.place * LISTENERS_PER_RELAYED + v6)
    {
        return 0;
    }
    if v6 != 0 {
        return u64::from(relay.place) << 16 | u64::from(relay.port_v6.raw());
    }
    // A listener on every address of 127/8 that is none of a network's first and last: many times the ports of one.
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let address = u32::from_ne_bytes([127, random as u8, (random >> 8) as u8, 1]);
    u64::from(address) << 32 | u64::from(relay.place) << 16 | u64::from(relay.port_v4.raw())
}

/// Whether so many connects to the relay have failed in a row in one namespace that none is to go there.
#[inline(always)]
fn fails(place: u32) -> bool {
    let (Some(settings), Some(failures)) = (maps::settings(), maps::RELAY_FAILURES.get_ptr(place)) else {
        return true;
    };
    load(failures) >= u64::from(settings.threshold)
}

/// Steps 6 to 8 of the verdict, packed: for a socket that can reach addresses of `family` (4, 6, or 0 for none), in
/// the network namespace with the cookie `netns`, of the target with this slot + 1, at `now` (nanoseconds).
#[unsafe(no_mangle)]
pub extern "C" fn choose_endpoint(family: u32, netns: u64, target: u32, now: u64) -> u64 {
    let (Some(settings), Some(control)) = (maps::settings(), maps::control()) else {
        return Reason::Unsuitable as u64;
    };
    verdict::choose(&Endpoints { settings, control, family, netns, target, now: KtimeNs(now) }).0
}

/// Counts a verdict and the policy's part in it. The target's slot + 1 and the reason, a raw [`Opinion`], the target's cgroup,
/// and the destination's address as two numbers.
#[unsafe(no_mangle)]
pub extern "C" fn count_verdict(
    target_and_reason: u64,
    opinion: u32,
    cgroup: u64,
    high: u64,
    low: u64,
) -> u32 {
    let (target, reason) = ((target_and_reason >> 32) as u32, target_and_reason as u32);
    if (reason as usize) < REASONS {
        count::of_target!(target, verdicts[reason as usize]);
    }
    let Some(settings) = maps::settings() else { return 0 };
    let opinion = Opinion(opinion);
    count::policy(target, opinion, settings.allow_entries);
    if opinion.is_not_yet() && settings.flags & flag::NAMES_WANTED != 0 {
        count::unknown(cgroup, Address::from_halves([high, low]), maps::now());
    }
    0
}

/// Tells the agent of a verdict: the target's slot + 1 and the reason, the endpoint's slot and the raw port, and the
/// destination's address as two numbers.
#[unsafe(no_mangle)]
pub extern "C" fn tell_of_verdict(
    target_and_reason: u64,
    endpoint_and_port: u64,
    high: u64,
    low: u64,
) -> u32 {
    let port = NetworkOrder::<u16>::from_raw(endpoint_and_port as u16);
    count::tell(Event {
        at: maps::now(),
        kind: event::VERDICT,
        target: (target_and_reason >> 32) as u32,
        endpoint: (endpoint_and_port >> 32) as u32,
        reason: target_and_reason as u32,
        tgid: count::tgid(),
        original: Destination::new(Address::from_halves([high, low]), port),
        word: 0,
    });
    0
}

/// [`lookup::of_v4`], of an address in host order.
#[unsafe(no_mangle)]
pub extern "C" fn opinion_of_v4(address: u32, port: u32) -> u32 {
    lookup::of_v4(&Policy, V4(address), port as u16).0
}

/// The same or [`lookup::of_v6`], of an address as two halves in host order, of family 4 or 6.
#[unsafe(no_mangle)]
pub extern "C" fn opinion_of_any(high: u64, low: u64, family: u32, port: u32) -> u32 {
    if family == 4 {
        lookup::of_v4(&Policy, V4(low as u32), port as u16).0
    } else {
        lookup::of_v6(&Policy, V6 { high, low }, port as u16).0
    }
}

/// [`lookup::of_known`], of an address given as its words in two numbers, at `now` (nanoseconds).
#[unsafe(no_mangle)]
pub extern "C" fn opinion_of_names(cgroup: u64, high: u64, low: u64, port: u32, now: u64) -> u32 {
    let key = LearnedKey { cgroup, address: Address::from_halves([high, low]) };
    lookup::of_known(&Policy, &key, port as u16, KtimeNs(now)).0
}

/// Enters the result of a connect (`failed` 0 or 1) into the word of its endpoint, and tells of a transition.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle(endpoint: u32, ticket: u32, failed: u32) -> u32 {
    if endpoint == TO_RELAY {
        // The gateway's words are the relay's to write. What fails here is the way to the relay.
        if let Some(failures) = maps::RELAY_FAILURES.get_ptr_mut(ticket) {
            if failed != 0 {
                atomic::add(failures, 1);
            } else {
                // SAFETY: a live map value, aligned; one store, and of two at a time either will do.
                unsafe { failures.write_volatile(0) };
            }
        }
        return 1;
    }
    u32::from(failsafe::persist(|| (settle_once(endpoint, ticket, failed) != 0).then_some(())).is_some())
}

/// One try at that; 0 when the word did not hold still.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn settle_once(endpoint: u32, ticket: u32, failed: u32) -> u32 {
    let (Some(word), Some(settings)) = (maps::FAILSAFE.get_ptr_mut(endpoint), maps::settings()) else {
        return 1;
    };
    let now = maps::now();
    let outcome = if failed != 0 { Outcome::Failure } else { Outcome::Success };
    let cell = atomic::WordCell(word);
    let Some(step) =
        failsafe::settle_once(&cell, Attempt::Connect, outcome, Ticket(ticket), settings.limits(), now)
    else {
        return 0;
    };
    let (kind, word) = match step {
        Step::Opened(word) => (event::OPENED, word),
        Step::Closed(word) => (event::CLOSED, word),
        Step::Dropped | Step::Unchanged | Step::Counted(_) => return 1,
    };
    count::tell(Event { at: now, kind, endpoint, word: word.0, ..Event::default() });
    1
}
