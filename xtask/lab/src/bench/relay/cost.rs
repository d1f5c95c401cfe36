//! What the processes of a hop take: CPU time and memory.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{Cgroup, bench::rest};

/// The processes of a hop.
#[derive(Debug)]
pub(super) struct Processes(Vec<u32>);

/// Memory, MiB, of all of them together.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    /// `VmRSS`: what processes share counts once for each.
    pub resident: f64,
    /// `Pss`: what processes share is divided among them.
    pub proportional: f64,
}

impl Processes {
    /// Those in a cgroup, or of them those whose first argument is `verb`.
    pub(super) fn of(cgroup: &Cgroup, verb: Option<&str>) -> Result<Self> {
        let path = cgroup.path().join("cgroup.procs");
        let procs = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let has_verb = |pid: &u32| match verb {
            None => true,
            Some(verb) => rest::read(*pid, "cmdline").is_ok_and(|line| line.split('\0').nth(1) == Some(verb)),
        };
        let pids: Vec<u32> = procs.lines().filter_map(|line| line.parse().ok()).filter(has_verb).collect();
        ensure!(!pids.is_empty(), "no process of the hop in {}", cgroup.path().display());
        Ok(Self(pids))
    }

    /// Their ids, with commas between them.
    pub(super) fn list(&self) -> String {
        self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }

    /// Time on a CPU so far, seconds. What the kernel does for a connection's other side while one of them sends is in it.
    pub(super) fn cpu(&self) -> Result<f64> {
        let times = self.0.iter().map(|pid| Ok(rest::moment(*pid)?.cpu_ns as f64 / 1e9));
        times.sum()
    }

    /// Memory at this moment.
    pub(super) fn memory(&self) -> Result<Memory> {
        const KIB: f64 = 1024.0;
        let mut sum = Memory { resident: 0.0, proportional: 0.0 };
        for pid in &self.0 {
            sum.resident += rest::field_of(&rest::read(*pid, "status")?, "VmRSS")? as f64 / KIB;
            sum.proportional += rest::field_of(&rest::read(*pid, "smaps_rollup")?, "Pss")? as f64 / KIB;
        }
        Ok(sum)
    }
}
