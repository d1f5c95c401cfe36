//! Links: programs on cgroups, pinned, so that interception outlives the agent.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use lunar_common::abi::Attachment;

use super::{
    KernelError,
    generation::Generation,
    layout::os_error,
    pins::{self, Pins},
    program::Program,
    state::State,
    sys,
};
use crate::targets::cgroup::Cgroup;

/// Who a link belongs to, as in the names of the pins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// A target, by slot.
    Target(u32),
    /// The gateway's cgroup, by id.
    Gateway(u64),
}

impl Owner {
    fn name(self) -> String {
        match self {
            Self::Target(slot) => format!("t{slot}"),
            Self::Gateway(cgroup_id) => format!("g{cgroup_id}"),
        }
    }

    /// Reads the owner part of a pin's name.
    pub fn parse(name: &str) -> Option<Self> {
        let number = name.get(1..)?;
        match name.as_bytes().first()? {
            b't' => number.parse().ok().map(Self::Target),
            b'g' => number.parse().ok().map(Self::Gateway),
            _ => None,
        }
    }

    /// All that may be attached for it.
    const fn programs(self) -> &'static [Program] {
        match self {
            Self::Target(_) => &Program::TARGET,
            Self::Gateway(_) => &Program::GATEWAY,
        }
    }
}

/// Attaches the generation's programs to a cgroup, or swaps them in where older ones are attached: at no moment is
/// there none. What of an attachment was made before it failed is taken back; where a program was already, it or the
/// generation's stays.
///
/// # Errors
/// What the kernel refused.
pub fn attach(
    pins: &Pins,
    state: &mut State,
    generation: &Generation,
    owner: Owner,
    programs: &[Program],
    cgroup: &Cgroup,
    attachment: Attachment,
) -> Result<(), KernelError> {
    let dir =
        File::open(&cgroup.path).map_err(KernelError::sys("open", cgroup.path.display().to_string()))?;
    let mut made = Vec::new();
    for program in programs {
        let path = pins.link(&owner.name(), program.name());
        let attached = attach_one(state, generation, cgroup, &dir, *program, &path, attachment, &mut made);
        if let Err(e) = attached {
            for path in made.iter().rev() {
                if let Err(undo) = detach_link(path) {
                    tracing::error!(error = %undo, "half an attachment could not be taken back");
                }
            }
            return Err(e);
        }
    }
    Ok(())
}

/// Detaches what an owner has besides these programs.
///
/// # Errors
/// If a link cannot be detached.
pub fn detach_others(pins: &Pins, owner: Owner, programs: &[Program]) -> Result<(), KernelError> {
    let mut others = owner.programs().iter().rev().filter(|p| !programs.contains(p));
    others.try_for_each(|p| detach_link(&pins.link(&owner.name(), p.name())))
}

#[expect(clippy::too_many_arguments, reason = "one step of `attach`, with its arguments")]
fn attach_one(
    state: &mut State,
    generation: &Generation,
    cgroup: &Cgroup,
    dir: &File,
    program: Program,
    path: &Path,
    attachment: Attachment,
    made: &mut Vec<PathBuf>,
) -> Result<(), KernelError> {
    let fd = generation.program(program);
    if program.knows_target() {
        // What this cgroup was told when it was a target before, if it ever was, is not to be believed for a moment.
        tell(state, cgroup.id, program, attachment)?;
    }
    if !swap(path, cgroup, fd)? {
        let link = sys::link_create(fd, dir.as_fd(), program.hook()).map_err(|e| match e.raw_os_error() {
            // The capabilities were looked at (`features::check`): kernel/bpf/cgroup.c, `hierarchy_allows_attach`.
            Some(libc::EPERM) => {
                KernelError::HookTaken { program: program.name(), cgroup: cgroup.path.clone() }
            }
            _ => {
                let what = format!("{} to {}", program.name(), cgroup.path.display());
                KernelError::sys("attach", what)(e)
            }
        })?;
        sys::pin(link.as_fd(), path).map_err(KernelError::sys("pin", path.display().to_string()))?;
        made.push(path.to_owned());
    }
    if program.knows_target() {
        state.set_attachment(cgroup.id, program.hook() as u32, attachment)?;
    }
    Ok(())
}

/// Swaps the program of a pinned link; says whether there was one to swap. A link to another cgroup, or to one that is
/// gone, is removed.
fn swap(path: &Path, cgroup: &Cgroup, program: BorrowedFd<'_>) -> Result<bool, KernelError> {
    let link = match sys::open_pin(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(KernelError::sys("open", path.display().to_string()))?,
    };
    if sys::cgroup_link(link.as_fd()).is_ok_and(|at| at.cgroup_id != cgroup.id) {
        return detach_link(path).map(|()| false);
    }
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // kernel/bpf/cgroup.c, `cgroup_bpf_replace`: the cgroup died and took the attachment with it.
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => pins::remove_file(path).map(|()| false),
        Err(e) => Err(KernelError::sys("swap the program of", path.display().to_string())(e)),
    }
}

/// Ends the verdicts of a target: from now on its connects are direct. What follows those that were redirected before
/// stays until [`detach`]; one that lost its programs on the way would lack its record or its header.
///
/// # Errors
/// If a link cannot be detached.
pub fn end_verdicts(pins: &Pins, owner: Owner) -> Result<(), KernelError> {
    Program::VERDICTS.iter().try_for_each(|p| detach_link(&pins.link(&owner.name(), p.name())))
}

/// Detaches everything of an owner, the verdicts first.
///
/// # Errors
/// If a link cannot be detached.
pub fn detach(pins: &Pins, owner: Owner) -> Result<(), KernelError> {
    detach_others(pins, owner, &[])
}

/// Ends all verdicts that are pinned in a folder, by whatever version of this program. Returns those pins.
///
/// # Errors
/// If the folder cannot be read or a link not be detached.
pub(super) fn end_verdicts_in(links: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let mut ended = Vec::new();
    for path in pins::entries(links)? {
        // What is no link to a cgroup decides nothing.
        let link = sys::open_pin(&path).and_then(|link| sys::cgroup_link(link.as_fd()));
        if link.is_ok_and(|link| Program::VERDICTS.iter().any(|p| p.hook() as u32 == link.hook)) {
            detach_link(&path)?;
            ended.push(path);
        }
    }
    Ok(ended)
}

/// Detaches the program of a pinned link, and removes the pin; one that is not there is no error.
fn detach_link(path: &Path) -> Result<(), KernelError> {
    match sys::open_pin(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => {
            let failed = KernelError::sys("detach", path.display().to_string());
            link.and_then(|link| sys::link_detach(link.as_fd())).map_err(failed)?;
        }
    }
    pins::remove_file(path)
}

/// Tells attached programs anew which target they are on and what lies around it. A cgroup that is gone took its
/// programs and their storage with it, and there is nobody left to tell.
///
/// # Errors
/// If the map cannot be written.
pub fn retell(state: &mut State, cgroup_id: u64, attachment: Attachment) -> Result<(), KernelError> {
    let mut told = Program::TARGET.into_iter().filter(|p| p.knows_target());
    told.try_for_each(|program| tell(state, cgroup_id, program, attachment))
}

/// Tells one program, if there is storage for it: it comes with the first attachment and stays as long as the cgroup.
fn tell(
    state: &mut State,
    cgroup_id: u64,
    program: Program,
    attachment: Attachment,
) -> Result<(), KernelError> {
    match state.set_attachment(cgroup_id, program.hook() as u32, attachment) {
        Err(KernelError::Map { source, .. })
            if os_error(&source).is_some_and(|e| e.kind() == io::ErrorKind::NotFound) =>
        {
            Ok(())
        }
        told => told,
    }
}

/// The owners that have pinned links.
///
/// # Errors
/// If the pins cannot be read.
pub fn owners(pins: &Pins) -> Result<Vec<Owner>, KernelError> {
    let mut owners: Vec<Owner> = Vec::new();
    for (owner, _, _) in pins.links()? {
        if let Some(owner) = Owner::parse(&owner)
            && !owners.contains(&owner)
        {
            owners.push(owner);
        }
    }
    Ok(owners)
}

/// Whether an owner's links to these programs are all among those that are pinned.
pub fn complete(pinned: &HashSet<PathBuf>, pins: &Pins, owner: Owner, programs: &[Program]) -> bool {
    programs.iter().all(|p| pinned.contains(&pins.link(&owner.name(), p.name())))
}
