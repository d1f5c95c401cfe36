//! What began in an older epoch counts for nothing when it ends.

use std::time::Duration;

use crate::{
    scene::{PROVIDER, Plan, Scene},
    world::{SOON, eventually},
};

/// Three SYNs in flight; unless the breaker has been opened or closed meanwhile their failures count.
fn fail_late(name: &str, meanwhile: impl FnOnce(&Scene), counted: (&str, u64)) {
    let scene = Scene::new(name);
    let _health = scene.health();
    let _agent = scene.agent(&Plan { connect_timeout: "3s", ..Plan::default() });
    scene.swallow();
    let mut late: Vec<_> = (0..3).map(|_| scene.call_in_background()).collect();
    eventually("the SYNs have left", || scene.verdict("redirected") == 3);
    meanwhile(&scene);
    for child in &mut late {
        let said = child.finish(SOON).unwrap();
        assert!(said.contains("\"ETIMEDOUT\":1"), "{said}");
    }
    eventually("the failures are seen", || scene.outcomes().1 >= 3);
    assert_eq!(scene.word(), (counted.0.to_owned(), counted.1, 0));
}

#[test]
fn a_late_failure_of_the_same_epoch_counts() {
    fail_late("same-epoch", |_| (), ("closed", 3));
}

#[test]
fn a_late_failure_of_an_older_epoch_does_not() {
    fail_late("older-epoch", |scene| drop(scene.failsafe(&["resume"])), ("closed", 0));
}

/// A late success is as late: it does not reset what was counted since.
#[test]
fn a_late_success_of_an_older_epoch_resets_nothing() {
    for resume in [true, false] {
        let scene = Scene::new("late-success");
        let _health = scene.health();
        scene.open();
        let _agent = scene.agent(&Plan { connect_timeout: "20s", ..Plan::default() });
        scene.swallow();
        let mut late = scene.call_in_background();
        eventually("the SYN has left", || scene.verdict("redirected") == 1);
        if resume {
            scene.failsafe(&["resume"]);
        }
        // Two failures in the present epoch, begun before the SYN is overdue.
        scene.cut();
        let result = scene.step(&["connects", "--to", PROVIDER, "--count", "2"]);
        scene.mend();
        assert_eq!(result["failed"]["EHOSTUNREACH"], 2, "{result}");
        assert_eq!(scene.word(), ("closed".to_owned(), 2, 0));
        scene.answer();
        let said = late.finish(Duration::from_secs(30)).unwrap();
        assert!(said.contains("\"ok\":1"), "{said}");
        assert_eq!(scene.outcomes(), (1, 2, 0));
        assert_eq!(scene.word().1, if resume { 2 } else { 0 });
    }
}
