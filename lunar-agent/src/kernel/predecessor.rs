//! What an agent of another ABI left pinned, and how this one takes its place.
//!
//! Its maps cannot be read, so its programs cannot be swapped. They stay beside the new ones: while both decide, the
//! older decides first, and the newer meets a destination that is the gateway's, which it leaves alone. When all the
//! new ones are attached the old verdicts end; what follows connections that are under way ends some time later.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use lunar_common::abi::maps;

use super::{
    KernelError, attach,
    pins::{self, Pins},
    state,
    sys::{self, Mapped},
};

/// The first fields of `CONTROL`: heartbeat, then `forced`. They are in the same place in every version.
type ControlHead = [u32; 4];
const FORCED: usize = 2;

/// The pins of other versions.
#[derive(Debug)]
pub struct Predecessor {
    folders: Vec<PathBuf>,
}

impl Predecessor {
    /// Looks for pins that are not of this version. Those in this version's own folder that are not what it makes are
    /// moved aside. Call it while holding the lock.
    ///
    /// # Errors
    /// If the pins cannot be looked at or moved.
    pub fn find(pins: &Pins) -> Result<Option<Self>, KernelError> {
        match state::check_pins(pins) {
            Err(e @ KernelError::Abi { .. }) => {
                tracing::warn!(reason = %e, "pins of this version's name are of another");
                pins.set_aside()?;
            }
            other => other?,
        }
        let folders = pins.other_versions()?;
        Ok((!folders.is_empty()).then_some(Self { folders }))
    }

    /// Its folders, for messages.
    pub fn describe(&self) -> String {
        self.folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether a person had forced everything direct, which only `failsafe resume` is to end, in all versions.
    pub fn forced(&self) -> bool {
        let forced = |folder: &PathBuf| with_forced(folder, |forced| forced.load(Ordering::Acquire) != 0);
        self.folders.iter().any(|folder| forced(folder).unwrap_or(false))
    }

    /// Ends its verdicts; those of this version are attached by now.
    ///
    /// # Errors
    /// If a pin cannot be read or removed.
    pub fn end_verdicts(&self) -> Result<(), KernelError> {
        self.folders.iter().try_for_each(|f| attach::end_verdicts_in(&f.join("links")).map(drop))
    }

    /// Removes all the rest. Returns its maps of sockets that wait to send their PROXY header: as long as they are open
    /// those sockets still will.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove(self) -> Result<Vec<OwnedFd>, KernelError> {
        let sockets = self.folders.iter().map(|folder| folder.join("maps").join(maps::SOCKETS));
        let waiting = sockets.filter_map(|path| sys::open_pin(&path).ok()).collect();
        for folder in &self.folders {
            pins::remove_version(folder)?;
        }
        Ok(waiting)
    }
}

/// Forces everything direct, or no longer, also for what agents of other versions have pinned: a bypass is not to wait for
/// their restart. `own` says to do so with this version's folder, too, whose maps cannot be used. Says how many there
/// are.
///
/// # Errors
/// If the pins cannot be looked at, or one cannot be opened.
pub fn force_others(pins: &Pins, own: bool, bypass: bool) -> Result<usize, KernelError> {
    let mut forced = 0;
    for folder in pins.other_versions()?.into_iter().chain(own.then(|| pins.base().to_owned())) {
        match with_forced(&folder, |forced| forced.store(u32::from(bypass), Ordering::Release)) {
            // Nothing has been pinned there yet, or no longer.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => {
                done.map_err(KernelError::sys("force", folder.display().to_string()))?;
                forced += 1;
            }
        }
    }
    Ok(forced)
}

fn with_forced<T>(folder: &Path, work: impl FnOnce(&AtomicU32) -> T) -> io::Result<T> {
    let control = sys::open_pin(&folder.join("maps").join(maps::CONTROL))?;
    let head = Mapped::<ControlHead>::new(control.as_fd(), 1, true)?;
    // SAFETY: within the mapping, which is at least a page, and aligned; everyone accesses the field as one.
    Ok(work(unsafe { AtomicU32::from_ptr(head.ptr(0).cast::<u32>().add(FORCED)) }))
}

impl Pins {
    /// Moves this version's folder out of its own way.
    fn set_aside(&self) -> Result<(), KernelError> {
        let aside = self.aside();
        // One that an agent before this one could not remove any more.
        pins::remove_version(&aside)?;
        fs::rename(self.base(), &aside)
            .map_err(KernelError::sys("move aside", self.base().display().to_string()))
    }
}
