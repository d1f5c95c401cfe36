//! What the pinned maps say, without the agent.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya_obj::generated::bpf_map_type::{BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_SOCKHASH};

use crate::bpf;

/// How long the last sockets may take to give back what they hold.
const SETTLED: Duration = Duration::from_secs(20);

/// When the agent last renewed its lease, on CLOCK_MONOTONIC, ns.
pub(super) fn last_heartbeat(pins: &Path) -> Result<u64> {
    control(pins, 0)
}

/// Slots of the sockhash that are taken or promised.
pub(super) fn reserved(pins: &Path) -> Result<u64> {
    control(pins, 16)
}

/// Bytes of the control block (`Control` in lunar-common, which xtask does not depend on). One of another size has
/// other words in other places.
const CONTROL: u32 = 64;

/// A word of the control block.
fn control(pins: &Path, at: usize) -> Result<u64> {
    let path = pins.join(bpf::ABI).join("maps/CONTROL");
    let read = || -> std::io::Result<_> {
        let map = bpf::open_pin(&path)?;
        let size = bpf::map_info(map.as_fd())?.value_size;
        if size != CONTROL {
            return Ok(None);
        }
        bpf::look_up(map.as_fd(), &0_u32.to_ne_bytes(), size as usize)
    };
    let block = read().with_context(|| format!("cannot read {}", path.display()))?;
    let word = block.as_deref().and_then(|block| block.get(at..at + 8)).and_then(|b| b.try_into().ok());
    word.map(u64::from_ne_bytes).with_context(|| format!("{} is not as expected", path.display()))
}

/// Waits until a count is 0, and gives what it is when it is that, or is not for long.
pub(super) fn until_none(mut count: impl FnMut() -> Result<usize>) -> Result<usize> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let left = count()?;
        if left == 0 || Instant::now() > deadline {
            return Ok(left);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many entries there are in each pinned map whose entries come and go, by its name.
pub(super) fn entries(pins: &Path) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for path in below(&pins.join(bpf::ABI).join("maps"))? {
        let count =
            count(&path).with_context(|| format!("cannot count the entries of {}", path.display()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        counts.extend(count.map(|count| (name, count)));
    }
    Ok(counts)
}

/// None of an array, which always has all its entries. The sockmap of listeners is one: the kernel empties a slot when
/// its socket closes, and tells user space nothing of what is in it (its values are shorter than a cookie).
fn count(path: &Path) -> std::io::Result<Option<usize>> {
    let map = bpf::open_pin(path)?;
    let info = bpf::map_info(map.as_fd())?;
    let is = |kind| info.type_ == kind as u32;
    if !is(BPF_MAP_TYPE_HASH) && !is(BPF_MAP_TYPE_LRU_HASH) && !is(BPF_MAP_TYPE_SOCKHASH) {
        return Ok(None);
    }
    let (mut count, mut key) = (0, None);
    // More than there can be: the kernel begins anew when a key vanishes meanwhile.
    while count <= info.max_entries as usize {
        key = bpf::next_key(map.as_fd(), key.as_deref(), info.key_size as usize)?;
        if key.is_none() {
            break;
        }
        count += 1;
    }
    Ok(Some(count))
}

/// All files below a folder.
pub(super) fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
