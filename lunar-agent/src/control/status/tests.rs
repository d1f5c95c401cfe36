//! What the pins hold may be anything: an older agent's, or what somebody scribbled there. It is shown, or is an error;
//! it is never a panic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use lunar_common::net::Destination;
use proptest::prelude::*;

use super::*;
use crate::kernel::layout::{Value as Pod, put_text};

/// Kinds of bytes, as a map's value may hold them.
const FILLS: u8 = 6;

/// A value of a map, of bytes that nobody chose.
fn scribbled<T>() -> impl Strategy<Value = T>
where
    T: Copy + std::fmt::Debug,
    Pod<T>: aya::Pod,
{
    (0..FILLS).prop_perturb(|fill, mut rng| {
        let mut bytes = vec![0; size_of::<T>()];
        match fill {
            0 => {}
            1 => bytes.fill(0xff),
            2 => bytes.fill(0x01),
            3 => bytes.iter_mut().for_each(|b| *b = rng.random_range(b' '..=b'~')),
            // Mostly small figures, so that lengths are sometimes within their fields.
            4 => bytes.iter_mut().for_each(|b| *b = rng.random_range(0..3)),
            _ => rng.fill_bytes(&mut bytes),
        }
        // SAFETY: as many bytes as the type has, and of a `Pod` every bit pattern is a value.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn an_endpoint_of_any_bytes_is_shown(entry in scribbled::<Endpoint>(), word: u64, now: u64) {
        let shown = endpoint(&entry, Word(word), KtimeNs(now));
        prop_assert!(["closed", "cooldown", "probation"].contains(&shown.state.as_str()));
        prop_assert_eq!(shown.state == "cooldown", shown.cooldown_remaining_ms > 0);
        prop_assert!(shown.address.parse::<SocketAddr>().is_ok(), "{}", shown.address);
        prop_assert!(shown.name.chars().count() <= entry.name.len());
        prop_assert!(shown.last_error.as_ref().is_none_or(|e| e.chars().count() <= entry.error.len()));
        prop_assert_eq!(shown.healthy.is_none(), !(1..=2).contains(&entry.health));
        let json = serde_json::to_string(&shown).unwrap();
        prop_assert_eq!(serde_json::from_str::<EndpointStatus>(&json).unwrap().name, shown.name);
    }

    #[test]
    fn a_target_of_any_bytes_is_shown(entry in scribbled::<TargetEntry>(), counters in scribbled::<Counters>()) {
        let shown = target(&entry, &counters, 0, None);
        prop_assert_eq!(shown.verdicts.len(), REASONS);
        prop_assert!(shown.name.chars().count() <= entry.name.len());
        prop_assert!(shown.cgroup.chars().count() <= entry.path.len());
        let json = serde_json::to_string(&shown).unwrap();
        let again: Target = serde_json::from_str(&json).unwrap();
        prop_assert_eq!((again.name, again.cgroup, again.cgroup_id), (shown.name, shown.cgroup, shown.cgroup_id));
    }

    #[test]
    fn settings_of_any_bytes_have_a_handoff(settings in scribbled::<Settings>()) {
        prop_assert!(["original-dst", "proxy-protocol", "unknown"].contains(&handoff_name(&settings)));
    }

    #[test]
    fn a_destination_of_any_bytes_is_an_address(entry in scribbled::<Endpoint>()) {
        let address = SocketAddr::from(entry.address);
        prop_assert_eq!(SocketAddr::from(Destination::from(address)), address);
    }

    #[test]
    fn text_of_any_bytes_and_any_length_is_text(field in proptest::collection::vec(any::<u8>(), 0..40), len: u16) {
        let shown = text(&field, len);
        prop_assert!(shown.chars().count() <= field.len().min(len.into()));
    }

    #[test]
    fn text_that_is_put_comes_back_as_far_as_there_is_room(given in any::<String>()) {
        let mut field = [0xaa; 24];
        let len = put_text(&mut field, &given);
        let back = text(&field, len);
        prop_assert!(given.starts_with(&back), "{back:?}");
        let cut = given.chars().nth(back.chars().count()).map_or(0, char::len_utf8);
        prop_assert!(cut == 0 || back.len() + cut > field.len(), "{back:?} of {given:?}");
    }
}
