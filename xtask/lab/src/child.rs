//! A process of the lab and what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// How long to wait for the last output of a process that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long nothing must have come for it to be the last.
const SILENCE: Duration = Duration::from_millis(100);

/// A running process. Dropping it kills and reaps it; when the thread is panicking (a failed test) its output is
/// shown.
#[derive(Debug)]
pub struct Child {
    title: String,
    process: process::Child,
    output: Arc<Output>,
    /// How many lines of standard output [`Child::next_line`] has handed out.
    taken: usize,
}

/// A place in the output of a [`Child`], for [`Child::wait_for_line_after`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Debug, Default)]
struct Output {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<(Stream, String)>,
    open_streams: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Said> {
        // A reader that panicked leaves whole lines behind.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, stream: Stream, from: impl Read + Send + 'static) {
        self.lock().open_streams += 1;
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                output.lock().lines.push((stream, text));
                output.more.notify_all();
                line.clear();
            }
            output.lock().open_streams -= 1;
            output.more.notify_all();
        });
    }

    /// Waits until `wanted` finds something or nothing more can come.
    fn wait<T>(&self, timeout: Duration, mut wanted: impl FnMut(&Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut said = self.lock();
        loop {
            if let Some(found) = wanted(&said) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || said.open_streams == 0 {
                return None;
            }
            said = self.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Child {
    pub(crate) fn new(title: String, mut process: process::Child) -> Self {
        let output = Arc::new(Output::default());
        if let Some(stdout) = process.stdout.take() {
            output.follow(Stream::Out, stdout);
        }
        if let Some(stderr) = process.stderr.take() {
            output.follow(Stream::Err, stderr);
        }
        Self { title, process, output, taken: 0 }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line, on standard output or error, that contains `pattern`, and returns it. Lines printed before
    /// the call count.
    ///
    /// # Errors
    /// When it does not come in time, or the process ends without it; the message has the whole output.
    pub fn wait_for_line(&self, pattern: &str, timeout: Duration) -> Result<String> {
        self.wait_for_line_after(Mark::default(), pattern, timeout)
    }

    /// Like [`Child::wait_for_line`], for lines printed after [`Child::mark`] was called.
    ///
    /// # Errors
    /// As there.
    pub fn wait_for_line_after(&self, mark: Mark, pattern: &str, timeout: Duration) -> Result<String> {
        let find =
            |said: &Said| said.lines.iter().skip(mark.0).find(|(_, line)| line.contains(pattern)).cloned();
        match self.output.wait(timeout, find) {
            Some((_, line)) => Ok(line),
            None => bail!(
                "no line with {pattern:?} within {timeout:?} from {}; it said:\n{}",
                self.title,
                self.output()
            ),
        }
    }

    /// The present end of the output.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.output.lock().lines.len())
    }

    /// The next line of standard output, in order, each once.
    ///
    /// # Errors
    /// When none comes in time or the process has closed its output.
    pub fn next_line(&mut self, timeout: Duration) -> Result<String> {
        let taken = self.taken;
        let find =
            |said: &Said| said.lines.iter().filter(|(stream, _)| *stream == Stream::Out).nth(taken).cloned();
        match self.output.wait(timeout, find) {
            Some((_, line)) => {
                self.taken += 1;
                Ok(line)
            }
            None => {
                bail!("no further line within {timeout:?} from {}; it said:\n{}", self.title, self.output())
            }
        }
    }

    /// Writes one line to its standard input ([`crate::Spawn::with_stdin`]).
    ///
    /// # Errors
    /// When it has no standard input or has ended.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        let stdin = self
            .process
            .stdin
            .as_mut()
            .with_context(|| format!("{} was started without a standard input", self.title))?;
        writeln!(stdin, "{line}").with_context(|| format!("cannot write to {}", self.title))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.process.stdin.take());
    }

    /// One step of a `lunar-lab client serve`: sends the arguments, returns the answer.
    ///
    /// # Errors
    /// When no answer comes in time, it is no JSON, or the step could not be run.
    pub fn step<S: AsRef<str>>(
        &mut self,
        args: impl IntoIterator<Item = S>,
        timeout: Duration,
    ) -> Result<serde_json::Value> {
        let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self.send_line(&serde_json::to_string(&args).context("cannot write the step as JSON")?)?;
        let answer = self.next_line(timeout).with_context(|| format!("client step {args:?}"))?;
        let answer: serde_json::Value = serde_json::from_str(&answer)
            .with_context(|| format!("client step {args:?} answered {answer:?}"))?;
        if let Some(error) = answer.get("error") {
            bail!("client step {args:?}: {error}");
        }
        Ok(answer)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has been reaped.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.process.try_wait().context("cannot ask for the state of a child")? {
            bail!("{} has ended already ({status})", self.title);
        }
        let pid = i32::try_from(self.id()).context("a process id fits in 31 bits")?;
        // Not reaped yet, so the id is still its own.
        signal::kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.title))
    }

    /// Kills it with SIGKILL and reaps it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // Fails only when it was reaped before; `wait` then returns that status.
        let _ = self.process.kill();
        let status = self.process.wait().with_context(|| format!("cannot wait for {}", self.title))?;
        self.hear_out();
        Ok(status)
    }

    /// The exit status if it has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("cannot wait for {}", self.title))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it has not ended in time; it goes on running.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                self.hear_out();
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {timeout:?}; it said:\n{}", self.title, self.output());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for a good end and returns its standard output.
    ///
    /// # Errors
    /// When it does not end in time or ends badly; the message has the whole output.
    pub fn finish(&mut self, timeout: Duration) -> Result<String> {
        let status = self.wait(timeout)?;
        if !status.success() {
            let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}"));
            bail!("{} failed ({how}); it said:\n{}", self.title, self.output());
        }
        Ok(self.stdout())
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.text(|stream| stream == Stream::Out)
    }

    /// Standard output and error so far, in the order in which the lines came.
    #[must_use]
    pub fn output(&self) -> String {
        self.text(|_| true)
    }

    fn text(&self, wanted: impl Fn(Stream) -> bool) -> String {
        let said = self.output.lock();
        said.lines
            .iter()
            .filter(|(stream, _)| wanted(*stream))
            .flat_map(|(_, line)| [line.as_str(), "\n"])
            .collect()
    }

    /// After the end: lets the readers catch up. A grandchild, as an agent's relay is, may hold the pipes open for longer; then it is
    /// over when nothing has come for a while.
    fn hear_out(&self) {
        let until = Instant::now() + LAST_WORDS;
        let mut heard = None;
        while Instant::now() < until {
            let said = self.output.lock();
            let now = Some(said.lines.len());
            if said.open_streams == 0 || heard == now {
                return;
            }
            drop(said);
            heard = now;
            let _ = self.output.wait::<()>(SILENCE, |_| None);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(reason) = self.kill() {
            eprintln!("lunar-lab: {reason:#}");
        }
        if thread::panicking() {
            eprintln!("--- output of {}\n{}---", self.title, self.output());
        }
    }
}
