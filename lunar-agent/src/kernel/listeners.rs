//! The places in which the programs look for a listening socket that lives.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use lunar_common::abi::{LISTENERS_PER_ENDPOINT, maps};

use super::{KernelError, state::State, sys};

impl State {
    /// Puts listening sockets of an endpoint where the programs look for one that lives; returns how many are there.
    /// Those that are there already keep their places: the kernel has put them there, or will take them out.
    ///
    /// # Errors
    /// If the map refuses every one of them.
    pub fn show_listeners(&mut self, slot: u32, sockets: &[OwnedFd]) -> Result<u32, KernelError> {
        let failed = || KernelError::sys("fill", maps::LISTENERS);
        let map = self.listeners.as_fd();
        let mut missing = Vec::new();
        for socket in sockets {
            missing.push((sys::socket_cookie(socket.as_fd()).map_err(failed())?, socket));
        }
        let (mut inside, mut empty) = (0, Vec::new());
        for place in places(slot) {
            match sys::sockmap_cookie(map, place).map_err(failed())? {
                Some(held) => {
                    missing.retain(|(cookie, _)| *cookie != held);
                    inside += 1;
                }
                None => empty.push(place),
            }
        }
        let mut refusal = None;
        for (place, (_, socket)) in empty.into_iter().zip(missing) {
            match sys::sockmap_put(map, place, socket.as_fd()) {
                // One has begun to listen meanwhile, perhaps this one: the next look tells.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => inside += 1,
                Err(e) => refusal = Some(e),
                Ok(()) => inside += 1,
            }
        }
        match refusal {
            Some(e) if inside == 0 => Err(failed()(e)),
            _ => Ok(inside),
        }
    }

    /// Whether there is one that lives.
    pub fn has_listener(&self, slot: u32) -> bool {
        places(slot).any(|place| matches!(sys::sockmap_cookie(self.listeners.as_fd(), place), Ok(Some(_))))
    }

    /// Empties the places of an endpoint slot: another address is in it.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn clear_listeners(&mut self, slot: u32) -> Result<(), KernelError> {
        let failed = KernelError::sys("empty", maps::LISTENERS);
        places(slot).try_for_each(|place| sys::sockmap_clear(self.listeners.as_fd(), place)).map_err(failed)
    }
}

fn places(slot: u32) -> impl Iterator<Item = u32> {
    (0..LISTENERS_PER_ENDPOINT).map(move |place| slot * LISTENERS_PER_ENDPOINT + place)
}
