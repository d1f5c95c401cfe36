//! The policies that are compared, and where the connects of each go.

use std::{
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::entries::{self, Block, Family};

/// How many destinations a list holds: so many that a list's end is not met again before the caches have forgotten
/// its beginning.
const DESTINATIONS: usize = 1 << 18;

/// Lists of destinations, as files for the workers.
#[derive(Debug)]
pub(super) struct Destinations {
    /// Wanted by no policy.
    pub misses_v4: PathBuf,
    /// Wanted by no policy.
    pub misses_v6: PathBuf,
    /// The entries of [`Policies::addresses_v4`].
    pub members_v4: PathBuf,
}

/// The allow lists.
#[derive(Debug)]
pub(super) struct Policies {
    /// One address of each family.
    pub one: Vec<Block>,
    /// 1,000 addresses of each family.
    pub thousand: Vec<Block>,
    /// 100,000 addresses.
    pub addresses_v4: Vec<Block>,
    /// 100,000 blocks.
    pub blocks_v4: Vec<Block>,
    /// 100,000 addresses.
    pub addresses_v6: Vec<Block>,
    /// 100,000 blocks.
    pub blocks_v6: Vec<Block>,
}

impl Policies {
    pub(super) fn new() -> Self {
        let both = |count| {
            let mut list = entries::addresses(1, Family::V4, count);
            list.extend(entries::addresses(2, Family::V6, count));
            list
        };
        Self {
            one: both(1),
            thousand: both(1_000),
            addresses_v4: entries::addresses(3, Family::V4, 100_000),
            blocks_v4: entries::mixed_blocks(4, Family::V4, 100_000),
            addresses_v6: entries::addresses(5, Family::V6, 100_000),
            blocks_v6: entries::mixed_blocks(6, Family::V6, 100_000),
        }
    }

    /// Draws the destinations and writes them to files in `dir`.
    pub(super) fn destinations(&self, dir: &Path) -> Result<Destinations> {
        let misses = |family, addresses: &[Block], blocks: &[Block]| {
            entries::destinations(7, family, DESTINATIONS, &[&self.one, &self.thousand, addresses, blocks])
        };
        let write = |name: &str, list: Vec<Ipv6Addr>| {
            let path = dir.join(name);
            let bytes: Vec<u8> = list.iter().flat_map(Ipv6Addr::octets).collect();
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        Ok(Destinations {
            misses_v4: write("misses4", misses(Family::V4, &self.addresses_v4, &self.blocks_v4))?,
            misses_v6: write("misses6", misses(Family::V6, &self.addresses_v6, &self.blocks_v6))?,
            members_v4: write("members4", entries::members(8, &self.addresses_v4))?,
        })
    }
}
