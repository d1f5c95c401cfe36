//! What the deaths of a gateway next to the target cost, over one storm or several.

use super::{
    count::{Losses, Window, allowance, losses, ms, nearest, ways},
    delay::Delay,
    record::{Outcome, Record},
    report::Report,
    storm::Calm,
};

/// Lines of evidence for each storm.
const TOLD: usize = 20;

/// The sum so far.
#[derive(Default)]
pub(super) struct Toll {
    pub connects: usize,
    pub gateway: usize,
    direct: usize,
    late: u64,
    /// How long each death took, ms.
    widths: Vec<f64>,
    /// How old the connections were that a death dropped, since connect(2), ms.
    ages: Vec<f64>,
    lost: Losses,
    delay: Delay,
    evidence: Vec<String>,
}

impl Toll {
    /// Adds what a storm has left, and the deaths that it met.
    pub(super) fn add(&mut self, calm: &Calm, deaths: &[Window]) {
        self.connects += calm.records.len();
        self.gateway += ways(&calm.records, Outcome::Gateway);
        self.direct += ways(&calm.records, Outcome::Direct);
        self.late += calm.late;
        self.widths.extend(deaths.iter().map(|death| ms(death.from, death.to)));
        self.delay.add(&calm.records, deaths);
        let lost = losses(&calm.records, deaths);
        self.ages.extend(lost.dropped.iter().map(|record| f64::from(record.took_us) / 1e3));
        let bad = lost.outside.iter().chain(&lost.wrong).chain(&lost.before_signal).chain(&lost.amid_death);
        let tell =
            |r: &Record| format!("{} (from the nearest death of a gateway)", r.tell(nearest(deaths, r)));
        self.evidence.extend(bad.take(TOLD).map(tell));
        self.lost.append(lost);
    }

    /// How many gateways have died.
    pub(super) fn deaths(&self) -> usize {
        self.widths.len()
    }

    pub(super) fn tell(self, report: &mut Report) {
        let lost = &self.lost;
        report.show("direct", self.direct);
        report.show("begun over 50 ms late: the machine was busy", self.late);
        report.times("from the signal until the gateway was reaped", &self.widths, None);
        report.at_most(
            "connects failed, under way when the gateway died",
            lost.before_signal.len() + lost.amid_death.len(),
            allowance(self.widths.len(), report.is_brief()),
        );
        report.show("of these, begun before the signal", lost.before_signal.len());
        report.show("of these, begun between signal and reaping", lost.amid_death.len());
        let reset = lost.before_signal.iter().chain(&lost.amid_death).filter(|r| r.is_reset()).count();
        report.show(
            "of these, connect(2) itself said ECONNRESET: the handshake was done when the gateway died",
            reset,
        );
        report.at_most("connects failed at any other time", lost.outside.len(), 0);
        report.show("connections that the gateway had accepted and dropped by dying", lost.dropped.len());
        report.times("how old those were when they fell, since connect(2)", &self.ages, None);
        report.at_most("dropped by a living gateway, unanswered, or astray", lost.wrong.len(), 0);
        self.delay.judge(report, "good connects");
        report.evidence(self.evidence);
    }
}
