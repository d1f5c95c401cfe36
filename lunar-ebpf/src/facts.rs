//! What the verdict asks, answered from the maps.

use aya_ebpf::Global;
use lunar_common::{
    abi::{Attachment, Control, Settings, flag},
    lookup,
    net::Destination,
    opinion::Opinion,
    policy::{self, PORTS_PER_WORD, PortClass},
    time::KtimeNs,
    verdict::{Facts, Packed, Verdict},
};

use crate::{
    apart,
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
    /// The target.
    pub attachment: Attachment,
    /// Where the application means to go.
    pub destination: Destination,
    /// 4 or 6: the family of `destination`.
    pub family: u16,
    /// The time at which all is decided.
    pub now: KtimeNs,
}

impl<H: SockAddr> Facts for ConnectFacts<'_, H> {
    #[inline(always)]
    fn port_class(&self) -> PortClass {
        let port = self.destination.port.to_host();
        match maps::PORTS.get(u32::from(port) / PORTS_PER_WORD) {
            Some(word) => PortClass::of(*word, port),
            None => PortClass::Ignored,
        }
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
    fn policy(&self) -> Opinion {
        let address = self.destination.address;
        let port = u32::from(self.destination.port.to_host());
        let opinion = Opinion(if H::V4_ONLY {
            apart::opinion_of_v4(policy::v4_key(address).0, port)
        } else {
            let key = policy::v6_key(address);
            apart::opinion_of_any(key.high, key.low, u32::from(self.family), port)
        });
        if self.settings.flags & flag::NAMES == 0 {
            return opinion;
        }
        let [high, low] = address.halves();
        lookup::joined(opinion, self.attachment.cgroup, |cgroup| {
            Opinion(apart::opinion_of_names(cgroup, high, low, port, self.now.0))
        })
    }

    #[inline(always)]
    fn dry_run(&self) -> bool {
        self.settings.flags & flag::DRY_RUN != 0
    }

    #[inline(always)]
    fn choose(&self) -> Verdict {
        let sk = self.hook.sk();
        // A UDP socket that sends has a port of its own by then, and its fallback is another socket.
        let bound = context::bound_to_device(sk) || context::shares_port(sk) && self.hook.is_tcp();
        // What is refused reaches nothing; redirected it would look like a failure of the endpoint.
        let reaches = !bound && !context::refused_already() && self.hook.permits(self.family);
        let family = if reaches { u32::from(self.family) } else { 0 };
        let netns = if self.settings.flags & flag::NAMESPACES != 0 { self.hook.netns() } else { 0 };
        Verdict::unpack(Packed(apart::choose_endpoint(family, netns, self.attachment.target, self.now.0)))
    }
}
