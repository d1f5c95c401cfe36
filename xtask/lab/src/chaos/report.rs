//! What was shown, row by row; limits, and which of them were broken.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bench::{machine, statistics::quantile};

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    what: String,
    figure: String,
    limit: String,
}

/// All that a run has shown.
pub(super) struct Report {
    seed: u64,
    brief: bool,
    commit: String,
    scenario: String,
    rows: Vec<Row>,
    evidence: Vec<String>,
    /// A sentence for each limit that was broken.
    pub breaches: Vec<String>,
}

impl Report {
    pub(super) fn new(seed: u64, brief: bool, commit: String) -> Self {
        Self {
            seed,
            brief,
            commit,
            scenario: String::new(),
            rows: Vec::new(),
            evidence: Vec::new(),
            breaches: Vec::new(),
        }
    }

    /// What follows is of this scenario.
    pub(super) fn begin(&mut self, scenario: &str) {
        scenario.clone_into(&mut self.scenario);
    }

    /// Whether times are shown only.
    pub(super) fn is_brief(&self) -> bool {
        self.brief
    }

    /// A figure without a limit.
    pub(super) fn show(&mut self, what: &str, figure: impl ToString) {
        self.row(what, figure.to_string(), String::new());
    }

    /// A count that must not be exceeded.
    pub(super) fn at_most(&mut self, what: &str, count: usize, limit: usize) {
        let words = if limit == 0 { "0".to_owned() } else { format!("at most {limit}") };
        if count > limit {
            self.breaches.push(format!("{}: {what}: {count}, where {words} may be.", self.scenario));
        }
        self.row(what, count.to_string(), words);
    }

    /// Times in milliseconds, the longest of which has a limit. Judged in the long form only: speed is never asserted
    /// in tests.
    pub(super) fn times(&mut self, what: &str, ms: &[f64], limit: Option<f64>) {
        let mut sorted = ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [median, p99, max] = [0.5, 0.99, 1.0].map(|q| quantile(&sorted, q));
        if let Some(limit) = limit
            && !self.brief
            // Also when there is no time at all.
            && (max.is_nan() || max > limit)
        {
            self.breaches.push(format!(
                "{}: {what}: {max:.1} ms at the longest, where {limit} ms may be.",
                self.scenario
            ));
        }
        let limit = limit.map(|limit| format!("{limit} ms")).unwrap_or_default();
        let figure = if ms.is_empty() {
            "none".to_owned()
        } else {
            format!("median {median:.1} ms, p99 {p99:.1} ms, max {max:.1} ms (n = {})", ms.len())
        };
        self.row(what, figure, limit);
    }

    /// Something else that must hold.
    pub(super) fn holds(&mut self, what: &str, figure: impl ToString, limit: &str, is_so: bool) {
        let figure = figure.to_string();
        if !is_so {
            self.breaches.push(format!("{}: {what}: {figure}, where {limit} may be.", self.scenario));
        }
        self.row(what, figure, limit.to_owned());
    }

    /// Details of what went wrong, for whoever looks into it.
    pub(super) fn evidence(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            let line = format!("{}: {line}", self.scenario);
            eprintln!("    {line}");
            self.evidence.push(line);
        }
    }

    fn row(&mut self, what: &str, figure: String, limit: String) {
        eprintln!(
            "    {what}: {figure}{}",
            if limit.is_empty() { limit.clone() } else { format!(" [{limit}]") }
        );
        self.rows.push(Row { scenario: self.scenario.clone(), what: what.to_owned(), figure, limit });
    }

    /// The table, with what it was measured on.
    pub(super) fn markdown(&self, took: Duration) -> String {
        let machine = machine::describe();
        let mut text = format!(
            "\nKernel {}, {} × {}, commit {}; seed {}, {} form, {:.0} s in all.\n\n",
            machine["kernel"].as_str().unwrap_or_default(),
            machine["cpus"],
            machine["cpu"].as_str().unwrap_or_default(),
            self.commit,
            self.seed,
            if self.brief { "short" } else { "long" },
            took.as_secs_f64(),
        );
        let head = Row {
            scenario: "scenario".to_owned(),
            what: "what".to_owned(),
            figure: "figure".to_owned(),
            limit: "limit".to_owned(),
        };
        let columns = |row: &Row| [&row.scenario, &row.what, &row.figure, &row.limit].map(String::clone);
        let all: Vec<_> = std::iter::once(&head).chain(&self.rows).map(columns).collect();
        let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        for (index, row) in all.iter().enumerate() {
            text.push('|');
            for (cell, width) in row.iter().zip(widths) {
                // Writing to a string cannot fail.
                let _ = write!(text, " {cell:<width$} |");
            }
            text.push('\n');
            if index == 0 {
                text.push('|');
                for width in widths {
                    text.push_str(&"-".repeat(width + 2));
                    text.push('|');
                }
                text.push('\n');
            }
        }
        text
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let rows = serde_json::to_value(&self.rows).context("cannot write the rows as JSON")?;
        Ok(json!({
            "machine": machine::describe(), "commit": self.commit, "seed": self.seed, "brief": self.brief,
            "rows": rows, "breaches": self.breaches, "evidence": self.evidence,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(brief: bool) -> Report {
        let mut report = Report::new(1, brief, "abc".to_owned());
        report.begin("test");
        report
    }

    #[test]
    fn a_count_over_its_limit_is_a_breach() {
        let mut report = report(true);
        report.at_most("failed", 2, 2);
        assert!(report.breaches.is_empty());
        report.at_most("failed", 1, 0);
        assert_eq!(report.breaches, ["test: failed: 1, where 0 may be."]);
    }

    #[test]
    fn times_are_judged_in_the_long_form_only() {
        for (brief, breaches) in [(true, 0), (false, 1)] {
            let mut report = report(brief);
            report.times("fast enough", &[1.0, 5.0], Some(5.0));
            report.times("too slow", &[1.0, 5.1], Some(5.0));
            assert_eq!(report.breaches.len(), breaches);
        }
        let mut report = report(false);
        report.times("nothing came", &[], Some(5.0));
        assert_eq!(report.breaches.len(), 1);
    }

    #[test]
    fn the_table_is_aligned() {
        let mut report = report(true);
        report.show("ä", 1);
        report.show("longer", 22);
        let text = report.markdown(Duration::ZERO);
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{text}");
    }
}
