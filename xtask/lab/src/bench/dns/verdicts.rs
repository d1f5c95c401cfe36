//! What connect(2) takes where the policy has names: an address that none is known to have, and one that was learned.

use anyhow::Result;

use super::scene::{Kind, Scene};
use crate::bench::worker::STEADY;

/// One line of the table.
pub(super) struct Verdict {
    pub kind: Kind,
    /// Whether the policy wants the addresses.
    pub hits: bool,
    /// Nanoseconds of connect(2), by round: medians of batches.
    pub ns: Vec<f64>,
}

/// Goes round the places, in random order.
pub(super) fn measure(scene: &mut Scene, rounds: usize) -> Result<Vec<Verdict>> {
    let mut rng = fastrand::Rng::with_seed(13);
    let verdict = |kind, hits| Verdict { kind, hits, ns: Vec::new() };
    let mut verdicts = vec![
        verdict(Kind::Empty, false),
        verdict(Kind::Addresses, false),
        verdict(Kind::Names, false),
        verdict(Kind::ManyNames, false),
        verdict(Kind::Addresses, true),
        verdict(Kind::Names, true),
        verdict(Kind::ManyNames, true),
    ];
    let mut order: Vec<usize> = (0..verdicts.len()).collect();
    for _ in 0..rounds {
        rng.shuffle(&mut order);
        for &nth in &order {
            let verdict = &mut verdicts[nth];
            let list = if verdict.hits { &scene.lists.hits } else { &scene.lists.misses }.clone();
            let place = scene.place(verdict.kind)?;
            let job = place.connect_job(&list, STEADY);
            verdict.ns.push(place.connect(&job, verdict.hits)?.connect.p50);
        }
    }
    Ok(verdicts)
}
