//! One pattern that an address is known by.

use crate::time::KtimeNs;

/// Patterns that one address can be known by at one time. A fifth is not stored, which is a miss.
pub const PLACES: usize = 4;

/// A pattern's id and until when it holds, in one word: bits 0 to 23 the id, above it the time in units of 2^20 ns (about a
/// millisecond). 0: free.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place(pub u64);

const ID_BITS: u32 = 24;
const UNIT: u32 = 20;

impl Place {
    /// Ids are less.
    pub const PATTERNS: u32 = 1 << ID_BITS;

    /// A pattern that holds until `expires`, rounded down to the unit.
    #[inline(always)]
    pub const fn new(pattern: u32, expires: KtimeNs) -> Self {
        Self(expires.0 >> UNIT << ID_BITS | (pattern & (Self::PATTERNS - 1)) as u64)
    }

    /// The pattern.
    #[inline(always)]
    pub const fn pattern(self) -> u32 {
        self.0 as u32 & (Self::PATTERNS - 1)
    }

    /// Until when it holds.
    #[inline(always)]
    pub const fn expires(self) -> KtimeNs {
        KtimeNs(self.0 >> ID_BITS << UNIT)
    }

    /// Whether it holds at `now`.
    #[inline(always)]
    pub const fn holds(self, now: KtimeNs) -> bool {
        self.0 >> ID_BITS > now.0 >> UNIT
    }
}

/// A change of one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put {
    /// Which.
    pub at: usize,
    /// What it is now.
    pub was: Place,
    /// What it is to be.
    pub place: Place,
}

/// What to change so that the pattern holds until `expires`: its own place, never to a shorter time than it has, or one that
/// holds no longer. `None`: all are taken by others.
#[inline(always)]
pub fn put(places: &[u64; PLACES], pattern: u32, expires: KtimeNs, now: KtimeNs) -> Option<Put> {
    let new = Place::new(pattern, expires);
    let mut free = None;
    let mut own = None;
    for (at, place) in places.iter().enumerate() {
        let was = Place(*place);
        if was.pattern() == pattern && was.0 != 0 {
            // The ids are equal, so the later of two is the greater word.
            own = Some(Put { at, was, place: if was.0 > new.0 { was } else { new } });
        } else if free.is_none() && !was.holds(now) {
            free = Some(Put { at, was, place: new });
        }
    }
    own.or(free)
}

/// What to change where [`put`] finds no place for a pattern that blocks: one that does not has to give way, since whoever
/// blocks an address has the last word. `None`: all of them block.
#[inline(always)]
pub fn put_in_the_way(
    places: &[u64; PLACES],
    pattern: u32,
    expires: KtimeNs,
    blocks: impl Fn(u32) -> bool,
) -> Option<Put> {
    let mut gives_way = None;
    for (at, place) in places.iter().enumerate() {
        let was = Place(*place);
        if gives_way.is_none() && !blocks(was.pattern()) {
            gives_way = Some(Put { at, was, place: Place::new(pattern, expires) });
        }
    }
    gives_way
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_keeps_its_parts(pattern in 0..Place::PATTERNS, expires in 0..u64::MAX >> 4, now in 0..u64::MAX >> 4) {
            let place = Place::new(pattern, KtimeNs(expires));
            prop_assert_eq!(place.pattern(), pattern);
            prop_assert!(place.expires().0 <= expires && expires - place.expires().0 < 1 << UNIT);
            prop_assert_eq!(place.holds(KtimeNs(now)), now < place.expires().0);
        }

        #[test]
        fn whoever_blocks_finds_a_place_among_those_that_do_not(blocking: [bool; PLACES]) {
            let (now, later) = (KtimeNs(1 << UNIT), KtimeNs(9 << UNIT));
            let places = core::array::from_fn(|at| Place::new(at as u32, later).0);
            prop_assert_eq!(put(&places, 7, later, now), None);
            let found = put_in_the_way(&places, 7, later, |pattern| blocking[pattern as usize]);
            prop_assert_eq!(found.map(|put| put.at), blocking.iter().position(|blocks| !blocks));
            if let Some(put) = found {
                prop_assert_eq!((put.was.0, put.place), (places[put.at], Place::new(7, later)));
            }
        }

        /// Whatever is put one after the other is there afterwards, as long as not more than four patterns hold at once.
        #[test]
        fn what_was_put_holds(steps in proptest::collection::vec((0_u32..6, 1_u64..50, 0_u64..20), 1..60)) {
            let at = |ms: u64| KtimeNs(ms << UNIT);
            let (mut places, mut now) = ([0; PLACES], 1);
            let mut model = std::collections::BTreeMap::<u32, u64>::new();
            for (pattern, lasting, pause) in steps {
                now += pause;
                model.retain(|_, until| *until > now);
                let room = model.contains_key(&pattern) || model.len() < PLACES;
                match put(&places, pattern, at(now + lasting), at(now)) {
                    Some(put) => {
                        prop_assert!(room);
                        prop_assert_eq!(places[put.at], put.was.0);
                        places[put.at] = put.place.0;
                        let until = model.entry(pattern).or_default();
                        *until = (*until).max(now + lasting);
                    }
                    None => prop_assert!(!room, "{places:?} {model:?}"),
                }
                let held: std::collections::BTreeMap<u32, u64> = places
                    .iter()
                    .map(|p| Place(*p))
                    .filter(|p| p.holds(at(now)))
                    .map(|p| (p.pattern(), p.expires().0 >> UNIT))
                    .collect();
                prop_assert_eq!(&held, &model);
            }
        }
    }
}
