//! What the policy says of one destination, address and port together, from all sides: its addresses' entries and its
//! names'.

use crate::policy::{Answer, COUNTED_ENTRIES, PortRule};

/// What the policy says of a destination. Several sides may have one; [`Opinion::and`] joins them.
///
/// Bits 0 to 5: see the constants below. Bits 8 to 21: number of the entry that decides, see [`Answer::entry`].
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Opinion(pub u32);

const WANTED: u32 = 1 << 0;
const BLOCKED: u32 = 1 << 1;
const ADDS_PORT: u32 = 1 << 2;
const BLOCKS_PORT: u32 = 1 << 3;
const SHARED: u32 = 1 << 4;
const NOT_YET: u32 = 1 << 5;
const FLAGS: u32 = 0xff;
const ENTRY_AT: u32 = 8;

impl Opinion {
    /// Nobody has one.
    pub const NONE: Self = Self(0);

    /// What an answer says of a port in host order, given the answer's rule, if it has one.
    #[inline(always)]
    pub fn of(answer: Answer, rule: Option<&PortRule>, port: u16) -> Self {
        let mut flags = 0;
        if answer.wanted() {
            flags |= WANTED;
        }
        if answer.blocked() {
            flags |= BLOCKED;
        }
        if let Some(rule) = rule {
            if rule.adds(port) {
                flags |= ADDS_PORT;
            }
            if rule.blocks(port) {
                flags |= BLOCKS_PORT;
            }
        }
        // One side that wants the host and blocks the port is not two that disagree.
        flags &= !((flags / BLOCKS_PORT) & WANTED);
        Self(flags | answer.entry() << ENTRY_AT)
    }

    /// What two sides say together. The entry is that of the side that blocks, otherwise of the one that wants; of equals
    /// the first.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        let entry = if other.weight() > self.weight() { other.0 } else { self.0 };
        Self((self.0 | other.0) & FLAGS | entry & !FLAGS)
    }

    const fn weight(self) -> u32 {
        if self.0 & (BLOCKED | BLOCKS_PORT) != 0 { 2 } else { self.0 & WANTED }
    }

    /// What all names of an address say together, which is marked where one wants what another blocks.
    #[inline(always)]
    pub const fn of_all_names(self) -> Self {
        let both = self.0 & WANTED != 0 && self.0 & (BLOCKED | BLOCKS_PORT) != 0;
        Self(if both { self.0 | SHARED } else { self.0 })
    }

    /// Whether the destination is wanted.
    #[inline(always)]
    pub const fn wanted(self) -> bool {
        self.weight() == 1
    }

    /// Whether an entry adds the port to the intercepted ones.
    #[inline(always)]
    pub const fn adds_port(self) -> bool {
        self.0 & ADDS_PORT != 0
    }

    /// Whether an entry keeps it direct, all of it or this port.
    #[inline(always)]
    pub const fn blocked(self) -> bool {
        self.weight() == 2
    }

    /// Whether it serves both a wanted and a blocked name.
    #[inline(always)]
    pub const fn shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// What remains of one that does not add a port which is intercepted for some entries alone: a destination that nothing
    /// is known of may turn out to be one of theirs.
    #[inline(always)]
    pub const fn adds_no_port_yet(self) -> Self {
        Self(self.not_yet())
    }

    /// The same of one that does not want the destination.
    #[inline(always)]
    pub const fn unwanted_yet(self) -> Self {
        Self(self.0 | self.not_yet())
    }

    /// Without a branch, which the verifier would follow both ways.
    #[inline(always)]
    const fn not_yet(self) -> u32 {
        let settled = ((self.0 / WANTED) | (self.0 / BLOCKED) | (self.0 / BLOCKS_PORT)) & 1;
        (settled ^ 1) * NOT_YET
    }

    /// Whether nothing keeps the destination direct but that nothing is known of it.
    #[inline(always)]
    pub const fn is_not_yet(self) -> bool {
        self.0 & NOT_YET != 0
    }

    /// Number of the entry that decides; 0: none, or not counted.
    #[inline(always)]
    pub const fn entry(self) -> u32 {
        self.0 >> ENTRY_AT & (COUNTED_ENTRIES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 8443;

    fn rule(extra: u16, blocked: u16) -> PortRule {
        PortRule { extra: [extra, 0, 0, 0, 0, 0, 0, 0], blocked: [0, 0, 0, 0, 0, 0, 0, blocked] }
    }

    #[test]
    fn a_port_is_judged_by_the_rule() {
        let of = |rule: Option<PortRule>| Opinion::of(Answer::new(true, 1).by(9), rule.as_ref(), PORT);
        let plain = of(None);
        assert!(plain.wanted() && !plain.adds_port() && !plain.blocked() && plain.entry() == 9);
        assert!(of(Some(rule(PORT, 0))).adds_port() && !of(Some(rule(80, 0))).adds_port());
        assert!(of(Some(rule(0, PORT))).blocked() && !of(Some(rule(0, PORT))).wanted());
        assert!(of(Some(rule(0, 80))).wanted());
        let unwanted = Opinion::of(Answer::new(false, 1), Some(&rule(PORT, 0)), PORT);
        assert!(unwanted.adds_port() && !unwanted.wanted() && !unwanted.blocked());
    }

    #[test]
    fn block_wins_from_whichever_side_and_gives_its_entry() {
        let wanted = Opinion::of(Answer::new(true, 0).by(1), None, PORT);
        let blocked = Opinion::of(Answer::UNWANTED.block().by(2), None, PORT);
        let port = Opinion::of(Answer::new(true, 1).by(3), Some(&rule(0, PORT)), PORT);
        for (one, other, entry) in [
            (wanted, blocked, 2),
            (blocked, wanted, 2),
            (wanted, port, 3),
            (Opinion::NONE, blocked, 2),
            (blocked, port, 2),
        ] {
            let both = one.and(other);
            assert!(both.blocked() && !both.wanted() && both.entry() == entry, "{one:?} {other:?}");
        }
        let joined = Opinion::NONE.and(wanted).and(Opinion::of(Answer::new(true, 0).by(4), None, PORT));
        assert!(joined.wanted() && joined.entry() == 1, "the first of equals");
        let adds = Opinion::of(Answer::new(false, 1), Some(&rule(PORT, 0)), PORT);
        assert!(wanted.and(adds).adds_port() && adds.and(wanted).wanted());
    }

    #[test]
    fn only_names_that_disagree_share_an_address() {
        let wanted = Opinion::of(Answer::new(true, 0), None, PORT);
        let blocked = Opinion::of(Answer::UNWANTED.block(), None, PORT);
        assert!(wanted.and(blocked).of_all_names().shared());
        assert!(!wanted.of_all_names().shared() && !blocked.of_all_names().shared());
        assert!(!wanted.and(blocked).shared(), "an address' own entries and a name's are no two names");
        let but_this_port = Opinion::of(Answer::new(true, 1), Some(&rule(0, PORT)), PORT);
        assert!(
            but_this_port.blocked() && !but_this_port.of_all_names().shared(),
            "one name, of which a port is blocked"
        );
        assert!(wanted.and(but_this_port).of_all_names().shared());
    }
}
