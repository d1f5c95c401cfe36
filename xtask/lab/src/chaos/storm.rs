//! The storm, from outside: its process, and the records it writes.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::record::{Outcome, Record};
use crate::Child;

/// Connects a second.
pub(super) const RATE: u64 = 1000;
/// How long a call may take before the application gives it up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long anything else may take that is waited for.
const LONG: Duration = Duration::from_secs(30);

/// A storm that blows.
pub(super) struct Storm {
    child: Child,
    path: PathBuf,
    file: File,
    /// The beginning of a record whose rest is not written yet.
    rest: Vec<u8>,
    records: Vec<Record>,
}

/// What a storm has left.
pub(super) struct Calm {
    /// In the order in which they ended.
    pub records: Vec<Record>,
    /// How many began more than 50 ms later than they should have: the machine was too busy.
    pub late: u64,
}

impl Storm {
    /// Follows a client that writes to `path`.
    pub(super) fn follow(child: Child, path: &Path) -> Result<Self> {
        let deadline = Instant::now() + LONG;
        let file = loop {
            match File::open(path) {
                Ok(file) => break file,
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(e).with_context(|| format!("no storm: {}", child.output())),
            }
        };
        Ok(Self { child, path: path.to_owned(), file, rest: Vec::new(), records: Vec::new() })
    }

    /// Waits for a connect that began at `since` or later and came to this. Gives the earliest begun of those known
    /// at that moment.
    pub(super) fn wait_for(&mut self, outcome: Outcome, since: u64) -> Result<Record> {
        let deadline = Instant::now() + LONG;
        let mut seen = self.records.len();
        // Those of the last moments may have been read while another was waited for.
        while seen > 0 && self.records[seen - 1].end() >= since {
            seen -= 1;
        }
        loop {
            self.read()?;
            let news = self.records[seen..].iter().filter(|r| r.outcome == outcome && r.start >= since);
            if let Some(first) = news.min_by_key(|record| record.start) {
                return Ok(*first);
            }
            if Instant::now() > deadline {
                let last = self.records.iter().rev().take(5).map(|r| r.tell(since)).collect::<Vec<_>>();
                bail!(
                    "no connect came to {outcome:?} within {LONG:?}; the last ones, by that time: {last:#?}"
                );
            }
            if self.child.try_wait()?.is_some() {
                bail!("the storm has ended: {}", self.child.output());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the storm and waits for the last answers.
    pub(super) fn stop(mut self) -> Result<Calm> {
        self.child.close_stdin();
        let said = self.child.finish(PATIENCE + LONG)?;
        self.read()?;
        let summary: Value = serde_json::from_str(said.trim()).context("the storm gives no account")?;
        if summary["connects"].as_u64() != Some(self.records.len() as u64) || !self.rest.is_empty() {
            bail!("the storm made {} connects and recorded {}", summary["connects"], self.records.len());
        }
        fs::remove_file(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))?;
        let late = summary["late"].as_u64().unwrap_or(0);
        Ok(Calm { records: self.records, late })
    }

    fn read(&mut self) -> Result<()> {
        self.file.read_to_end(&mut self.rest).context("cannot read the records")?;
        let mut chunks = self.rest.chunks_exact(Record::SIZE);
        for chunk in &mut chunks {
            let record = <&[u8; Record::SIZE]>::try_from(chunk).ok().and_then(Record::read);
            self.records.push(record.context("the storm wrote what is no record")?);
        }
        self.rest = chunks.remainder().to_vec();
        Ok(())
    }
}
