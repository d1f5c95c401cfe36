//! A lab that stands until its process is killed, for the test that nothing survives.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lunar_lab::{Lab, Spawn};
use serde_json::json;

pub(crate) fn hold() -> Result<()> {
    let lab = Lab::new("hold")?;
    let (left, right) = (lab.netns("left")?, lab.netns("right")?);
    lab.veth((&left, &["203.0.113.1/24"]), (&right, &["203.0.113.2/24"]))?;
    let cgroup = lab.cgroup("app/inner")?;
    // The child dies with us (PR_SET_PDEATHSIG). The grandchild, in a session of its own, does not: it is the
    // janitor's to find.
    let script = "setsid sleep 600 & echo $!; exec sleep 600";
    let mut child = lab.spawn(Spawn::new("sh").args(["-c", script]).netns(&left).cgroup(&cgroup))?;
    let grandchild: u32 =
        child.next_line(Duration::from_secs(10))?.parse().context("the pid of the grandchild")?;
    println!(
        "{}",
        json!({
            "cgroup": lab.cgroup("app")?.path().parent(), "dir": lab.dir(),
            "janitor": lab.janitor_id(), "child": child.id(), "grandchild": grandchild,
        })
    );
    loop {
        thread::park();
    }
}
