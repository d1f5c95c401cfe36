//! Where a hop's time goes: `perf` watches its processes while they work.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    FRESH,
    client::How,
    scene::{Scene, Way},
};

/// How long a hop works under each watch.
const MILLIS: u64 = 3000;
/// The watch begins after this, and is over before the work is.
const BEFORE: Duration = Duration::from_millis(700);
const WATCHED: &str = "1.5";
const CONNECTIONS: usize = 64;

/// What hops are known to call. Whatever else they call is in the total.
const CALLS: [&str; 30] = [
    "accept4",
    "bpf",
    "brk",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "fcntl",
    "futex",
    "getpeername",
    "getrandom",
    "getsockname",
    "getsockopt",
    "ioctl",
    "madvise",
    "mmap",
    "munmap",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sched_yield",
    "sendmsg",
    "sendto",
    "setns",
    "setsockopt",
    "shutdown",
    "socket",
    "write",
];
const TOTAL: &str = "raw_syscalls:sys_enter";

/// Prints the system calls of a request for each hop, and writes a sampled profile of each to `dir`, for `perf report -i`.
pub(super) fn run(scene: &mut Scene, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for way in &mut scene.ways {
        let Some(pids) = way.pids() else { continue };
        for (name, fresh) in [("keep-alive", false), ("a connection each", true)] {
            let calls = calls(way, &pids, fresh)?;
            println!("{}, {name}: {calls}", way.kind.name());
            let file = dir.join(format!("{}-{}.data", way.kind.name(), name.replace(' ', "-")));
            work(
                way,
                fresh,
                &mut perf(&["record", "-q", "-g", "-e", "cpu-clock", "-F", "4999", "-o"], &pids, |p| {
                    p.arg(&file);
                }),
            )?;
            println!("  profile in {}", file.display());
        }
    }
    Ok(())
}

/// The system calls of a request, the most frequent first.
fn calls(way: &mut Way, pids: &str, fresh: bool) -> Result<String> {
    let events: Vec<_> = CALLS.iter().map(|call| format!("syscalls:sys_enter_{call}")).collect();
    let events = format!("{TOTAL},syscalls:sys_enter_writev,{}", events.join(","));
    let mut stat = perf(&["stat", "-x", ",", "-e", &events], pids, |_| {});
    let (per_second, said) = work(way, fresh, &mut stat)?;
    let seconds: f64 = WATCHED.parse()?;
    let mut counts: Vec<(f64, &str)> = said
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let count: f64 = fields.next()?.parse().ok()?;
            Some((count / seconds / per_second, fields.nth(1)?))
        })
        .filter(|(count, _)| *count >= 0.005)
        .collect();
    ensure!(!counts.is_empty(), "`perf stat` counted nothing: {said}");
    counts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let each: Vec<_> = counts
        .iter()
        .map(|(count, event)| {
            let name = event.strip_prefix("syscalls:sys_enter_").unwrap_or("all system calls");
            format!("{name} {count:.2}")
        })
        .collect();
    Ok(each.join(", "))
}

fn perf(args: &[&str], pids: &str, more: impl FnOnce(&mut Command)) -> Command {
    let mut command = Command::new("perf");
    command.args(args);
    more(&mut command);
    command.args(["-p", pids, "--", "sleep", WATCHED]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Lets the hop work while `watch` runs: requests a second, and what the watch said.
fn work(way: &mut Way, fresh: bool, watch: &mut Command) -> Result<(f64, String)> {
    if !fresh {
        way.open(CONNECTIONS)?;
    }
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            thread::sleep(BEFORE);
            watch.output().context("cannot run `perf`: install linux-perf")
        });
        let taken = if fresh { way.fresh(FRESH, MILLIS)? } else { way.ask(How::AtOnce, MILLIS)? };
        let Ok(output) = watching.join() else { anyhow::bail!("the watch panicked") };
        let output = output?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "`perf` failed: {said}");
        Ok((taken.done.requests as f64 / taken.done.seconds, said))
    })
}
