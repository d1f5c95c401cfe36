//! Counting and telling: per-target counters, totals, and events to the agent.

use aya_ebpf::{bindings::bpf_sock, helpers::bpf_get_current_pid_tgid};
use lunar_common::{
    abi::{Connection, Event, event},
    names::Missed,
    net::Address,
    opinion::Opinion,
    time::KtimeNs,
    verdict::Reason,
};

use crate::{apart, context, maps};

/// Adds one to a counter of a target; `target` is its slot + 1.
macro_rules! of_target {
    ($target:expr, $($field:tt)+) => {
        $crate::count::add_of_target!($target, 1, $($field)+)
    };
}
pub(crate) use of_target;

/// Adds to a counter of a target; `target` is its slot + 1.
macro_rules! add_of_target {
    ($target:expr, $value:expr, $($field:tt)+) => {
        if let Some(counters) = $crate::maps::COUNTERS.get_ptr_mut($target.wrapping_sub(1)) {
            // SAFETY: the value is live for the whole program; only the address of the field is taken.
            $crate::atomic::add(unsafe { &raw mut (*counters).$($field)+ }, $value);
        }
    };
}
pub(crate) use add_of_target;

/// Adds one to a counter of the whole.
macro_rules! of_all {
    ($field:ident) => {
        if let Some(totals) = $crate::maps::TOTALS.get_ptr_mut(0) {
            // SAFETY: as in `of_target`.
            $crate::atomic::add(unsafe { &raw mut (*totals).$field }, 1);
        }
    };
}
pub(crate) use of_all;

/// Counts what the policy's entries made of a connect. An entry that blocks another port of a wanted destination has no part
/// in it.
#[inline(always)]
pub fn policy(target: u32, opinion: Opinion, allow_entries: u32) {
    if opinion.shared() {
        of_target!(target, shared);
    }
    if opinion.entry() != 0
        && (opinion.entry() > allow_entries) == opinion.blocked()
        && let Some(hits) = maps::HITS.get_ptr_mut(opinion.entry())
    {
        crate::atomic::add(hits, 1);
    }
}

/// Remembers a connect that went direct because nothing was known of its address: that may turn out to be wanted.
#[inline(always)]
pub fn unknown(cgroup: u64, address: Address, now: KtimeNs) {
    let (tag, place) = Missed::tag(cgroup, address);
    if let Some(missed) = maps::MISSED.get_ptr_mut(place) {
        let noted = crate::atomic::load(missed).noted(tag, now);
        // SAFETY: a live map value. Of two that write at a time one may lose a connect, or the place; at worst the place says
        // that so many connects were the other's, and the count of misses is off by those.
        unsafe { *missed = noted };
    }
}

/// Tells the agent; an event that does not fit is lost and counted.
#[inline(always)]
pub fn tell(event: Event) {
    match maps::EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => of_all!(events_lost),
    }
}

/// The process that runs now. Only meaningful in a hook of one of its system calls.
#[inline(always)]
pub fn tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Counts a redirected connect that failed before a packet left. If there was a route there was no port: then the
/// target's next ones do not go there for a while. (An IPv6 socket does not tell the one from the other.)
#[inline(always)]
pub fn unsent(connection: &Connection, sk: *mut bpf_sock) {
    of_all!(unsent);
    let endpoint = maps::ENDPOINTS.get(connection.endpoint).map(|e| e.address.address);
    if endpoint.is_some_and(|a| a.is_v4() && context::found_no_port(sk, a.v4_raw())) {
        apart::raise_bar(connection.target, connection.endpoint);
    }
    connect_failed(connection);
}

/// Counts a redirected connect that failed, enters it into the failsafe and tells the agent.
#[inline(always)]
pub fn connect_failed(connection: &Connection) {
    of_target!(connection.target, failed);
    apart::settle(connection.endpoint, connection.ticket, 1);
    tell(Event {
        at: maps::now(),
        kind: event::CONNECT_FAILED,
        target: connection.target,
        endpoint: connection.endpoint,
        reason: Reason::Redirected as u32,
        original: connection.original,
        ..Event::default()
    });
}
