//! The network namespaces of targets: where the relay is to listen, and where it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::TcpListener,
    os::fd::AsFd,
    time::Instant,
};

use lunar_common::{abi::RelayAt, net::NetworkOrder};

use super::{
    keeper::Wish,
    link::Link,
    listen::{self, Listeners},
    plan::{Plan, Served},
};
use crate::{
    kernel::{KernelError, pins::Pins, relay::RelayPlaces},
    relay::{process::ClientError, setup::Setup},
    targets::netns::{self, NetnsId},
};

/// Why a network namespace is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("network namespace of pid {pid}: {source}")]
    Enter { pid: u32, source: io::Error },
    #[error(
        "the relay cannot listen in the network namespace of pid {pid}, so connects there go direct: {source}; is its loopback device up?"
    )]
    Listen { pid: u32, source: io::Error },
    #[error(
        "connects to the relay fail in the network namespace of pid {pid}, so they go direct; does a packet filter there stop what goes to 127.0.0.0/8 or ::1?"
    )]
    Unreachable { pid: u32 },
    #[error(
        "targets are in more network namespaces than a relay can listen in; connects in the others go direct"
    )]
    Full,
    #[error(transparent)]
    Relay(#[from] ClientError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

pub(super) struct Namespaces {
    home: File,
    places: RelayPlaces,
    began: Instant,
    plan: Plan,
    /// Those that cannot be served, each with why.
    troubled: BTreeMap<NetnsId, String>,
    /// Whether what earlier agents left has been looked through.
    adopted: bool,
    /// Those in which connects to the relay fail, since when.
    failing: BTreeMap<NetnsId, Instant>,
    /// A process of a target that may not be looked into.
    unseen: Option<u32>,
}

impl Namespaces {
    pub(super) fn new(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self {
            home: File::open("/proc/thread-self/ns/net")
                .map_err(KernelError::sys("open", "the agent's network namespace"))?,
            places: RelayPlaces::open(pins)?,
            began: Instant::now(),
            plan: Plan::default(),
            troubled: BTreeMap::new(),
            adopted: false,
            failing: BTreeMap::new(),
            unseen: None,
        })
    }

    /// Those in which the relay listens.
    pub(super) fn served(&self) -> BTreeSet<NetnsId> {
        self.plan.served()
    }

    /// Why some are not served.
    pub(super) fn problem(&self) -> Option<String> {
        let unseen = self.unseen.map(|pid| {
            format!(
                "the network namespace of pid {pid} may not be looked at, so its connects go direct: grant CAP_SYS_PTRACE"
            )
        });
        let mut problems = unseen.into_iter().chain(self.troubled.values().cloned());
        let first = problems.next()?;
        Some(match problems.count() {
            0 => first,
            more => format!("{first} (and {more} more)"),
        })
    }

    /// There is another relay: of what was served only that is which it has been handed. Until the others are served anew nothing
    /// may lead there: what listened for them may be somebody who hangs.
    pub(super) fn of_another_relay(&mut self, served: &[u64]) -> Result<(), ServeError> {
        self.plan.keep(served);
        self.adopted = false;
        self.keep_places(|cookie| served.contains(&cookie))
    }

    /// Sends nothing any more to namespaces but those whose cookie stays.
    fn keep_places(&mut self, stays: impl Fn(u64) -> bool) -> Result<(), ServeError> {
        for (cookie, _) in self.places.all()? {
            if !stays(cookie) {
                self.places.remove(cookie)?;
            }
        }
        Ok(())
    }

    /// The relay is gone, and its listening sockets with it.
    pub(super) fn of_none(&mut self) {
        self.plan.clear();
        self.adopted = false;
    }

    /// Nobody wants a relay anywhere.
    pub(super) fn leave_all(&mut self, link: &mut Link) -> Result<(), ServeError> {
        for served in self.plan.clear() {
            // It ends anyway.
            let _ends = link.leave(served.cookie);
        }
        self.troubled.clear();
        self.adopted = false;
        self.keep_places(|_| false)
    }

    /// Looks at all targets, and does what follows. The first thing that is wrong with the relay itself is told.
    pub(super) fn look(&mut self, link: &mut Link, wish: &Wish) -> Result<(), ServeError> {
        let found = netns::of_cgroups(&wish.cgroups);
        self.troubled.retain(|id, _| found.namespaces.contains_key(id));
        self.failing.retain(|id, _| found.namespaces.contains_key(id));
        let steps = self.plan.after(&found.namespaces, self.began.elapsed());
        let mut result = Ok(());
        for served in steps.leave {
            result = result.and(self.leave(link, served));
        }
        for (id, pid) in steps.serve {
            result = result.and(self.try_serve(link, id, pid));
        }
        for (id, served, pid) in self.plan.with(&found.namespaces) {
            result = result.and(self.look_again(link, &wish.setup, (id, served, pid)));
        }
        self.unseen = found.unseen;
        if result.is_ok() && !std::mem::replace(&mut self.adopted, true) {
            result = self.forget_strangers(link);
        }
        result
    }

    /// Serves those of the processes that nobody serves yet and that can be.
    pub(super) fn meet(&mut self, link: &mut Link, processes: &BTreeSet<u32>) -> Result<(), ServeError> {
        let mut result = Ok(());
        for pid in processes {
            if let Ok(id) = NetnsId::of_process(*pid)
                && !self.plan.serves(id)
                // Until the next look that would be in vain.
                && !self.troubled.contains_key(&id)
            {
                result = result.and(self.try_serve(link, id, *pid));
            }
        }
        result
    }

    /// What is wrong with a namespace is kept, and is no reason not to serve others.
    fn try_serve(&mut self, link: &mut Link, id: NetnsId, pid: u32) -> Result<(), ServeError> {
        match self.serve(link, id, pid) {
            Ok(()) => {
                self.troubled.remove(&id);
                Ok(())
            }
            // It has ended meanwhile.
            Err(ServeError::Enter { .. }) if NetnsId::of_process(pid).ok() != Some(id) => Ok(()),
            Err(e @ (ServeError::Relay(_) | ServeError::Kernel(_))) => Err(e),
            Err(e) => {
                self.trouble(id, &e);
                Ok(())
            }
        }
    }

    fn trouble(&mut self, id: NetnsId, error: &ServeError) {
        let problem = error.to_string();
        if self.troubled.get(&id) != Some(&problem) {
            tracing::warn!(problem, "connects are not handed to the relay");
            self.troubled.insert(id, problem);
        }
    }

    fn serve(&mut self, link: &mut Link, id: NetnsId, pid: u32) -> Result<(), ServeError> {
        let Some(hello) = link.hello() else { return Ok(()) };
        let enter = |source| ServeError::Enter { pid, source };
        let netns = id.open(pid).map_err(enter)?;
        let cookie = listen::inside(&netns, &self.home, listen::cookie).map_err(enter)?.map_err(enter)?;
        let known: BTreeMap<u64, RelayAt> = self.places.all()?.into_iter().collect();
        let seen = self.began.elapsed();
        let wants_v6 = netns::has_ipv6(pid);
        if let Some(at) = known.get(&cookie)
            && hello.served.contains(&cookie)
            && self.places.listens(*at)
        {
            let v6 = at.port_v6.raw() != 0;
            self.plan.enter(id, Served { cookie, place: at.place, v6, seen });
            return Ok(());
        }
        let taken = known.values().map(|at| at.place).collect();
        let place = known.get(&cookie).map(|at| at.place).or_else(|| self.plan.free_place(&taken));
        let place = place.ok_or(ServeError::Full)?;
        let listened = listen::inside(&netns, &self.home, || listen::listen(wants_v6)).map_err(enter)?;
        let Listeners { v4, v6 } = listened.map_err(|source| ServeError::Listen { pid, source })?;
        let port = |listener: Option<&TcpListener>| {
            let address = listener.and_then(|l| l.local_addr().ok());
            NetworkOrder::<u16>::from_host(address.map_or(0, |a| a.port()))
        };
        let at = RelayAt { place, port_v4: port(Some(&v4)), port_v6: port(v6.as_ref()) };
        let (v4, v6) = (Some(v4.as_fd()), v6.as_ref().map(AsFd::as_fd));
        // The relay first: the kernel sends nothing to a socket that nobody accepts from.
        link.serve(cookie, netns.as_fd(), v4, v6)?;
        self.places.set(cookie, at, v4, v6)?;
        self.plan.enter(id, Served { cookie, place, v6: wants_v6, seen });
        tracing::info!(
            pid,
            cookie,
            ipv6 = v6.is_some(),
            "the relay listens in the network namespace of a target"
        );
        Ok(())
    }

    /// One that is served: whether connects get to the relay, and whether it should listen for IPv6 as well.
    fn look_again(
        &mut self,
        link: &mut Link,
        setup: &Setup,
        (id, served, pid): (NetnsId, Served, u32),
    ) -> Result<(), ServeError> {
        let threshold = setup.threshold.into();
        match self.places.failed_in_a_row(served.place) {
            0 => drop((self.failing.remove(&id), self.troubled.remove(&id))),
            failures if failures < threshold => {}
            _ => {
                let since = *self.failing.entry(id).or_insert_with(Instant::now);
                self.trouble(id, &ServeError::Unreachable { pid });
                if since.elapsed() >= setup.cooldown {
                    // As in probation: one more decides.
                    self.failing.remove(&id);
                    self.places.set_failed_in_a_row(served.place, threshold.saturating_sub(1));
                }
                return Ok(());
            }
        }
        if netns::has_ipv6(pid) == served.v6 {
            return Ok(());
        }
        self.plan.forget(id);
        self.places.remove(served.cookie)?;
        self.try_serve(link, id, pid)
    }

    fn leave(&mut self, link: &mut Link, served: Served) -> Result<(), ServeError> {
        self.places.remove(served.cookie)?;
        link.leave(served.cookie)?;
        tracing::info!(cookie = served.cookie, "the relay has left a network namespace without targets");
        Ok(())
    }

    /// What an agent or a relay before had, and nobody wants any more.
    fn forget_strangers(&mut self, link: &mut Link) -> Result<(), ServeError> {
        let ours: BTreeSet<u64> = self.plan.cookies().collect();
        self.keep_places(|cookie| ours.contains(&cookie))?;
        let strange = |cookie: &&u64| !ours.contains(*cookie);
        let strangers: Vec<u64> = link
            .hello()
            .map(|hello| hello.served.iter().filter(strange).copied().collect())
            .unwrap_or_default();
        strangers.into_iter().try_for_each(|cookie| Ok(link.leave(cookie)?))
    }
}
