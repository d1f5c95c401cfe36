//! Damaged packets on their way out: what is remembered of them is what they ask, and no more.

use std::time::Instant;

use crate::{
    damage::{Template, damage, seeded, stray},
    frames::{ETHERNET, Route},
    harness::{Counted, Kernel, Trial},
    policy::Policy,
    reading::{self, Question},
};

/// Packets of a run.
const PACKETS: u32 = 100_000;
/// Packets between two looks at what was counted.
const BATCH: u32 = 256;

/// The answer to a question, with no records.
fn answer(question: &Question) -> Vec<u8> {
    let header = [question.id, 0x8180, 1, 0, 0, 0].map(u16::to_be_bytes);
    let tail = [question.kind, question.class].map(u16::to_be_bytes);
    [header.as_flattened(), &question.name, tail.as_flattened()].concat()
}

#[test]
fn only_what_was_asked_is_waited_for() {
    let (mut rng, seed) = seeded();
    let mut kernel = Kernel::new(&Policy::usual());
    let templates: Vec<_> = (0..500).map(|_| Template::random(&mut rng)).collect();
    let routes = [Route::v4(), Route::v6(), Route { options: 2, ..Route::v4() }];
    let (mut remembered, mut twice) = (0, 0);
    let mut expected = Counted::default();
    let began = Instant::now();
    for n in 1..=PACKETS {
        let route = rng.choice(&routes).unwrap();
        let template = rng.choice(&templates).unwrap();
        let (mut question, _) = template.filled(&mut rng);
        let out = Route { client: route.server, server: route.client, ..*route };
        let frame = match rng.u8(0..3) {
            0 => stray(&mut rng, &out, &question),
            kind => {
                damage(&mut rng, &mut question, if kind == 1 { 0 } else { template.end });
                route.out(&question)
            }
        };
        kernel.set_trial(&Trial::of(route.server));
        kernel.send(&frame);
        let context = format!("LUNAR_SEED={seed}, packet {n}: {frame:02x?}");
        let asked = reading::sent(&frame[ETHERNET..], route.server);
        let waiting = kernel.trial().resolver.asked.iter().filter(|asked| asked.tag != 0).count();
        assert_eq!(waiting, asked.len(), "{context}");
        // The answer of either server ends the waiting for both.
        let mut answers: Vec<&Question> = asked.iter().collect();
        rng.shuffle(&mut answers);
        for question in &answers {
            kernel.receive(&Route::to(question.server).back(&answer(question)));
        }
        if let Some(others) = answers.len().checked_sub(1) {
            expected.answers += 1;
            expected.unasked += others as u64;
        }
        remembered += u32::from(!asked.is_empty());
        twice += u32::from(asked.len() == 2);
        if n.is_multiple_of(BATCH) || n == PACKETS {
            kernel.take().assert_nothing_but(std::mem::take(&mut expected), &context);
        }
    }
    println!(
        "{PACKETS} packets in {:.1?}: {remembered} remembered, {twice} for two servers",
        began.elapsed()
    );
    assert!((PACKETS / 5..PACKETS * 3 / 4).contains(&remembered), "{remembered}");
    assert!(twice > 0);
}
