//! What an agent of another ABI left pinned, and how this one takes its place.
//!
//! Its maps cannot be read, so its programs cannot be swapped. They stay beside the new ones: while both decide, the
//! older decides first, and the newer meets a destination that is the gateway's, which it leaves alone. When all the
//! new ones are attached the old verdicts end; what follows connections that are under way ends some time later.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
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

    /// Whether a person had forced everything direct; only `failsafe resume` is to end that.
    pub fn forced(&self) -> bool {
        self.folders.iter().any(|folder| {
            let control = sys::open_pin(&folder.join("maps").join(maps::CONTROL))
                .and_then(|fd| Mapped::<ControlHead>::new(fd.as_fd(), 1, false));
            // SAFETY: within the mapping, which is at least a page; programs may write there meanwhile.
            control.is_ok_and(|head| unsafe { head.ptr(0).read_volatile() }[FORCED] != 0)
        })
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
