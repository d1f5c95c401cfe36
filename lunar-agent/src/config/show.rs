//! The effective configuration, for people and for programs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tracing::level_filters::LevelFilter;

use super::checked::Quic;
use super::duration::HumanDuration;
use super::endpoint::EndpointSpec;
use super::failsafe::OnStop;
use super::gateway::{GatewayProcess, Handoff, Tls};
use super::health::HealthKind;
use super::layer::Source;
use super::relay::{Bytes, Replay};
use crate::policy::PolicyEntry;
use crate::relay::http::head::ErrorIndicator;
use crate::targets::Selector;

/// A value that is in effect, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The dotted key. Each target is `target.NAME`, and its value is the selector.
    pub key: String,
    /// The value in its canonical form.
    pub value: Value,
    /// Who said so.
    pub source: Source,
}

/// A checked value as it is shown, which is also how it could be configured.
pub(super) trait Shown {
    fn shown(&self) -> Value;
}

macro_rules! shown_as_text {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn shown(&self) -> Value {
                Value::String(self.to_string())
            }
        })+
    };
}

shown_as_text!(
    String,
    Handoff,
    Tls,
    Quic,
    HealthKind,
    Replay,
    Bytes,
    ErrorIndicator,
    OnStop,
    GatewayProcess,
    PolicyEntry,
    Selector,
    LevelFilter
);

macro_rules! shown_as_it_is {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn shown(&self) -> Value {
                json!(self)
            }
        })+
    };
}

shown_as_it_is!(bool, u8, u16);

impl Shown for f64 {
    /// A whole number of seconds is shown without a fraction, as it was most likely written.
    fn shown(&self) -> Value {
        if self.fract() == 0.0 && self.abs() < 1e9 { json!(*self as i64) } else { json!(self) }
    }
}

impl Shown for Duration {
    fn shown(&self) -> Value {
        Value::String(HumanDuration(*self).to_string())
    }
}

impl Shown for PathBuf {
    fn shown(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

impl Shown for EndpointSpec {
    fn shown(&self) -> Value {
        match self.health_port {
            None => Value::String(self.to_string()),
            Some(port) => json!({"address": self.to_string(), "health_port": port}),
        }
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Value {
        Value::Array(self.iter().map(Shown::shown).collect())
    }
}

/// The widest that a table's column is made, in characters. A longer cell moves what follows in its own line: a list of
/// 100,000 entries must not fill all other lines with blanks, and `format!` panics at a width of 65,536.
pub const WIDEST: usize = 120;

/// An aligned table with the columns key, value and source; a line each, with a heading.
pub fn table(origins: &[Origin]) -> String {
    let mut rows = vec![["KEY".to_owned(), "VALUE".to_owned(), "SOURCE".to_owned()]];
    rows.extend(origins.iter().map(|origin| {
        let value = cell(&origin.value);
        [origin.key.clone(), value, origin.source.to_string()]
    }));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().min(WIDEST)
    };
    let (keys, values) = (width(0), width(1));
    let mut text = String::new();
    for [key, value, source] in &rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {source}");
    }
    text
}

/// `{"KEY": {"value": …, "source": "…"}}`.
pub fn json(origins: &[Origin]) -> Value {
    let entries = origins.iter().map(|origin| {
        let entry = json!({"value": origin.value, "source": origin.source.to_string()});
        (origin.key.clone(), entry)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

/// A text without quotes, unless it would be invisible; the rest as JSON.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Vec<Origin> {
        let file = |line| Source::File { path: "/etc/lunar/agent.toml".into(), line };
        let origin = |key: &str, value, source| Origin { key: key.to_owned(), value, source };
        vec![
            origin("gateway.handoff", Handoff::OriginalDst.shown(), file(3)),
            origin("policy.ports", vec![80u16, 443].shown(), Source::Default),
        ]
    }

    #[test]
    fn the_table_is_aligned() {
        assert_eq!(
            table(&origins()),
            "KEY              VALUE         SOURCE\n\
             gateway.handoff  original-dst  /etc/lunar/agent.toml:3\n\
             policy.ports     [80,443]      default\n"
        );
    }

    #[test]
    fn a_long_value_widens_no_other_line() {
        let mut origins = origins();
        // More than `format!` takes as a width.
        let long = "x".repeat(70_000);
        origins.push(Origin { key: long.clone(), value: long.shown(), source: Source::Default });
        let table = table(&origins);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3], format!("{long}  {long}  default"));
        assert!(lines[..3].iter().all(|line| line.len() < 2 * WIDEST + 40), "{:?}", &lines[..3]);
    }

    #[test]
    fn the_json_has_value_and_source() {
        assert_eq!(
            json(&origins()),
            json!({
                "gateway.handoff": {"value": "original-dst", "source": "/etc/lunar/agent.toml:3"},
                "policy.ports": {"value": [80, 443], "source": "default"},
            })
        );
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        for (shown, expected) in [
            (10f64.shown(), json!(10)),
            (0.5f64.shown(), json!(0.5)),
            (Duration::from_millis(1500).shown(), json!("1.5s")),
            (LevelFilter::INFO.shown(), json!("info")),
            (false.shown(), json!(false)),
        ] {
            assert_eq!(shown, expected);
        }
    }
}
