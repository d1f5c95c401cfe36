//! The places in which the programs look for a listening socket that lives.

use std::os::fd::{AsFd, OwnedFd};

use lunar_common::abi::{LISTENERS_PER_ENDPOINT, maps};

use super::{KernelError, state::State, sys};

impl State {
    /// Puts listening sockets of an endpoint where the programs look for one that lives; returns how many are there.
    /// Those that are there already, which the kernel may have put there, keep their places.
    ///
    /// # Errors
    /// If the map refuses every one of them.
    pub fn set_listeners(&mut self, slot: u32, sockets: &[OwnedFd]) -> Result<u32, KernelError> {
        let failed = || KernelError::sys("fill", maps::LISTENERS);
        let map = self.listeners.as_fd();
        let mut wanted = Vec::new();
        for socket in sockets {
            wanted.push((sys::socket_cookie(socket.as_fd()).map_err(failed())?, socket));
        }
        let (mut inside, mut others) = (0, Vec::new());
        for place in (0..LISTENERS_PER_ENDPOINT).map(|place| slot * LISTENERS_PER_ENDPOINT + place) {
            let held = sys::sockmap_cookie(map, place).map_err(failed())?;
            match wanted.iter().position(|(cookie, _)| Some(*cookie) == held) {
                Some(at) => {
                    wanted.swap_remove(at);
                    inside += 1;
                }
                None => others.push(place),
            }
        }
        let mut refusal = None;
        for place in others {
            match wanted.pop().map(|(_, socket)| sys::sockmap_put(map, place, socket.as_fd())) {
                Some(Ok(())) => {
                    inside += 1;
                    continue;
                }
                Some(Err(e)) => refusal = Some(e),
                None => {}
            }
            sys::sockmap_clear(map, place).map_err(failed())?;
        }
        match refusal {
            Some(e) if inside == 0 => Err(failed()(e)),
            _ => Ok(inside),
        }
    }
}
