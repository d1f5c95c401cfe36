//! The agent's own resolution of the exact names of the policy: for applications that resolved them before they were
//! intercepted, and for DNS that the kernel program cannot see.
//!
//! The daemon owns a [`Resolution`], wakes it when it wants to be and is told what names came to.

mod error;
mod lookup;
mod marked;
mod schedule;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::FutureExt as _;
use tokio::{task::JoinSet, time::Instant};

pub use error::{Fault, LookupError, Origin};
use lookup::{Host, Which};
use schedule::Schedule;
pub use schedule::{Answer, NameState};

const _: () = assert!(
    cfg!(panic = "unwind"),
    "a panic over an answer from the network would end the agent, at each start anew"
);

/// The files that say how this host resolves names.
#[derive(Clone, Debug)]
pub struct HostFiles {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// hosts(5).
    pub hosts: PathBuf,
}

impl Default for HostFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// A look-up that has ended.
pub struct Answered {
    name: Arc<str>,
    result: Result<Vec<Answer>, LookupError>,
}

/// What a name means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// In lower case, without the last dot.
    pub name: String,
    /// At least one, each with its TTL as received.
    pub addresses: Vec<Answer>,
}

/// The names that are followed, and the look-ups under way.
pub struct Resolution {
    schedule: Schedule,
    running: JoinSet<Answered>,
    files: HostFiles,
    mark: u32,
    /// What the files said, and which files these were.
    host: Option<(Stamps, Arc<Host>)>,
    /// Names of which also the addresses count that mean something else on every host.
    blocked: BTreeSet<String>,
}

impl Resolution {
    /// As this host resolves names, from sockets with `SO_MARK` = `mark` (host byte order, 0 for none).
    pub fn new(mark: u32) -> Self {
        Self::with_files(mark, HostFiles::default())
    }

    /// The same with other files than the host's.
    pub fn with_files(mark: u32, files: HostFiles) -> Self {
        Self {
            schedule: Schedule::default(),
            running: JoinSet::new(),
            files,
            mark,
            host: None,
            blocked: BTreeSet::new(),
        }
    }

    /// Follows these names (lower case, no last dot) and no others. What is known of those that stay is kept.
    pub fn follow(&mut self, names: &BTreeSet<String>, now: Instant) {
        self.schedule.follow(names, now);
    }

    /// Of these names, and no others, all addresses count: a gateway need not reach what is blocked.
    pub fn keep_all_of(&mut self, names: BTreeSet<String>) {
        self.blocked = names;
    }

    /// When [`Resolution::begin_due`] has something to do; `None` if it has not before a look-up ends.
    pub fn next_wake(&self) -> Option<Instant> {
        self.schedule.next_wake()
    }

    /// Begins the look-ups that are due. Must be called within the runtime.
    pub fn begin_due(&mut self, now: Instant) {
        while let Some(name) = self.schedule.begin(now) {
            let host = self.host();
            let which = if self.blocked.contains(&*name) { Which::All } else { Which::LeadAnywhere };
            self.spawn(Arc::clone(&name), async move { host.look_up(&name, which).await });
        }
    }

    /// Begins a look-up. It reads what the network sends, with code that is not ours: if that panics, the name has failed and
    /// not the agent, which would look it up again as soon as it is started anew.
    fn spawn(
        &mut self,
        name: Arc<str>,
        look_up: impl Future<Output = Result<Vec<Answer>, LookupError>> + Send + 'static,
    ) {
        self.running.spawn(async move {
            // What a panic leaves half done is let go of in `on_done`.
            let ended = AssertUnwindSafe(look_up).catch_unwind().await;
            let result = ended.unwrap_or_else(|payload| Err(LookupError::panicked(&*payload)));
            Answered { name, result }
        });
    }

    /// The next look-up that ends; `None` at once while none is under way. May be dropped at any time.
    pub async fn next_done(&mut self) -> Option<Answered> {
        let done = self.running.join_next().await?;
        Some(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())))
    }

    /// Enters a look-up that has ended. Returns the addresses of a name that has some and is still followed.
    pub fn on_done(&mut self, answered: Answered, now: Instant) -> Option<Resolved> {
        let Answered { name, result } = answered;
        let found = result.as_ref().ok().cloned();
        match &result {
            Err(reason @ LookupError::Panicked(_)) => {
                tracing::error!(name = &*name, %reason, "not resolved");
                self.host = None;
            }
            Err(reason) => tracing::debug!(name = &*name, %reason, "not resolved"),
            Ok(_) => {}
        }
        let followed = self.schedule.on_done(&name, result, now, fastrand::f64());
        found.filter(|_| followed).map(|addresses| Resolved { name: name.to_string(), addresses })
    }

    /// What is known of a name; `None` if it is not followed.
    pub fn state(&self, name: &str) -> Option<&NameState> {
        self.schedule.state(name)
    }

    /// What a person should know: which names cannot be resolved and why, a few of them by name.
    pub fn problems(&self) -> Vec<String> {
        self.schedule.problems()
    }

    /// The host's configuration as it is now; read again only when its files are others.
    fn host(&mut self) -> Arc<Host> {
        let stamps = Stamps::of(&self.files);
        if let Some((read, host)) = &self.host
            && *read == stamps
        {
            return Arc::clone(host);
        }
        let resolv_conf = contents(&self.files.resolv_conf);
        let hosts = contents(&self.files.hosts);
        let host = Arc::new(Host::new(&String::from_utf8_lossy(&resolv_conf), &hosts, self.mark));
        self.host = Some((stamps, Arc::clone(&host)));
        host
    }
}

/// Device, inode, size, and the time of the last change in seconds and nanoseconds: another file in the same place
/// differs in one of them.
type Stamp = (u64, u64, u64, i64, i64);

/// Which files were read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamps([Option<Stamp>; 2]);

impl Stamps {
    fn of(files: &HostFiles) -> Self {
        Self([&files.resolv_conf, &files.hosts].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
        }))
    }
}

/// A file that is missing says nothing, as for the C library.
fn contents(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(path = %path.display(), %error, "cannot be read");
        }
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_over_an_answer_is_the_failure_of_one_name() {
        let now = Instant::now();
        let mut resolution = Resolution::new(0);
        resolution.follow(&["a.example", "b.example"].map(str::to_owned).into(), now);
        let broken = resolution.host();
        let mut begin = || {
            let due = resolution.schedule.next_wake().expect("due");
            resolution.schedule.begin(due).expect("due")
        };
        let (first, second) = (begin(), begin());
        resolution.spawn(first, async { panic!("index out of bounds") });
        resolution.spawn(second, async { panic!("a label of {} bytes", "64") });
        for failed in 1..=2 {
            let answered = resolution.next_done().await.expect("two are under way");
            assert_eq!(resolution.on_done(answered, now), None);
            assert_eq!(
                resolution.problems().iter().filter(|p| p.contains("cannot be resolved")).count(),
                failed
            );
        }
        assert_eq!(
            resolution.problems(),
            [
                "a.example cannot be resolved: its look-up met a fault of this program, please report it: index out of bounds",
                "b.example cannot be resolved: its look-up met a fault of this program, please report it: a label of 64 bytes",
            ]
        );
        assert!(resolution.next_wake().is_some_and(|at| at > now), "they are tried again later");
        assert!(
            !Arc::ptr_eq(&resolution.host(), &broken),
            "what a panic may have left half done is not used again"
        );
    }
}
