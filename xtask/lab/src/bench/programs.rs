//! The kernel's run-time statistics of each program under a workload.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::statistics::Spread;
use crate::bpf;

/// Batches per workload.
const BATCHES: usize = 40;

/// What one program took under one workload.
#[derive(Debug, Serialize)]
pub(super) struct Program {
    /// What was done.
    pub workload: String,
    /// The program.
    pub program: String,
    /// How often it ran for each connect.
    pub runs_per_connect: f64,
    /// Nanoseconds per run, over the batches.
    pub ns: Spread,
}

/// The programs that pinned links run, by their names.
pub(super) fn of_links(links: &[PathBuf]) -> Result<Vec<(String, OwnedFd)>> {
    links
        .iter()
        .map(|path| {
            let failed = || format!("cannot look at {}", path.display());
            let link = bpf::open_pin(path).with_context(failed)?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let program = name.split_once('_').map_or(name, |(_owner, program)| program);
            Ok((program.to_owned(), bpf::program_of(link.as_fd()).with_context(failed)?))
        })
        .collect()
}

/// Runs batches of `connects` and says what the programs took; those that did not run are left out.
pub(super) fn measure(
    workload: &str,
    watched: Vec<(String, OwnedFd)>,
    connects: u64,
    mut batch: impl FnMut() -> Result<()>,
) -> Result<Vec<Program>> {
    let read = |watched: &[(String, OwnedFd)]| {
        watched.iter().map(|(_, fd)| bpf::run_time(fd.as_fd())).collect::<Result<Vec<_>, _>>()
    };
    let mut per_run = vec![Vec::new(); watched.len()];
    let mut runs = vec![0; watched.len()];
    for _ in 0..BATCHES {
        let before = read(&watched)?;
        batch()?;
        for (i, (now, then)) in read(&watched)?.iter().zip(before).enumerate() {
            let ran = now.runs - then.runs;
            runs[i] += ran;
            if ran > 0 {
                per_run[i].push((now.ns - then.ns) as f64 / ran as f64);
            }
        }
    }
    let all = connects * BATCHES as u64;
    Ok(watched
        .into_iter()
        .zip(per_run)
        .zip(runs)
        .filter(|((_, ns), runs)| ns.len() == BATCHES && *runs * 10 > all)
        .map(|(((program, _), ns), runs)| Program {
            workload: workload.to_owned(),
            program,
            runs_per_connect: runs as f64 / all as f64,
            ns: Spread::of(ns),
        })
        .collect())
}
