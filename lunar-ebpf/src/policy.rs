//! The policy's maps, for a look-up.

use lunar_common::{
    lookup::Maps,
    names::{LearnedKey, NameAnswer, PLACES},
    policy::{BoundaryV4, BoundaryV6, Bucket, PortRule},
};

use crate::{atomic::load, maps};

/// Those of this generation, and what is known of names.
pub struct Policy;

impl Maps for Policy {
    #[inline(always)]
    fn outline_v4(&self, word: u32) -> Option<u64> {
        maps::OUTLINE_V4.get(word).copied()
    }

    #[inline(always)]
    fn outline_v6(&self, word: u32) -> Option<u64> {
        maps::OUTLINE_V6.get(word).copied()
    }

    #[inline(always)]
    fn bucket_v4(&self, bucket: u32) -> Option<Bucket> {
        maps::BUCKETS_V4.get(bucket).copied()
    }

    #[inline(always)]
    fn bucket_v6(&self, bucket: u32) -> Option<Bucket> {
        maps::BUCKETS_V6.get(bucket).copied()
    }

    #[inline(always)]
    fn boundary_v4(&self, boundary: u32) -> Option<BoundaryV4> {
        maps::BOUNDARIES_V4.get(boundary).copied()
    }

    #[inline(always)]
    fn boundary_v6(&self, boundary: u32) -> Option<BoundaryV6> {
        maps::BOUNDARIES_V6.get(boundary).copied()
    }

    #[inline(always)]
    fn port_rule(&self, rule: u32) -> Option<PortRule> {
        maps::PORT_RULES.get(rule).copied()
    }

    #[inline(always)]
    fn learned(&self, key: &LearnedKey) -> Option<[u64; PLACES]> {
        let learned = maps::LEARNED.get_ptr(key)?;
        // SAFETY: the places are within the live map value; each is read as one, since other CPUs write them.
        Some(core::array::from_fn(|i| load(unsafe { &raw const (*learned).places[i] })))
    }

    #[inline(always)]
    fn name_answer(&self, pattern: u32) -> Option<NameAnswer> {
        maps::NAME_ANSWERS.get(pattern).copied()
    }
}
