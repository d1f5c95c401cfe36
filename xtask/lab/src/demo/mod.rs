//! The demo: a client that knows nothing calls a provider while the gateway and the agent are killed and come back.
//!
//! Whatever is done is done right after a call has ended, so that the timeline is clean: who kills a gateway amid its
//! calls loses those it had accepted. That is counted apart if it happens all the same on a slow machine.

mod call;
mod pace;
mod phase;
mod scene;
mod screen;
mod summary;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use self::call::{Call, Way};
use self::pace::Pace;
use self::phase::{Expect, Phase, Plan};
use self::scene::{CLIENT, Counters, GATEWAY, PROVIDER, Scene, TOWARDS_PROVIDER};
use self::screen::{Run, Screen, Style};

/// `lunar-lab demo`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo cargo xtask demo\n  sudo cargo xtask demo --brief")]
pub struct Demo {
    /// The same in about twelve seconds
    #[arg(long)]
    brief: bool,
}

impl Demo {
    /// Runs it, with a timeline on standard output.
    ///
    /// # Errors
    /// When something cannot be started, a call failed that must not, calls did not go the way they should, or the
    /// kernel's counters do not agree.
    pub fn run(&self) -> Result<()> {
        let screen = Screen::new();
        let pace = if self.brief { &Pace::BRIEF } else { &Pace::FULL };
        introduce(&screen, pace)?;
        let scene = Scene::set(pace)?;
        let begun = Instant::now();
        let mut show = Show {
            scene,
            screen,
            pace,
            begun,
            first_call: begun,
            phases: Vec::new(),
            counters: Counters::new(),
            run: None,
        };
        play(&mut show)?;
        show.end()
    }
}

fn introduce(screen: &Screen, pace: &Pace) -> Result<()> {
    let rate = 1000 / pace.every.as_millis();
    screen.say(&screen.paint(Style::Bold, "The Lunar interceptor: redirect, fail over, come back"))?;
    for line in [
        String::new(),
        format!("  client      {CLIENT:<18} calls the provider {rate} times a second and knows nothing else"),
        format!("  gateway     {GATEWAY:<18} forwards what the kernel redirects to it"),
        format!("  provider    {PROVIDER:<18} answers with the address it was called from:"),
    ] {
        screen.say(&line)?;
    }
    for (style, dot, from, meaning) in [
        (Style::Good, "●", TOWARDS_PROVIDER, "the gateway called"),
        (Style::Other, "○", CLIENT, "the client itself did: direct"),
    ] {
        screen.say(&format!("{:33}{} {from:<13} {meaning}", "", screen.paint(style, dot)))?;
    }
    screen.say(
        &screen.paint(Style::Dim, "\n  On the right of each line: the kernel's own reason for its verdicts."),
    )
}

/// The phases, in order.
fn play(show: &mut Show<'_>) -> Result<()> {
    use Way::{Direct, Gateway};
    let Pace { long, short, cooldown, lease, .. } = *show.pace;
    // Generous: on a busy machine everything takes longer, and the summary tells how long.
    let patience = Duration::from_secs(10);
    let plan = |name, title, expect, because| Plan { name, title, expect, because, may_break: false };

    let first = plan(
        "redirected",
        "The agent redirects: every call goes via the gateway",
        Expect::All(Gateway),
        Some("redirected"),
    );
    show.phase(first, |scene, pace| scene.start_client(pace))?;
    show.hold(long)?;

    let killed = plan(
        "gateway killed",
        "The gateway is killed (SIGKILL): calls go direct, and after 5 failures a cooldown begins",
        Expect::All(Direct),
        // no_listener or cooldown, whichever is noticed first.
        None,
    );
    show.phase(Plan { may_break: true, ..killed }, |scene, _| scene.kill_gateway())?;
    // Into the cooldown, but not to its end.
    show.hold(cooldown.min(short + short * 3 / 4))?;

    let returned = plan(
        "gateway returned",
        "The gateway returns: direct until the cooldown ends and a probe succeeds, then redirected",
        Expect::Then(Direct, Gateway),
        Some("cooldown"),
    );
    show.phase(returned, |scene, _| scene.start_gateway())?;
    show.turn(cooldown + patience)?;
    show.hold(short)?;

    let bypass = plan(
        "failsafe bypass",
        "A person says `lunar-agent failsafe bypass`: direct",
        Expect::All(Direct),
        Some("forced"),
    );
    show.phase(bypass, |scene, _| scene.agent(&["failsafe", "bypass"]).map(drop))?;
    show.hold(short)?;

    let resume = plan(
        "failsafe resume",
        "… and `lunar-agent failsafe resume`: redirected",
        Expect::All(Gateway),
        Some("redirected"),
    );
    show.phase(resume, |scene, _| scene.agent(&["failsafe", "resume"]).map(drop))?;
    show.hold(short)?;

    let dead = plan(
        "agent killed",
        "The agent is killed (SIGKILL): redirected until its lease ends, then direct",
        Expect::Then(Gateway, Direct),
        Some("lease_stale"),
    );
    show.phase(dead, |scene, _| scene.kill_agent())?;
    show.turn(lease + patience)?;
    show.hold(short)?;

    let back =
        plan("agent returned", "The agent returns: redirected", Expect::Finally(Gateway), Some("redirected"));
    show.phase(back, |scene, _| scene.start_agent())?;
    show.turn(patience)?;
    show.hold(short)
}

/// A demo under way.
struct Show<'a> {
    scene: Scene,
    screen: Screen,
    pace: &'a Pace,
    begun: Instant,
    /// When the client's clock began.
    first_call: Instant,
    phases: Vec<Phase>,
    counters: Counters,
    /// Calls not shown yet.
    run: Option<Run>,
}

impl Show<'_> {
    /// Announces a phase and does what begins it.
    fn phase(&mut self, plan: Plan, event: impl FnOnce(&mut Scene, &Pace) -> Result<()>) -> Result<()> {
        self.flush()?;
        self.screen.heading(self.begun.elapsed(), self.phases.len() + 1, plan.title)?;
        let before = self.first_call.elapsed();
        event(&mut self.scene, self.pace)?;
        let is_first = self.phases.is_empty();
        let event = if is_first {
            // The client's clock begins with the client.
            self.first_call = Instant::now();
            (Duration::ZERO, Duration::ZERO)
        } else {
            (before, self.first_call.elapsed())
        };
        self.phases.push(Phase { plan, event, calls: Vec::new(), reasons: Counters::new() });
        if is_first {
            self.next_call()?;
        }
        Ok(())
    }

    /// Follows the calls for so long, and to the end of one.
    fn hold(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.next_call()?;
        }
        Ok(())
    }

    /// Follows the calls until they go as they are to at the end of the phase, or not in time.
    fn turn(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end && self.phases.last().is_some_and(|phase| phase.tally().turned.is_none()) {
            self.next_call()?;
        }
        Ok(())
    }

    fn next_call(&mut self) -> Result<()> {
        let line = self.scene.next_line()?;
        let call = Call::parse(&line)?;
        if self.phases.len() == 1 && self.phases[0].calls.is_empty() {
            // The client counts from its own first call; this is as near as can be told from outside.
            let since = call.ended;
            self.first_call = Instant::now().checked_sub(since).unwrap_or(self.first_call);
        }
        self.take(call)
    }

    fn take(&mut self, call: Call) -> Result<()> {
        let now = self.scene.counters()?;
        let news: Counters = now
            .iter()
            .map(|(reason, count)| {
                (reason.clone(), count - self.counters.get(reason).copied().unwrap_or(0).min(*count))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        self.counters = now;
        // The last line of one phase may be read in the next.
        let of = self.phases.iter().rposition(|phase| phase.event.0 < call.ended).unwrap_or(0);
        let reason = news.keys().cloned().collect::<Vec<_>>().join(" + ");
        let phase = &mut self.phases[of];
        for (reason, count) in news {
            *phase.reasons.entry(reason).or_default() += count;
        }
        let per_line = usize::try_from(1000 / self.pace.every.as_millis())?;
        let way = call.way.clone();
        phase.calls.push(call);
        if self.run.as_ref().is_some_and(|run| (&run.way, &run.reason) != (&way, &reason)) {
            self.flush()?;
        }
        let run = self.run.get_or_insert(Run { way, reason, count: 0 });
        run.count += 1;
        if run.count == per_line { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        match self.run.take() {
            Some(run) => self.screen.calls(self.begun.elapsed(), &run),
            None => Ok(()),
        }
    }

    /// Stops the client and says how it all went.
    fn end(&mut self) -> Result<()> {
        for line in self.scene.stop_client()? {
            self.take(Call::parse(&line)?)?;
        }
        self.flush()?;
        self.counters = self.scene.counters()?;
        let status = self.scene.agent(&["status"])?;
        let screen = &self.screen;
        screen.say(&format!("\n{}\n", screen.paint(Style::Bold, "$ lunar-agent status")))?;
        for line in status.lines() {
            screen.say(&format!("  {line}"))?;
        }
        screen.say(&format!("\n{}\n", screen.paint(Style::Bold, "Summary")))?;
        summary::table(&self.phases).iter().try_for_each(|line| screen.say(line))?;
        screen.say("")?;
        summary::turns(&self.phases).iter().try_for_each(|line| screen.say(line))?;
        screen.say("")?;
        let total = summary::total(&self.phases);
        if total.broken > 0 {
            screen.say(&format!(
                "  {} broke off: the gateway had accepted the connection when it was killed. No interceptor can\n  \
                 save that; a new connection goes direct.",
                total.broken
            ))?;
        }
        let problems = summary::problems(&self.phases, &self.counters);
        if !problems.is_empty() {
            for problem in &problems {
                screen.say(&screen.paint(Style::Bad, &format!("  ✗ {problem}")))?;
            }
            bail!("the demo did not go as it should: {}", problems.join("; "));
        }
        let verdict = format!(
            "✓ {} calls, none failed that must not; `redirected` and the provider agree on {}; {:.0} s in all.",
            total.calls,
            total.gateway,
            self.begun.elapsed().as_secs_f64()
        );
        screen.say(&format!("  {}", screen.paint(Style::Good, &verdict)))
    }
}
