//! The raw stage: what each source says, with the place where it says so, before anyone asks whether it makes sense.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::problem::Problem;
use super::schema::{self, Field, Kind};

/// Where a value comes from, in the order of precedence: a later variant wins over an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File {
        /// As it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: &'static str,
    },
    /// A command line flag.
    Flag {
        /// Its name, with the dashes.
        name: &'static str,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { name } | Self::Flag { name } => f.write_str(name),
        }
    }
}

/// A value with its type checked against the key, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RawValue {
    Text(String),
    Integer(i64),
    Number(f64),
    Bool(bool),
    List(Vec<Located>),
    Table(BTreeMap<&'static str, Located>),
    /// Present, for a key whose part is not built.
    Reserved,
    /// Present and already refused; it keeps a lower layer from showing through and being complained about.
    Refused,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located {
    pub value: RawValue,
    pub source: Source,
}

/// What one source says: values by dotted key, and what could not be read as a value.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub values: BTreeMap<&'static str, Located>,
    pub problems: Vec<Problem>,
    /// The source could not be read in full, so what it does not say may only have been lost.
    pub incomplete: bool,
}

/// The flags that set configuration, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--gateway`, as often as given; if ever, they replace all endpoints of other sources.
    pub gateway: Vec<String>,
    /// `--handoff`.
    pub handoff: Option<String>,
    /// `--target`, as often as given; if ever, they replace all targets of the file.
    pub target: Vec<String>,
    /// `--socket`.
    pub socket: Option<String>,
}

impl Layer {
    /// The built-in values.
    pub fn defaults() -> Self {
        let mut layer = Self::default();
        for field in &schema::FIELDS {
            if let Some(text) = field.default {
                layer.put_text(field, text, Source::Default);
            }
        }
        layer
    }

    /// The variables of the contract; others are somebody else's. One that is unset or blank is no value.
    pub fn from_env(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut layer = Self::default();
        for (name, value) in environment {
            let Some(field) = name.to_str().and_then(schema::find_env) else {
                continue;
            };
            let Some(name) = field.env else { continue };
            let source = Source::Env { name };
            match value.to_str() {
                Some(text) if text.trim().is_empty() => {}
                Some(text) => layer.put_text(field, text, source),
                None => {
                    let reason = format!("{value:?} is not valid UTF-8");
                    layer.refuse(field, source, reason);
                }
            }
        }
        layer
    }

    /// The command line.
    pub fn from_flags(flags: &Flags) -> Self {
        let mut layer = Self::default();
        let one = |text: &Option<String>| text.clone().map(RawValue::Text);
        let many = |texts: &[String], source: &Source| {
            (!texts.is_empty()).then(|| texts_from(texts.iter().map(String::as_str), source))
        };
        let mut put = |key, name, read: &dyn Fn(&Source) -> Option<RawValue>| {
            let source = Source::Flag { name };
            if let Some(value) = read(&source) {
                layer.values.insert(key, Located { value, source });
            }
        };
        put("gateway.endpoints", "--gateway", &|source| many(&flags.gateway, source));
        put("gateway.handoff", "--handoff", &|_| one(&flags.handoff));
        put("target", "--target", &|source| many(&flags.target, source));
        put("paths.socket", "--socket", &|_| one(&flags.socket));
        layer
    }

    /// Records a value that is present but refused.
    pub fn refuse(&mut self, field: &Field, source: Source, reason: String) {
        self.problems.push(Problem { key: field.key.to_owned(), source: source.clone(), reason });
        let value = RawValue::Refused;
        self.values.insert(field.key, Located { value, source });
    }

    fn put_text(&mut self, field: &Field, text: &str, source: Source) {
        match from_text(field.kind, text.trim(), &source) {
            Ok(value) => {
                self.values.insert(field.key, Located { value, source });
            }
            Err(reason) => self.refuse(field, source, reason),
        }
    }
}

/// Reads a value written without TOML's types, as environment variables and the table of defaults have it.
fn from_text(kind: Kind, text: &str, source: &Source) -> Result<RawValue, String> {
    let items = || text.split(',').filter(|_| !text.is_empty()).map(str::trim);
    let integer = |text: &str| {
        text.parse().map(RawValue::Integer).map_err(|_| format!("{text:?} is not a whole number"))
    };
    match kind {
        Kind::Text | Kind::Duration => Ok(RawValue::Text(text.to_owned())),
        Kind::Integer => integer(text),
        Kind::Number => text.parse().map(RawValue::Number).map_err(|_| format!("{text:?} is not a number")),
        // The gateway's own variables use 0 and 1.
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(RawValue::Bool(true)),
            "false" | "0" => Ok(RawValue::Bool(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        Kind::Texts | Kind::Endpoints | Kind::Targets => Ok(texts_from(items(), source)),
        Kind::Integers => items()
            .map(|item| integer(item).map(|value| Located { value, source: source.clone() }))
            .collect::<Result<_, _>>()
            .map(RawValue::List),
        Kind::Reserved => Ok(RawValue::Reserved),
    }
}

fn texts_from<'a>(texts: impl Iterator<Item = &'a str>, source: &Source) -> RawValue {
    RawValue::List(
        texts
            .map(|text| Located { value: RawValue::Text(text.to_owned()), source: source.clone() })
            .collect(),
    )
}
