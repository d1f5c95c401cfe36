use super::*;
use crate::policy::{Answer, PortRule};
use Question::{Endpoints, Exempt, First, Fitness as FitnessOf, Forced, LeaseFresh, Policy, Suitable};
use core::cell::RefCell;

/// What the verdict asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    PortClass,
    Exempt,
    LeaseFresh,
    Policy,
    DryRun,
    Forced,
    Endpoints,
    First,
    Suitable,
    Fitness(u32),
}

/// A connect on paper, which notes every question.
#[derive(Clone, Debug)]
struct Connect {
    class: PortClass,
    exempt: bool,
    lease_fresh: bool,
    opinion: Opinion,
    dry_run: bool,
    forced: bool,
    /// `None`: the socket cannot reach it.
    endpoints: Vec<Option<Fitness>>,
    first: u32,
    asked: RefCell<Vec<Question>>,
}

const PORT: u16 = 8443;
const FIT: Option<Fitness> = Some(Fitness::Fit(Ticket(7)));
const COOLING: Option<Fitness> = Some(Fitness::Cooling);
const SILENT: Option<Fitness> = Some(Fitness::NoListener(Ticket(5)));
const UNSUITABLE: Option<Fitness> = None;

impl Connect {
    /// One that nothing stands in the way of.
    fn passing() -> Self {
        Self {
            class: PortClass::Intercepted,
            exempt: false,
            lease_fresh: true,
            opinion: wanted(),
            dry_run: false,
            forced: false,
            endpoints: vec![FIT],
            first: 0,
            asked: RefCell::default(),
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut connect = Self::passing();
        change(&mut connect);
        connect
    }

    fn to(endpoints: &[Option<Fitness>], first: u32) -> Self {
        Self::with(|c| (c.endpoints, c.first) = (endpoints.to_vec(), first))
    }

    fn ask(&self, question: Question) {
        self.asked.borrow_mut().push(question);
    }
}

impl Facts for Connect {
    fn port_class(&self) -> PortClass {
        self.ask(Question::PortClass);
        self.class
    }
    fn exempt(&self) -> bool {
        self.ask(Exempt);
        self.exempt
    }
    fn lease_fresh(&self) -> bool {
        self.ask(LeaseFresh);
        self.lease_fresh
    }
    fn policy(&self) -> Opinion {
        self.ask(Policy);
        self.opinion
    }
    fn dry_run(&self) -> bool {
        self.ask(Question::DryRun);
        self.dry_run
    }
    fn choose(&self) -> Verdict {
        // Through the number and back, as in the kernel.
        Verdict::unpack(choose(self))
    }
}

impl EndpointFacts for Connect {
    fn forced(&self) -> bool {
        self.ask(Forced);
        self.forced
    }
    fn endpoints(&self) -> u32 {
        self.ask(Endpoints);
        self.endpoints.len() as u32
    }
    fn first(&self, count: u32) -> u32 {
        self.ask(First);
        assert_eq!(count as usize, self.endpoints.len());
        self.first
    }
    fn suitable(&self) -> u32 {
        self.ask(Suitable);
        (0..).zip(&self.endpoints).map(|(nth, endpoint)| u32::from(endpoint.is_some()) << nth).sum()
    }
    fn take(&self, turns: Turns, step: u32, so_far: Packed) -> Packed {
        turns.take(step, so_far, |nth| {
            self.ask(FitnessOf(nth));
            self.endpoints[nth as usize].expect("only asked of those that are suitable")
        })
    }
}

/// What an entry without a port of its own says of an address.
fn wanted() -> Opinion {
    Opinion::of(Answer::new(true, 0), None, PORT)
}

/// What entries with these ports say, of an address that is `wanted` or not.
fn opinion(wanted: bool, extra: &[u16], blocked: &[u16]) -> Opinion {
    let mut rule = PortRule::default();
    rule.extra[..extra.len()].copy_from_slice(extra);
    rule.blocked[..blocked.len()].copy_from_slice(blocked);
    Opinion::of(Answer::new(wanted, 1), Some(&rule), PORT)
}

fn reason(connect: &Connect) -> Reason {
    decide(connect).reason
}

/// A reason and what in the facts makes it apply.
type Step = (Reason, fn(&mut Connect));

/// The steps of DESIGN section 3 in their order.
const STEPS: [Step; 10] = [
    (Reason::NotIntercepted, |c| c.class = PortClass::Ignored),
    (Reason::TlsDirect, |c| c.class = PortClass::TlsDirect),
    (Reason::Exempt, |c| c.exempt = true),
    (Reason::LeaseStale, |c| c.lease_fresh = false),
    (Reason::Policy, |c| c.opinion = Opinion::NONE),
    (Reason::DryRun, |c| c.dry_run = true),
    (Reason::Unsuitable, |c| c.endpoints.fill(UNSUITABLE)),
    (Reason::Forced, |c| c.forced = true),
    (Reason::Cooldown, |c| c.endpoints.fill(COOLING)),
    (Reason::NoListener, |c| c.endpoints.fill(SILENT)),
];

/// How many questions lead to the answer of each step, of an ordinary port and one endpoint.
const QUESTIONS: [Question; 10] = [
    Question::PortClass,
    Exempt,
    LeaseFresh,
    Policy,
    Question::DryRun,
    Suitable,
    Forced,
    Endpoints,
    First,
    FitnessOf(0),
];

#[test]
fn each_step_gives_its_reason_and_asks_nothing_further() {
    let last_question = [
        Question::PortClass,
        Question::PortClass,
        Exempt,
        LeaseFresh,
        Policy,
        Question::DryRun,
        Suitable,
        Forced,
        FitnessOf(0),
        FitnessOf(0),
    ];
    for ((expected, apply), last) in STEPS.into_iter().zip(last_question) {
        let connect = Connect::with(apply);
        assert_eq!(reason(&connect), expected);
        let until = QUESTIONS.iter().position(|q| *q == last).expect("it is one of them");
        assert_eq!(*connect.asked.borrow(), QUESTIONS[..=until], "{expected:?}");
    }
}

#[test]
fn what_passes_every_step_is_redirected() {
    let connect = Connect::passing();
    let redirected =
        Verdict { reason: Reason::Redirected, nth: 0, ticket: Ticket(7), missing: None, opinion: wanted() };
    assert_eq!(decide(&connect), redirected);
    assert_eq!(*connect.asked.borrow(), QUESTIONS);
}

#[test]
fn the_earlier_of_two_steps_decides() {
    for (i, (expected, apply)) in STEPS.into_iter().enumerate() {
        for (later, apply_later) in &STEPS[i + 1..] {
            // One field cannot hold both: a port has one class, and one endpoint is in one condition.
            let class = |reason| matches!(reason, Reason::NotIntercepted | Reason::TlsDirect);
            let condition =
                |reason| matches!(reason, Reason::Unsuitable | Reason::Cooldown | Reason::NoListener);
            if class(expected) && class(*later) || condition(expected) && condition(*later) {
                continue;
            }
            let mut connect = Connect::with(apply_later);
            apply(&mut connect);
            assert_eq!(reason(&connect), expected, "before {later:?}");
        }
    }
}

#[test]
fn a_port_of_entries_is_intercepted_only_where_one_adds_it() {
    let by_entry = |opinion| Connect::with(|c| (c.class, c.opinion) = (PortClass::ByEntry, opinion));
    for (opinion, expected) in [
        (wanted(), Reason::NotIntercepted),
        (Opinion::NONE, Reason::NotIntercepted),
        (opinion(true, &[80, 8444], &[]), Reason::NotIntercepted),
        (opinion(true, &[80, PORT], &[]), Reason::Redirected),
        (opinion(true, &[1, 2, 3, 4, 5, 6, 7, PORT], &[]), Reason::Redirected),
        (opinion(true, &[PORT], &[PORT]), Reason::Policy),
        (opinion(true, &[], &[PORT]), Reason::NotIntercepted),
        (opinion(false, &[PORT], &[]), Reason::Policy),
    ] {
        assert_eq!(reason(&by_entry(opinion)), expected, "{opinion:?}");
    }
    // Nothing is known of the destination yet, so it may turn out to be meant by an entry that adds the port.
    let not_yet = |opinion| decide(&by_entry(opinion)).opinion.is_not_yet();
    assert!(not_yet(Opinion::NONE) && !not_yet(wanted()) && !not_yet(opinion(true, &[], &[PORT])));
    assert!(!not_yet(opinion(true, &[PORT], &[])) && !decide(&Connect::passing()).opinion.is_not_yet());
    // Step 1 comes first here too, and the policy is asked once.
    let elsewhere = Connect { exempt: true, ..by_entry(wanted()) };
    assert_eq!(reason(&elsewhere), Reason::NotIntercepted);
    assert_eq!(*elsewhere.asked.borrow(), [Question::PortClass, Policy]);
    let exempt = Connect { exempt: true, ..by_entry(opinion(true, &[PORT], &[])) };
    assert_eq!(reason(&exempt), Reason::Exempt);
    assert_eq!(*exempt.asked.borrow(), [Question::PortClass, Policy, Exempt]);
    let redirected = by_entry(opinion(true, &[PORT], &[]));
    assert_eq!(reason(&redirected), Reason::Redirected);
    assert_eq!(redirected.asked.borrow().iter().filter(|q| **q == Policy).count(), 1);
}

#[test]
fn a_blocked_port_stays_direct_and_the_others_do_not() {
    let blocking = |ports: &[u16]| Connect::with(|c| c.opinion = opinion(true, &[], ports));
    assert_eq!(reason(&blocking(&[80, PORT])), Reason::Policy);
    assert_eq!(reason(&blocking(&[80, 8444])), Reason::Redirected);
    let dry = Connect { dry_run: true, ..blocking(&[PORT]) };
    assert_eq!(reason(&dry), Reason::Policy, "before dry_run");
}

#[test]
fn the_entry_that_decided_is_known_whatever_became_of_the_connect() {
    let said = Opinion::of(Answer::new(true, 0).by(7), None, PORT);
    for (expected, apply) in STEPS {
        let mut connect = Connect::with(|c| c.opinion = said);
        apply(&mut connect);
        let told = decide(&connect).opinion;
        match expected {
            Reason::NotIntercepted | Reason::TlsDirect | Reason::Exempt | Reason::LeaseStale => {
                assert_eq!(told, Opinion::NONE, "{expected:?}");
            }
            // Nobody has one, which may change.
            Reason::Policy => assert!(told.is_not_yet() && told.entry() == 0, "{told:?}"),
            _ => assert_eq!(told, said, "{expected:?}"),
        }
    }
    let blocked = Opinion::of(Answer::UNWANTED.block().by(8), None, PORT);
    assert_eq!(decide(&Connect::with(|c| c.opinion = blocked)).opinion.entry(), 8);
}

#[test]
fn with_no_endpoint_nothing_is_asked_of_one() {
    let connect = Connect::to(&[], 0);
    assert_eq!(decide(&connect), Verdict { opinion: wanted(), ..Verdict::direct(Reason::Unsuitable) });
    assert!(!connect.asked.borrow().iter().any(|q| matches!(q, First | FitnessOf(_))));
}

#[test]
fn the_load_is_spread_by_the_start() {
    for first in 0..8 {
        let verdict = decide(&Connect::to(&[FIT; 8], first));
        assert_eq!((verdict.reason, verdict.nth), (Reason::Redirected, first));
    }
}

#[test]
fn the_next_fit_endpoint_takes_over() {
    for out in [UNSUITABLE, COOLING, SILENT] {
        for (endpoints, first, taken) in [
            ([out, FIT, FIT], 0, 1),
            ([out, FIT, FIT], 2, 2),
            ([FIT, out, out], 1, 0),
            ([FIT, FIT, out], 2, 0),
            ([out, FIT, out], 2, 1),
        ] {
            let verdict = decide(&Connect::to(&endpoints, first));
            assert_eq!((verdict.reason, verdict.nth), (Reason::Redirected, taken), "{endpoints:?} {first}");
            assert_eq!(verdict.ticket, Ticket(7));
        }
    }
}

#[test]
fn the_reason_is_how_far_the_best_endpoint_came() {
    for (endpoints, expected) in [
        ([UNSUITABLE, UNSUITABLE], Reason::Unsuitable),
        ([UNSUITABLE, COOLING], Reason::Cooldown),
        ([UNSUITABLE, SILENT], Reason::NoListener),
        ([COOLING, COOLING], Reason::Cooldown),
        ([COOLING, SILENT], Reason::NoListener),
        ([SILENT, SILENT], Reason::NoListener),
    ] {
        for first in 0..2 {
            let connect = Connect::to(&endpoints, first);
            assert_eq!(reason(&connect), expected, "{endpoints:?} from {first}");
            let asked = connect.asked.borrow();
            let tried = asked.iter().filter(|q| matches!(q, FitnessOf(_))).count();
            assert_eq!(tried, endpoints.iter().flatten().count(), "each is tried once");
        }
    }
}

#[test]
fn an_endpoint_without_listener_is_remembered_also_when_another_takes_over() {
    for (endpoints, first, missing) in [
        ([SILENT, FIT, FIT], 0, Some((0, Ticket(5)))),
        ([SILENT, FIT, FIT], 1, None),
        ([COOLING, FIT, SILENT], 2, Some((2, Ticket(5)))),
        ([COOLING, SILENT, UNSUITABLE], 0, Some((1, Ticket(5)))),
        ([COOLING, COOLING, UNSUITABLE], 0, None),
    ] {
        assert_eq!(decide(&Connect::to(&endpoints, first)).missing, missing, "{endpoints:?} from {first}");
    }
}

#[test]
fn forced_only_where_an_endpoint_is_suitable() {
    for (endpoints, expected) in [
        ([UNSUITABLE, UNSUITABLE], Reason::Unsuitable),
        ([UNSUITABLE, FIT], Reason::Forced),
        ([COOLING, UNSUITABLE], Reason::Forced),
        ([UNSUITABLE, SILENT], Reason::Forced),
    ] {
        let connect = Connect { forced: true, ..Connect::to(&endpoints, 0) };
        let direct = Verdict { opinion: wanted(), ..Verdict::direct(expected) };
        assert_eq!(decide(&connect), direct, "{endpoints:?}: nothing counts as a failure");
        assert!(!connect.asked.borrow().iter().any(|q| matches!(q, FitnessOf(_))));
    }
}

#[test]
fn reasons_stand_in_the_order_of_their_counters_with_the_names_of_the_contract() {
    let names = Reason::ALL.map(Reason::name);
    let contract = "redirected not_intercepted tls_direct exempt lease_stale policy dry_run unsuitable forced \
                    cooldown no_listener";
    assert_eq!(names.join(" "), contract);
    for (place, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, place);
    }
}
