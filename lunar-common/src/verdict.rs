//! The verdict: what becomes of one TCP `connect(2)` of a target, and why. One pure function, run by the
//! kernel's programs and by the host's tests; what it needs to know it asks of [`Facts`], in the order of
//! DESIGN section 3, so that nothing is looked up that an earlier step has made needless.

use crate::{failsafe::Ticket, opinion::Opinion, policy::PortClass};

/// Why a connect went where it went. The discriminant is its place in the counters of a target.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Rewritten to an endpoint.
    Redirected = 0,
    /// The port is not intercepted.
    NotIntercepted = 1,
    /// Port 443, left alone by `tls = "direct"`.
    TlsDirect = 2,
    /// The caller is the agent, the relay or the gateway.
    Exempt = 3,
    /// The agent has stopped its heartbeat.
    LeaseStale = 4,
    /// The policy does not want this address.
    Policy = 5,
    /// It would have been redirected.
    DryRun = 6,
    /// The socket cannot reach any endpoint.
    Unsuitable = 7,
    /// Bypassed by hand.
    Forced = 8,
    /// Every endpoint is in cooldown or probation, or leaves SYNs unanswered.
    Cooldown = 9,
    /// Nothing is listening at a local endpoint.
    NoListener = 10,
}

/// How many reasons there are.
pub const REASONS: usize = 11;

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; REASONS] = [
        Self::Redirected,
        Self::NotIntercepted,
        Self::TlsDirect,
        Self::Exempt,
        Self::LeaseStale,
        Self::Policy,
        Self::DryRun,
        Self::Unsuitable,
        Self::Forced,
        Self::Cooldown,
        Self::NoListener,
    ];

    /// The name in JSON, tables and logs (contract, DESIGN section 7).
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirected => "redirected",
            Self::NotIntercepted => "not_intercepted",
            Self::TlsDirect => "tls_direct",
            Self::Exempt => "exempt",
            Self::LeaseStale => "lease_stale",
            Self::Policy => "policy",
            Self::DryRun => "dry_run",
            Self::Unsuitable => "unsuitable",
            Self::Forced => "forced",
            Self::Cooldown => "cooldown",
            Self::NoListener => "no_listener",
        }
    }
}

/// What an endpoint that the socket can reach is worth to one connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fitness {
    /// In cooldown or probation, or its oldest SYN is overdue.
    Cooling,
    /// Admitted, but nothing listens there: a failed connect of that ticket.
    NoListener(Ticket),
    /// Fit.
    Fit(Ticket),
}

/// What the verdict asks, each at most once and in this order.
pub trait Facts {
    /// The class of the destination's port.
    fn port_class(&self) -> PortClass;
    /// Whether the caller is the agent, the relay or a process of the gateway.
    fn exempt(&self) -> bool;
    /// Whether the agent's last heartbeat is younger than the lease.
    fn lease_fresh(&self) -> bool;
    /// What the policy says of the destination, by its address and by the names that it is known to have.
    fn policy(&self) -> Opinion;
    /// Whether redirects are only counted.
    fn dry_run(&self) -> bool;
    /// Steps 6 to 8, usually by [`choose`].
    fn choose(&self) -> Verdict;
}

/// What the choice of an endpoint asks, in this order, each at most once, the last at most once per endpoint.
pub trait EndpointFacts {
    /// The endpoints that this socket can reach at all, a bit each.
    fn suitable(&self) -> u32;
    /// Whether a person has forced everything direct.
    fn forced(&self) -> bool;
    /// How many endpoints there are, at most [`crate::abi::MAX_ENDPOINTS`].
    fn endpoints(&self) -> u32;
    /// Where to begin among `count` endpoints, to spread the load.
    fn first(&self, count: u32) -> u32;
    /// What becomes of the verdict with the endpoint whose turn is in this step, by [`Turns::take`].
    fn take(&self, turns: Turns, step: u32, so_far: Packed) -> Packed;
}

/// The suitable endpoints in the order in which they are tried, as one number: in bits 0 to 7 whether there is one to try in each step,
/// the first endpoint in 8 to 15, how many there are in 16 to 23.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turns(pub u32);

impl Turns {
    #[inline(always)]
    const fn new(suitable: u32, count: u32, first: u32) -> Self {
        // The list twice in a row: what is before the start comes after the end.
        let twice = suitable | suitable << (count & 0xf);
        Self(twice >> (first & 7) & 0xff & ((1 << (count & 0xf)) - 1) | first << 8 | count << 16)
    }

    /// Whether no endpoint is left from this step on.
    #[inline(always)]
    const fn over(self, step: u32) -> bool {
        self.0 & 0xff & (u32::MAX << step) == 0
    }

    /// What becomes of the verdict in one step; `fitness` is asked of the endpoint whose turn it is, if it is suitable.
    #[inline(always)]
    pub fn take(self, step: u32, so_far: Packed, fitness: impl FnOnce(u32) -> Fitness) -> Packed {
        if self.0 >> (step & 7) & 1 == 0 {
            return so_far;
        }
        let (first, count) = (self.0 >> 8 & 0xff, self.0 >> 16);
        let nth = if first + step < count { first + step } else { first + step - count };
        match fitness(nth) {
            Fitness::Fit(ticket) => so_far.redirected(nth, ticket),
            Fitness::NoListener(ticket) => so_far.missing(nth, ticket),
            Fitness::Cooling => so_far,
        }
    }
}

/// The verdict on one connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// With [`Reason::Redirected`]: which endpoint of the list.
    pub nth: u32,
    /// With [`Reason::Redirected`]: the failsafe's ticket for the attempt.
    pub ticket: Ticket,
    /// An endpoint found without a listener on the way, also when another takes the connection: a failed
    /// connect of that endpoint. One at most for each connect; a random start gives each its turn.
    pub missing: Option<(u32, Ticket)>,
    /// What the policy said, where it was asked.
    pub opinion: Opinion,
}

/// A verdict without its opinion as one number, for functions that may return only that: the reason in bits 0 to 7, `nth` in 8 to
/// 15, the missing endpoint + 1 in 16 to 23, the tickets (14 bits each) from 24 and 40.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed(pub u64);

impl Packed {
    /// Direct.
    #[inline(always)]
    pub const fn direct(reason: Reason) -> Self {
        Self(reason as u64)
    }

    #[inline(always)]
    const fn redirects(self) -> bool {
        self.0 & 0xff == Reason::Redirected as u64
    }

    /// The same, of whatever endpoint is missing, to this one.
    #[inline(always)]
    const fn redirected(self, nth: u32, ticket: Ticket) -> Self {
        const MISSING: u64 = 0xffff << 40 | 0xff << 16;
        Self(self.0 & MISSING | Reason::Redirected as u64 | (nth as u64) << 8 | (ticket.0 as u64) << 24)
    }

    /// No listener, if no other endpoint takes it.
    #[inline(always)]
    const fn missing(self, nth: u32, ticket: Ticket) -> Self {
        Self(Reason::NoListener as u64 | (nth as u64 + 1) << 16 | (ticket.0 as u64) << 40)
    }
}

impl Verdict {
    /// Out of one number.
    #[inline(always)]
    pub fn unpack(Packed(packed): Packed) -> Self {
        let byte = |at: u32| (packed >> at) as u32 & 0xff;
        let ticket = |at: u32| Ticket((packed >> at) as u32 & 0xffff);
        let reason = match byte(0) {
            0 => Reason::Redirected,
            8 => Reason::Forced,
            9 => Reason::Cooldown,
            10 => Reason::NoListener,
            _ => Reason::Unsuitable,
        };
        let missing = match byte(16) {
            0 => None,
            place => Some((place - 1, ticket(40))),
        };
        Self { reason, nth: byte(8), ticket: ticket(24), missing, opinion: Opinion::NONE }
    }

    #[inline(always)]
    const fn direct(reason: Reason) -> Self {
        Self { reason, nth: 0, ticket: Ticket(0), missing: None, opinion: Opinion::NONE }
    }
}

/// Decides.
#[inline(always)]
pub fn decide(facts: &impl Facts) -> Verdict {
    let class = facts.port_class();
    if matches!(class, PortClass::Ignored) {
        return Verdict::direct(Reason::NotIntercepted);
    }
    if matches!(class, PortClass::TlsDirect) {
        return Verdict::direct(Reason::TlsDirect);
    }
    let mut opinion = Opinion::NONE;
    let by_entry = matches!(class, PortClass::ByEntry);
    if by_entry {
        opinion = facts.policy();
        if !opinion.adds_port() {
            return Verdict {
                opinion: opinion.adds_no_port_yet(),
                ..Verdict::direct(Reason::NotIntercepted)
            };
        }
    }
    if facts.exempt() {
        return Verdict::direct(Reason::Exempt);
    }
    if !facts.lease_fresh() {
        return Verdict::direct(Reason::LeaseStale);
    }
    if !by_entry {
        opinion = facts.policy();
    }
    let verdict = if !opinion.wanted() {
        opinion = opinion.unwanted_yet();
        Verdict::direct(Reason::Policy)
    } else if facts.dry_run() {
        Verdict::direct(Reason::DryRun)
    } else {
        facts.choose()
    };
    Verdict { opinion, ..verdict }
}

/// Steps 6 to 8: the first fit endpoint from a random start; otherwise how far the best one came. What is carried through the loop
/// is one number that nothing but [`EndpointFacts::take`] looks into: the kernel's verifier would follow each of its values through
/// all the steps that are left.
#[inline(always)]
pub fn choose(facts: &impl EndpointFacts) -> Packed {
    let suitable = facts.suitable();
    if suitable == 0 {
        return Packed::direct(Reason::Unsuitable);
    }
    if facts.forced() {
        return Packed::direct(Reason::Forced);
    }
    let count = facts.endpoints();
    let turns = Turns::new(suitable, count, facts.first(count));
    let mut verdict = Packed::direct(Reason::Cooldown);
    for step in 0..crate::abi::MAX_ENDPOINTS {
        if turns.over(step) {
            break;
        }
        verdict = facts.take(turns, step, verdict);
        if verdict.redirects() {
            break;
        }
    }
    verdict
}

#[cfg(test)]
mod tests;
