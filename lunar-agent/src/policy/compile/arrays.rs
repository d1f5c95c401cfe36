//! From disjoint ranges to the arrays that the kernel searches (see [`lunar_common::policy`]).

use lunar_common::policy::{Answer, BLOCKS, BLOCKS_PER_WORD, BUCKETS, Bucket, Outline, SEARCH_STEPS};

use super::{CompileError, ranges::Space};

/// Divides ranges into buckets, and makes the boundaries of those with more than one.
pub(super) fn divide<B>(
    space: &Space,
    ranges: &[(u128, Answer)],
    boundary: impl Fn(u128, Answer) -> B,
) -> Result<(Vec<Bucket>, Vec<B>), CompileError> {
    let shift = space.bits - BUCKETS.ilog2() as u8;
    let mut buckets = Vec::with_capacity(BUCKETS as usize);
    let mut boundaries = Vec::new();
    let mut rest = ranges;
    // The answer at the start of the bucket; the first range replaces it.
    let mut answer = Answer::UNWANTED;
    for number in 0..u128::from(BUCKETS) {
        let start = number << shift;
        if let [first, after @ ..] = rest
            && first.0 == start
        {
            (answer, rest) = (first.1, after);
        }
        let inside;
        (inside, rest) = rest.split_at(rest.partition_point(|range| range.0 >> shift == number));
        if inside.is_empty() {
            buckets.push(Bucket { at: answer.0, count: 0 });
            continue;
        }
        let count = inside.len() + 1;
        if count > 1 << SEARCH_STEPS {
            return Err(CompileError::RangesOfBucket { net: space.net(start, space.bits - shift), count });
        }
        // Fewer than 2^36 boundaries exist, but an index has 32 bits; memory ends long before.
        buckets.push(Bucket { at: boundaries.len() as u32, count: count as u32 });
        boundaries.push(boundary(start, answer));
        boundaries.extend(inside.iter().map(|range| boundary(range.0, range.1)));
        answer = inside[inside.len() - 1].1;
    }
    Ok((buckets, boundaries))
}

/// Outlines the ranges from `first` on, 2^`bits` addresses in all.
pub(super) fn outline(first: u128, bits: u32, ranges: &[(u128, Answer)]) -> Vec<u64> {
    let size = 1_u128 << (bits - BLOCKS.ilog2());
    let end = first + (size << BLOCKS.ilog2());
    let mut words = vec![0; (BLOCKS / BLOCKS_PER_WORD) as usize];
    for (place, (start, answer)) in ranges.iter().enumerate() {
        let next = ranges.get(place + 1).map_or(end, |next| next.0.min(end));
        let start = (*start).max(first);
        if start >= next {
            continue;
        }
        let says = match answer {
            // Who looks no further neither learns that it is blocked nor whose hit this is.
            answer if answer.blocked() || answer.rule() != 0 || answer.entry() != 0 => Outline::Divided,
            answer if answer.wanted() => Outline::Wanted,
            _ => Outline::Unwanted,
        };
        // Blocks that it has to itself, and those that it shares with a neighbour.
        let (from, to) = ((start - first).div_ceil(size) as u32, ((next - first) / size) as u32);
        says.enter_all(&mut words, from..to);
        for shared in [(start - first) / size, (next - 1 - first) / size] {
            let block = shared as u32;
            if !(from..to).contains(&block) {
                Outline::Divided.enter(&mut words[(block / BLOCKS_PER_WORD) as usize], block);
            }
        }
    }
    words
}
