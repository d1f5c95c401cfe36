//! Answers that somebody else may have sent: none of them changes anything, and each is counted once.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
};
use lunar_common::{
    names::VALID_FOR,
    time::{KtimeNs, SpanNs},
};

use crate::{
    frames::Route,
    harness::{Counted, Trial},
    messages::{self, address, name},
    scene::{ID, Scene, of_another_target},
};

const NOTHING: Counted = Counted { answers: 0, misses: 0, unasked: 0, malformed: 0, forgotten: 0 };
const UNASKED: Counted = Counted { unasked: 1, ..NOTHING };
const MALFORMED: Counted = Counted { malformed: 1, ..NOTHING };
const ANSWER: Counted = Counted { answers: 1, ..NOTHING };

/// The answer that would be believed.
fn genuine() -> Message {
    let stripe = name("api.stripe.com");
    let mut reply = messages::reply(ID, &stripe, RecordType::A);
    reply.add_answer(address(&stripe, 60, "203.0.113.9".parse().unwrap()));
    reply
}

/// A new socket asks, and this comes in by this route: nothing is put in and just this is counted. The genuine answer is
/// believed afterwards, unless the question was answered.
fn refuses(scene: &mut Scene, what: &str, route: Route, answer: &[u8], counted: Counted) {
    scene.anew(if route.server.is_ipv4() { Route::v4() } else { Route::v6() });
    scene.asks(&name("api.stripe.com"), RecordType::A);
    scene.kernel.receive(&route.back(answer));
    scene.kernel.take().assert_nothing_but(counted, what);
    if counted.answers == 0 {
        scene.gets(&genuine());
        let taken = scene.kernel.take();
        assert_eq!((taken.learned.len(), taken.counted), (1, ANSWER), "{what}: the genuine one afterwards");
    }
}

fn with_query(query: Query) -> Message {
    let mut message = genuine();
    message.queries = vec![query];
    message
}

#[test]
fn an_answer_to_another_question_changes_nothing() {
    let of = |text: &str, kind| Query::query(name(text), kind);
    let mut chaos = of("api.stripe.com", RecordType::A);
    chaos.set_query_class(DNSClass::CH);
    let mut other_id = genuine();
    other_id.metadata.id = ID ^ 0x0100;
    let mut other_byte = genuine();
    other_byte.metadata.id = ID ^ 1;
    let mut scene = Scene::new(Route::v4());
    for (what, message, counted) in [
        ("id", other_id, UNASKED),
        ("id's other byte", other_byte, UNASKED),
        ("name", with_query(of("apj.stripe.com", RecordType::A)), UNASKED),
        ("a name that is wanted", with_query(of("x.openai.com", RecordType::A)), UNASKED),
        ("a longer name", with_query(of("x.api.stripe.com", RecordType::A)), UNASKED),
        ("a shorter name", with_query(of("stripe.com", RecordType::A)), UNASKED),
        ("type", with_query(of("api.stripe.com", RecordType::AAAA)), UNASKED),
        // 1 and 33 differ as large and small letters do.
        ("a type like a letter", with_query(of("api.stripe.com", RecordType::SRV)), UNASKED),
        ("class", with_query(chaos), UNASKED),
    ] {
        for route in [Route::v4(), Route::v6()] {
            refuses(&mut scene, what, route, &message.to_vec().unwrap(), counted);
        }
    }
}

#[test]
fn an_answer_from_elsewhere_changes_nothing() {
    let answer = genuine().to_vec().unwrap();
    let from = |server: &str| Route::to(server.parse().unwrap());
    let mut scene = Scene::new(Route::v4());
    for (server, counted) in [
        ("10.0.0.54:53", UNASKED),
        ("10.1.2.3:53", UNASKED),
        ("[fd00::54]:53", UNASKED),
        // Not from a DNS server's port: it is not looked at.
        ("10.0.0.53:5353", NOTHING),
        ("10.0.0.53:54", NOTHING),
        ("10.0.0.53:309", NOTHING),
        ("10.0.0.53:13568", NOTHING),
        ("[fd00::53]:309", NOTHING),
        ("[fd00::53]:5353", NOTHING),
    ] {
        refuses(&mut scene, server, from(server), &answer, counted);
    }
    scene.anew(Route::v4());
    scene.asks(&name("api.stripe.com"), RecordType::A);
    scene.kernel.receive(&Route::v6().back(&answer));
    scene.kernel.take().assert_nothing_but(UNASKED, "another family");
}

#[test]
fn what_is_no_proper_answer_changes_nothing() {
    let damaged = |at: usize, value: u8| {
        let mut bytes = genuine().to_vec().unwrap();
        bytes[at] = value;
        bytes
    };
    let mut question = genuine();
    question.metadata.message_type = MessageType::Query;
    let mut notify = genuine();
    notify.metadata.op_code = OpCode::Notify;
    let mut update = genuine();
    update.metadata.op_code = OpCode::Update;
    let bytes = |message: &Message| message.to_vec().unwrap();
    let whole = bytes(&genuine());
    let mut scene = Scene::new(Route::v4());
    for (what, message) in [
        ("QR=0", bytes(&question)),
        ("no question", damaged(5, 0)),
        ("two questions", damaged(5, 2)),
        ("256 questions", damaged(4, 1)),
        ("a compressed question", damaged(12, 0xc0)),
        ("a label that is too long", damaged(12, 64)),
        ("a label over the end", damaged(12, 63)),
        ("half a header", whole[..11].to_vec()),
        ("half a name", whole[..20].to_vec()),
        ("half a question", whole[..29].to_vec()),
        ("nothing", vec![]),
    ] {
        for route in [Route::v4(), Route::v6()] {
            refuses(&mut scene, what, route, &message, MALFORMED);
        }
    }
    // What has nothing to do with queries is nobody's answer, and the root is another name.
    for (what, message, counted) in [
        ("NOTIFY", bytes(&notify), NOTHING),
        ("UPDATE", bytes(&update), NOTHING),
        ("the root", damaged(12, 0), UNASKED),
    ] {
        for route in [Route::v4(), Route::v6()] {
            refuses(&mut scene, what, route, &message, counted);
        }
    }
}

#[test]
fn a_refusal_changes_nothing_and_ends_the_question() {
    let mut scene = Scene::new(Route::v4());
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::FormErr, ResponseCode::Refused]
    {
        let mut message = genuine();
        message.metadata.response_code = code;
        refuses(&mut scene, &code.to_string(), Route::v4(), &message.to_vec().unwrap(), ANSWER);
        scene.gets(&genuine());
        scene.kernel.take().assert_nothing_but(UNASKED, "the genuine one after a refusal");
    }
}

#[test]
fn an_answer_is_believed_once() {
    let mut scene = Scene::new(Route::v4());
    scene.asks(&name("api.stripe.com"), RecordType::A);
    scene.gets(&genuine());
    assert_eq!(scene.kernel.take().learned.len(), 1);
    scene.gets(&genuine());
    scene.kernel.take().assert_nothing_but(UNASKED, "a second copy");
    // Asked twice, as after a pause, it is one question still.
    for _ in 0..2 {
        scene.asks(&name("api.stripe.com"), RecordType::A);
    }
    scene.gets(&genuine());
    assert_eq!(scene.kernel.take().learned.len(), 1);
    scene.gets(&genuine());
    scene.kernel.take().assert_nothing_but(UNASKED, "a second copy for a question repeated");
}

#[test]
fn nothing_is_believed_that_nobody_asked() {
    let mut scene = Scene::new(Route::v4());
    for route in [Route::v4(), Route::v6()] {
        scene.anew(route);
        scene.gets(&genuine());
        scene.kernel.take().assert_nothing_but(UNASKED, "never asked");
    }
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let mut scene = Scene::new(Route::v4());
    // The second runs within ten seconds.
    let in_time = SpanNs::from_ms(10_000);
    for (age, learns) in [(VALID_FOR.0, false), (VALID_FOR.0 - in_time.0, true)] {
        scene.anew(scene.route);
        scene.asks(&name("api.stripe.com"), RecordType::A);
        let mut trial = scene.kernel.trial();
        let asked = trial.resolver.asked.iter_mut().find(|asked| asked.tag != 0).unwrap();
        asked.at = KtimeNs(asked.at.0 - age);
        scene.kernel.set_trial(&trial);
        scene.gets(&genuine());
        let taken = scene.kernel.take();
        if learns {
            assert_eq!((taken.learned.len(), taken.counted), (1, ANSWER));
        } else {
            taken.assert_nothing_but(UNASKED, "too late");
        }
    }
}

#[test]
fn what_another_target_asked_changes_nothing() {
    let mut scene = Scene::new(Route::v4());
    // Neither its questions nor its answers are ours to see.
    scene.kernel.set_trial(&of_another_target(Trial::of(scene.route.server)));
    scene.asks(&name("api.stripe.com"), RecordType::A);
    assert!(scene.kernel.trial().resolver.asked.iter().all(|asked| asked.tag == 0));
    scene.gets(&genuine());
    scene.kernel.take().assert_nothing_but(NOTHING, "another target's socket");

    // Asked by a socket of ours, answered to another's.
    scene.kernel.set_trial(&Trial::of(scene.route.server));
    scene.asks(&name("api.stripe.com"), RecordType::A);
    scene.kernel.set_trial(&of_another_target(scene.kernel.trial()));
    scene.gets(&genuine());
    scene.kernel.take().assert_nothing_but(NOTHING, "the answer at another target's socket");

    // A socket that belongs to no target, and a program that is attached to none.
    let mut trial = Trial::of(scene.route.server);
    trial.resolver.target = 0;
    trial.attachment.target = 0;
    scene.kernel.set_trial(&trial);
    scene.asks(&name("api.stripe.com"), RecordType::A);
    scene.gets(&genuine());
    scene.kernel.take().assert_nothing_but(NOTHING, "no target");
}

#[test]
fn only_questions_are_remembered() {
    let stripe = name("api.stripe.com");
    let question = messages::question(ID, &stripe, RecordType::A);
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    let mut update = question.clone();
    update.metadata.op_code = OpCode::Update;
    let mut two = question.clone();
    two.add_query(Query::query(stripe, RecordType::AAAA));
    let scene = Scene::new(Route::v4());
    for (what, message) in [("an answer", answer), ("an update", update), ("two questions", two)] {
        scene.kernel.send(&scene.route.out(&message.to_vec().unwrap()));
        assert!(scene.kernel.trial().resolver.asked.iter().all(|asked| asked.tag == 0), "{what}");
    }
}

#[test]
fn questions_that_are_too_many_are_forgotten_and_counted() {
    const MANY: u16 = 1_000;
    let mut scene = Scene::new(Route::v4());
    let stripe = name("api.stripe.com");
    let with_id = |mut message: Message, id: u16| {
        message.metadata.id = id;
        message.to_vec().unwrap()
    };
    for id in 0..MANY {
        let question = messages::question(id, &stripe, RecordType::A);
        scene.kernel.send(&scene.route.out(&question.to_vec().unwrap()));
    }
    let forgotten = scene.kernel.take().counted.forgotten;
    assert!((1..u64::from(MANY)).contains(&forgotten), "{forgotten}");
    for id in 0..MANY {
        scene.gets_bytes(&with_id(genuine(), id));
    }
    let counted = scene.kernel.take().counted;
    assert_eq!((counted.answers, counted.unasked), (u64::from(MANY) - forgotten, forgotten));
}
