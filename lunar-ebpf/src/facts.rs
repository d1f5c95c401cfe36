//! What the verdict asks, answered from the maps.

use aya_ebpf::{Global, helpers::bpf_get_prandom_u32};
use lunar_common::{
    abi::{Control, Endpoint, MAX_ENDPOINTS, Settings, flag},
    failsafe::{Ticket, Word},
    net::{Address, Destination},
    policy::{self, Answer, PORTS_PER_WORD, PortClass, PortRule},
    syn,
    time::KtimeNs,
    verdict::{Facts, Fitness},
};

use crate::{
    atomic::load,
    context::{self, SockAddr},
    count, maps,
};

/// Set by the agent before loading: 1 where the programs may follow pointers into kernel structures
/// (`CAP_PERFMON`). Read-only data, so with 0 the verifier drops what needs it.
#[unsafe(no_mangle)]
static READS_KERNEL_STRUCTS: Global<u8> = Global::new(0);

/// Whether the programs may follow pointers into kernel structures.
#[inline(always)]
pub fn reads_kernel_structs() -> bool {
    READS_KERNEL_STRUCTS.load() != 0
}

/// The facts of one connect.
pub struct ConnectFacts<'a, H> {
    /// The hook.
    pub hook: &'a H,
    /// The generation's settings.
    pub settings: &'a Settings,
    /// What changes at run time.
    pub control: *mut Control,
    /// Where the application means to go.
    pub destination: Destination,
    /// 4 or 6: the family of `destination`.
    pub family: u16,
    /// The time at which all is decided.
    pub now: KtimeNs,
}

impl<H: SockAddr> ConnectFacts<'_, H> {
    /// Slot of the nth endpoint of the list.
    #[inline(always)]
    pub fn slot(&self, nth: u32) -> u32 {
        // The mask is for the verifier.
        u32::from(self.settings.endpoints[nth as usize & (MAX_ENDPOINTS as usize - 1)])
    }

    /// The nth endpoint of the list.
    #[inline(always)]
    pub fn endpoint(&self, nth: u32) -> Option<&'static Endpoint> {
        maps::ENDPOINTS.get(self.slot(nth))
    }

    #[inline(always)]
    fn unready(&self) -> u32 {
        // SAFETY: a live map value; only the field's address is taken.
        load(unsafe { &raw const (*self.control).unready })
    }
}

impl<H: SockAddr> Facts for ConnectFacts<'_, H> {
    #[inline(always)]
    fn port_class(&self) -> PortClass {
        let port = self.port();
        match maps::PORTS.get(u32::from(port) / PORTS_PER_WORD) {
            Some(word) => PortClass::of(*word, port),
            None => PortClass::Ignored,
        }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        self.destination.port.to_host()
    }

    #[inline(always)]
    fn exempt(&self) -> bool {
        if context::mark(self.hook.sk()) == self.settings.mark {
            return true;
        }
        // SAFETY: the value is only tested for presence.
        self.settings.flags & flag::EXEMPT_PROCESSES != 0
            && unsafe { maps::EXEMPT.get(count::tgid()) }.is_some()
    }

    #[inline(always)]
    fn lease_fresh(&self) -> bool {
        // SAFETY: a live map value; only the field's address is taken.
        let heartbeat = load(unsafe { &raw const (*self.control).heartbeat });
        self.now.since(heartbeat) < self.settings.lease
    }

    #[inline(always)]
    fn policy(&self) -> Answer {
        Answer(look_up(&self.destination.address, u32::from(self.family)))
    }

    #[inline(always)]
    fn port_rule(&self, index: u16) -> Option<PortRule> {
        maps::PORT_RULES.get(u32::from(index)).copied()
    }

    #[inline(always)]
    fn dry_run(&self) -> bool {
        self.settings.flags & flag::DRY_RUN != 0
    }

    #[inline(always)]
    fn forced(&self) -> bool {
        // SAFETY: a live map value; only the field's address is taken.
        load(unsafe { &raw const (*self.control).forced }) != 0
    }

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
    fn suitable(&self, nth: u32) -> bool {
        let Some(endpoint) = self.endpoint(nth) else { return false };
        endpoint.family == self.family
            && !context::bound_to_device(self.hook.sk())
            && (endpoint.netns == 0 || endpoint.netns == self.hook.netns())
            && self.unready() >> (self.slot(nth) & 31) & 1 == 0
            && self.hook.permits(self.family)
    }

    #[inline(always)]
    fn fitness(&self, nth: u32) -> Fitness {
        let slot = self.slot(nth);
        let (Some(word), Some(endpoint)) = (maps::FAILSAFE.get_ptr(slot), self.endpoint(nth)) else {
            return Fitness::Cooling;
        };
        let Some(ticket) = Word(load(word)).admit(self.now, self.settings.grace) else {
            return Fitness::Cooling;
        };
        if oldest_syn_overdue(slot, self.now.0) != 0 {
            return Fitness::Cooling;
        }
        if endpoint.local != 0 && !maps::listening(slot) {
            return Fitness::NoListener(ticket);
        }
        Fitness::Fit(Ticket(ticket.0))
    }
}

/// Whether the endpoint has left a SYN unanswered for too long. A function of its own: once, for the verifier.
#[inline(never)]
fn oldest_syn_overdue(slot: u32, now: u64) -> u32 {
    let Some(syns) = maps::SYNS.get_ptr(slot) else { return 0 };
    for place in 0..syn::SYN_SLOTS {
        // An early return and no accumulator: the verifier would follow each of its values through the rest.
        // SAFETY: the index is within the array of the live map value.
        if syn::overdue(load(unsafe { &raw const (*syns).started[place] }), KtimeNs(now)) {
            return 1;
        }
    }
    0
}

/// The policy's raw answer for an address. A function of its own: once, for the verifier.
#[inline(never)]
fn look_up(address: &Address, family: u32) -> u32 {
    let answer = if family == 4 {
        let key = policy::v4_key(*address);
        let bucket = maps::BUCKETS_V4.get(policy::Family::bucket(key)).copied().unwrap_or_default();
        policy::search(key, bucket, |i| maps::BOUNDARIES_V4.get(i).copied())
    } else {
        let key = policy::v6_key(*address);
        let bucket = maps::BUCKETS_V6.get(policy::Family::bucket(key)).copied().unwrap_or_default();
        policy::search(key, bucket, |i| maps::BOUNDARIES_V6.get(i).copied())
    };
    answer.0
}
