//! The machinery of the second stage: take a key's values from the layers, check them, remember what was wrong.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::duration::{self, HumanDuration};
use super::layer::{Layer, Located, RawValue, Source};
use super::problem::Problem;
use super::show::{Origin, Shown};

/// Why a value is not taken.
#[derive(Debug)]
pub(super) struct Refusal {
    grade: Grade,
    reason: String,
    /// The place within the value, if it is known better than that of the whole.
    at: Option<Source>,
}

#[derive(Debug, PartialEq, Eq)]
enum Grade {
    /// No version would take it.
    Invalid,
    /// A later version takes it, so it is wrong only where it is in effect.
    NotBuilt,
    /// The raw stage already complained.
    Reported,
}

impl Refusal {
    pub fn invalid(reason: impl ToString) -> Self {
        Self { grade: Grade::Invalid, reason: reason.to_string(), at: None }
    }

    pub fn not_built(reason: impl ToString) -> Self {
        Self { grade: Grade::NotBuilt, ..Self::invalid(reason) }
    }

    pub fn at(mut self, source: &Source) -> Self {
        self.at = Some(source.clone());
        self
    }

    fn of_type(value: &RawValue) -> Self {
        let grade = match value {
            RawValue::Refused => Grade::Reported,
            _ => Grade::Invalid,
        };
        Self { grade, ..Self::invalid("is not of the type this key needs") }
    }
}

/// Collects the checked values' origins and the problems of a stack of layers, lowest first.
pub(super) struct Checker<'a> {
    pub layers: &'a [Layer],
    pub problems: Vec<Problem>,
    pub origins: Vec<Origin>,
}

impl<'a> Checker<'a> {
    fn stated(&self, key: &str) -> Vec<&'a Located> {
        let layers = self.layers.iter();
        layers.filter_map(|layer| layer.values.get(key)).collect()
    }

    /// The effective value of a key, or `None` if there is none or it is refused. Values that are overridden are checked as
    /// well: a bad value stays a bad value, and would take effect the day the other one goes.
    pub fn value<T: Shown>(
        &mut self,
        key: &'static str,
        check: impl Fn(&RawValue) -> Result<T, Refusal>,
    ) -> Option<T> {
        let mut effective = None;
        let stated = self.stated(key);
        for (index, located) in stated.iter().enumerate() {
            let in_effect = index + 1 == stated.len();
            match check(&located.value) {
                Ok(value) if in_effect => effective = Some((value, &located.source)),
                Ok(_) => {}
                Err(refusal) => self.refuse(key, &located.source, refusal, in_effect),
            }
        }
        let (value, source) = effective?;
        self.record(key.to_owned(), &value, source);
        Some(value)
    }

    /// The effective list of a key, each item with its place; `None` if any item is refused.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        check: impl Fn(&Located) -> Result<T, Vec<Refusal>>,
    ) -> Option<Vec<(T, Source)>> {
        let mut effective = None;
        let stated = self.stated(key);
        for (index, located) in stated.iter().enumerate() {
            let in_effect = index + 1 == stated.len();
            let RawValue::List(items) = &located.value else {
                let refusal = Refusal::of_type(&located.value);
                self.refuse(key, &located.source, refusal, in_effect);
                continue;
            };
            let mut good = Vec::with_capacity(items.len());
            for item in items {
                match check(item) {
                    Ok(value) => good.push((value, item.source.clone())),
                    Err(refusals) => {
                        for refusal in refusals {
                            self.refuse(key, &item.source, refusal, in_effect);
                        }
                    }
                }
            }
            effective = (in_effect && good.len() == items.len()).then_some(good);
        }
        effective
    }

    /// The source of a key's effective value.
    pub fn source(&self, key: &str) -> Source {
        let stated = self.stated(key);
        stated.last().map_or(Source::Default, |located| located.source.clone())
    }

    /// Remembers for `config show` what is in effect and why.
    pub fn record(&mut self, key: String, value: &impl Shown, source: &Source) {
        self.origins.push(Origin { key, value: value.shown(), source: source.clone() });
    }

    /// Records a problem, unless it is of a kind that does not matter for this value.
    pub fn refuse(&mut self, key: &str, source: &Source, refusal: Refusal, in_effect: bool) {
        match refusal.grade {
            Grade::Reported => {}
            Grade::NotBuilt if !in_effect => {}
            Grade::Invalid | Grade::NotBuilt => self.problems.push(Problem {
                key: key.to_owned(),
                source: refusal.at.unwrap_or_else(|| source.clone()),
                reason: refusal.reason,
            }),
        }
    }
}

/// The refusal of a key that belongs to a part that is not built.
pub(super) fn reserved(value: &RawValue, reason: String) -> Refusal {
    match value {
        RawValue::Reserved => Refusal::not_built(reason),
        other => Refusal::of_type(other),
    }
}

pub(super) fn text(value: &RawValue) -> Result<&str, Refusal> {
    match value {
        RawValue::Text(text) => Ok(text),
        other => Err(Refusal::of_type(other)),
    }
}

pub(super) fn boolean(value: &RawValue) -> Result<bool, Refusal> {
    match value {
        RawValue::Bool(value) => Ok(*value),
        other => Err(Refusal::of_type(other)),
    }
}

pub(super) fn integer(value: &RawValue) -> Result<i64, Refusal> {
    match value {
        RawValue::Integer(value) => Ok(*value),
        other => Err(Refusal::of_type(other)),
    }
}

pub(super) fn number(value: &RawValue) -> Result<f64, Refusal> {
    match value {
        RawValue::Number(value) => Ok(*value),
        other => Err(Refusal::of_type(other)),
    }
}

/// Text that some type of ours reads, with an error that names the text.
pub(super) fn parsed<T>(value: &RawValue) -> Result<T, Refusal>
where
    T: FromStr<Err: std::fmt::Display>,
{
    text(value)?.parse().map_err(Refusal::invalid)
}

pub(super) fn port(value: &RawValue) -> Result<u16, Refusal> {
    let number = integer(value)?;
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::invalid(format!("{number} is not a port; use 1 to 65535"))),
    }
}

/// A duration within bounds, both included.
pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&RawValue) -> Result<Duration, Refusal> {
    move |value| {
        let text = text(value)?;
        let duration =
            duration::parse(text).map_err(|reason| Refusal::invalid(format!("{text:?} {reason}")))?;
        if bounds.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (HumanDuration(*bounds.start()), HumanDuration(*bounds.end()));
        Err(Refusal::invalid(format!("{text:?} is out of range; use {least} to {most}")))
    }
}

pub(super) fn absolute_path(value: &RawValue) -> Result<PathBuf, Refusal> {
    let text = text(value)?;
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path)
    } else {
        Err(Refusal::invalid(format!("{text:?} is not an absolute path; begin it with /")))
    }
}
