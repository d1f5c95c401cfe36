//! What a person needs in an emergency, and no more: the failsafe's words and the control block. These two maps open
//! also where others are missing.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
};

use lunar_common::{
    abi::{Control, MAX_ENDPOINTS, maps},
    failsafe::{self, Cell, Word},
    time::KtimeNs,
};

use super::{
    KernelError,
    layout::now,
    pins::Pins,
    state::check_pins,
    sys::{self, Mapped},
};

/// The control block and the words, mapped into memory.
pub struct Breaker {
    control: Mapped<Control>,
    words: Mapped<u64>,
}

impl Breaker {
    /// Opens the two maps from their pins.
    ///
    /// # Errors
    /// [`KernelError::NoPins`] if nothing is pinned; otherwise what could not be opened.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        super::state::expect_pins(pins)?;
        check_pins(pins)?;
        let open = |name: &str| {
            let path = pins.map(name);
            sys::open_pin(&path).map_err(KernelError::sys("open", path.display().to_string()))
        };
        let control = Mapped::new(open(maps::CONTROL)?.as_fd(), 1, true);
        let words = Mapped::new(open(maps::FAILSAFE)?.as_fd(), MAX_ENDPOINTS as usize, true);
        Ok(Self {
            control: control.map_err(KernelError::sys("map", maps::CONTROL))?,
            words: words.map_err(KernelError::sys("map", maps::FAILSAFE))?,
        })
    }

    /// One of memory that no kernel program looks into.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let control = Mapped::anonymous(1).expect("a page of memory");
        let words = Mapped::anonymous(MAX_ENDPOINTS as usize).expect("a page of memory");
        Self { control, words }
    }

    fn control_u32(&self, field: impl Fn(*mut Control) -> *mut u32) -> &AtomicU32 {
        // SAFETY: the field lies in the mapping, aligned, and lives as long as `self`; everyone accesses it as one.
        unsafe { AtomicU32::from_ptr(field(self.control.ptr(0))) }
    }

    fn heartbeat_cell(&self) -> &AtomicU64 {
        // SAFETY: as in `control_u32`; `KtimeNs` is a transparent u64.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.control.ptr(0)).heartbeat).cast()) }
    }

    /// Renews the lease.
    pub fn beat(&self) {
        self.heartbeat_cell().store(now().0, Ordering::Release);
    }

    /// The last heartbeat; zero before the first.
    pub fn heartbeat(&self) -> KtimeNs {
        KtimeNs(self.heartbeat_cell().load(Ordering::Acquire))
    }

    fn relay_heartbeat_cell(&self) -> &AtomicU64 {
        // SAFETY: as in `heartbeat_cell`.
        unsafe { AtomicU64::from_ptr((&raw mut (*self.control.ptr(0)).relay_heartbeat).cast()) }
    }

    /// Renews the relay's lease.
    pub fn relay_beat(&self) {
        self.relay_heartbeat_cell().store(now().0, Ordering::Release);
    }

    /// Ends the relay's lease at once.
    pub fn relay_rest(&self) {
        self.relay_heartbeat_cell().store(0, Ordering::Release);
    }

    /// The relay's last heartbeat; zero before the first.
    pub fn relay_heartbeat(&self) -> KtimeNs {
        KtimeNs(self.relay_heartbeat_cell().load(Ordering::Acquire))
    }

    /// Whether a person has forced everything direct.
    pub fn forced(&self) -> bool {
        // SAFETY: only the field's address is taken.
        self.control_u32(|c| unsafe { &raw mut (*c).forced }).load(Ordering::Acquire) != 0
    }

    /// Forces everything direct, or no longer.
    pub fn force(&self, bypass: bool) {
        // SAFETY: only the field's address is taken.
        self.control_u32(|c| unsafe { &raw mut (*c).forced }).store(u32::from(bypass), Ordering::Release);
    }

    /// Says which endpoint slots may take connections: a bit is set where not.
    pub fn set_unready(&self, slots: u32) {
        // SAFETY: only the field's address is taken.
        self.control_u32(|c| unsafe { &raw mut (*c).unready }).store(slots, Ordering::Release);
    }

    /// Endpoint slots that may take no connection, a bit each.
    pub fn unready(&self) -> u32 {
        // SAFETY: only the field's address is taken.
        self.control_u32(|c| unsafe { &raw mut (*c).unready }).load(Ordering::Acquire)
    }

    /// Says how many slots of the sockhash are taken.
    pub fn set_reserved(&self, count: i64) {
        // SAFETY: as in `control_u32`.
        unsafe { AtomicI64::from_ptr(&raw mut (*self.control.ptr(0)).reserved) }
            .store(count, Ordering::Release);
    }

    /// Says in which network namespace, by its cookie, local endpoints are.
    pub fn set_home(&self, netns: u64) {
        // SAFETY: as in `control_u32`.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.control.ptr(0)).home) }.store(netns, Ordering::Release);
    }

    /// Makes the secret key of the tags of DNS questions, if there is none yet: it has to outlive the agent as the questions do.
    ///
    /// # Errors
    /// If there is no randomness to be had.
    pub fn make_dns_key(&self) -> io::Result<()> {
        // SAFETY: within the mapping, and only the agent that holds the lock writes it.
        let key = unsafe { &raw mut (*self.control.ptr(0)).dns_key };
        // SAFETY: as above.
        if unsafe { key.read_volatile() } == [0; 2] {
            // SAFETY: as above.
            unsafe { key.write_volatile(sys::random()?) };
        }
        Ok(())
    }

    /// The failsafe's word of an endpoint slot.
    pub fn word(&self, slot: u32) -> WordCell<'_> {
        // SAFETY: in the mapping, aligned, as long as `self`; the kernel's programs access it as one, atomically.
        WordCell(unsafe { AtomicU64::from_ptr(self.words.ptr(slot as usize)) })
    }
}

/// A failsafe word in its mapped page.
pub struct WordCell<'a>(&'a AtomicU64);

impl WordCell<'_> {
    /// Closes the breaker by hand: counts zero, a new epoch.
    pub fn close(&self) {
        failsafe::close(self);
    }
}

impl Cell for WordCell<'_> {
    fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    fn swap(&self, old: Word, new: Word) -> bool {
        self.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
