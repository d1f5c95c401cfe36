//! Valid answers of every kind: what is learned is what hickory-proto finds in their answer section, and nothing of the others.

use std::time::Instant;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use lunar_common::dns::records::{Found as Step, Records, STEPS};

use crate::{
    damage::seeded,
    frames::{LONGEST, Route},
    fuzz::address_of,
    harness::{Kernel, Trial, now},
    messages,
    model::Model,
    policy::Policy,
    reading::{self, Answer, Found, Reading},
};

/// Messages of a run.
const MESSAGES: u32 = 100_000;
/// Messages between two looks at what is known.
const BATCH: u32 = 128;

/// What hickory-proto makes of an answer.
fn as_hickory_reads(bytes: &[u8]) -> Answer {
    let message = Message::from_vec(bytes).unwrap_or_else(|e| panic!("{e} in {bytes:02x?}"));
    let question = &message.queries[0];
    let mut name: Vec<u8> =
        question.name().iter().flat_map(|label| [&[label.len() as u8], label].concat()).collect();
    name.push(0);
    let found = |record| {
        let (address, ttl) = address_of(record)?;
        Some(Found { address, ttl, at: 0 })
    };
    Answer {
        name,
        found: message.metadata.response_code == ResponseCode::NoError,
        of_addresses: matches!(question.query_type(), RecordType::A | RecordType::AAAA | RecordType::ANY),
        truncated: message.metadata.truncation,
        count: message.answers.len() as u16,
        addresses: message.answers.iter().filter_map(found).collect(),
        ended: true,
    }
}

/// What lunar-common's reader finds when it runs here instead of in the kernel.
fn as_lunar_common_reads(bytes: &[u8], at: usize, count: u16) -> (Vec<Found>, bool) {
    let mut records = Records::new(at as u32, count.into());
    let mut found = Vec::new();
    for _ in 0..STEPS {
        match records.step(bytes, bytes.len() as u32) {
            Step::Nothing => {}
            Step::Address(address, ttl) => found.push(Found { address, ttl, at: 0 }),
            Step::End => return (found, true),
            Step::Bad => return (found, false),
        }
    }
    (found, false)
}

#[test]
fn every_valid_answer_is_read_as_hickory_reads_it() {
    let (mut rng, seed) = seeded();
    let policy = Policy::usual();
    let mut kernel = Kernel::new(&policy);
    let routes = [Route::v4(), Route::v6()];
    let mut model = Model::new(&policy);
    let (mut tried, mut addresses, mut learned) = (0, 0, 0);
    let began = Instant::now();
    while tried < MESSAGES {
        let route = rng.choice(&routes).unwrap();
        let name = messages::random_name(&mut rng);
        let id = rng.u16(..);
        let reply = messages::random_reply(&mut rng, id, &name);
        let question = messages::question(id, &name, reply.queries[0].query_type());
        let bytes = reply.to_vec().unwrap();
        if bytes.len() > LONGEST {
            continue;
        }
        tried += 1;
        let answer = as_hickory_reads(&bytes);
        addresses += answer.addresses.len();

        let end = reading::end_of_question(&bytes);
        let ours = as_lunar_common_reads(&bytes, end, answer.count);
        assert_eq!(
            ours,
            (answer.addresses.clone(), true),
            "LUNAR_SEED={seed}, message {tried}: {bytes:02x?}"
        );

        kernel.set_trial(&Trial::of(route.server));
        kernel.send(&route.out(&question.to_vec().unwrap()));
        let before = now();
        kernel.receive(&route.back(&bytes));
        model.meet(&Reading::Answer(answer), (before, now()));
        if tried.is_multiple_of(BATCH) || tried == MESSAGES {
            let taken = kernel.take();
            learned += taken.learned.len();
            model.check(&taken, &format!("LUNAR_SEED={seed}, up to message {tried}"));
        }
    }
    println!("{tried} messages in {:.1?}: {addresses} addresses, {learned} learned", began.elapsed());
    assert!(learned > addresses / 4 && learned > MESSAGES as usize / 2, "{learned} of {addresses}");
}
