//! The configuration file as a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layer::{Layer, Located, RawValue, Source};
use super::problem::Problem;
use super::schema::{self, ENDPOINT_KEYS, Kind, TARGET_KEYS};

/// Reads the text of a file. What is wrong is among the layer's problems, each with its line; `path` is only for those.
pub(super) fn parse(path: &Path, text: &str) -> Layer {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        path,
        newlines: text.match_indices('\n').map(|(at, _)| at).collect(),
        damaged: BTreeSet::new(),
        layer: Layer::default(),
    };
    reader.layer.incomplete = !errors.is_empty();
    for error in errors {
        let line = reader.line(&error.span().unwrap_or_default());
        // One slip often makes the parser stumble more than once; the first complaint is the one that helps.
        if reader.damaged.insert(line) {
            let reason = error.message().lines().collect::<Vec<_>>().join(", ");
            reader.complain("syntax".to_owned(), line, reason);
        }
    }
    reader.section("", root.get_ref());
    reader.layer
}

type Name<'i> = Spanned<std::borrow::Cow<'i, str>>;

struct Reader<'a> {
    path: &'a Path,
    newlines: Vec<usize>,
    /// Lines with a syntax error: what the parser makes of them is a guess, so nothing more is said about them.
    damaged: BTreeSet<usize>,
    layer: Layer,
}

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        self.newlines.partition_point(|&at| at < span.start) + 1
    }

    fn source(&self, line: usize) -> Source {
        Source::File { path: self.path.to_owned(), line }
    }

    fn complain(&mut self, key: String, line: usize, reason: String) {
        let source = self.source(line);
        self.layer.problems.push(Problem { key, source, reason });
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let line = self.line(&name.span());
            let key = join(section, name.get_ref());
            // A quoted key may hold dots, which must not make it look like one of ours.
            let plain = !name.get_ref().contains('.');
            match schema::find(&key).filter(|field| plain && field.in_file) {
                Some(field) => {
                    let value = self.value(field.key, field.kind, line, value);
                    let source = self.source(line);
                    self.layer.values.insert(field.key, Located { value, source });
                }
                None if self.damaged.contains(&line) => {}
                None if plain && !schema::keys_within(&key).is_empty() => match value.get_ref() {
                    DeValue::Table(table) => self.section(&key, table),
                    other => {
                        let reason = format!("expected a table, [{key}], got {}", describe(other));
                        self.complain(key, line, reason);
                    }
                },
                None => self.unknown(section, name, line, &schema::keys_within(section)),
            }
        }
    }

    fn unknown(&mut self, section: &str, name: &Name<'_>, line: usize, known: &[&str]) {
        let place =
            if section.is_empty() { "the top level has".to_owned() } else { format!("{section} has") };
        let reason = format!("unknown key; {place} {}", known.join(", "));
        self.complain(join(section, name.get_ref()), line, reason);
    }

    /// `line` is where the value's key stands.
    fn value(&mut self, key: &str, kind: Kind, line: usize, value: &Spanned<DeValue<'_>>) -> RawValue {
        if self.damaged.contains(&line) {
            return RawValue::Refused;
        }
        let read = match (kind, value.get_ref()) {
            (Kind::Reserved, _) => Some(RawValue::Reserved),
            (Kind::Text | Kind::Duration, DeValue::String(text)) => Some(RawValue::Text(text.to_string())),
            (Kind::Bool, DeValue::Boolean(value)) => Some(RawValue::Bool(*value)),
            (Kind::Integer, DeValue::Integer(digits)) => {
                i64::from_str_radix(digits.as_str(), digits.radix()).ok().map(RawValue::Integer)
            }
            (Kind::Number, DeValue::Integer(digits)) => i64::from_str_radix(digits.as_str(), digits.radix())
                .ok()
                .map(|value| RawValue::Number(value as f64)),
            (Kind::Number, DeValue::Float(digits)) => digits.as_str().parse().ok().map(RawValue::Number),
            (Kind::Texts, DeValue::Array(items)) => Some(self.list(key, Kind::Text, &[], items)),
            (Kind::Integers, DeValue::Array(items)) => Some(self.list(key, Kind::Integer, &[], items)),
            (Kind::Endpoints, DeValue::Array(items)) => {
                Some(self.list(key, Kind::Text, ENDPOINT_KEYS, items))
            }
            (Kind::Targets, DeValue::Array(items)) => Some(self.list(key, Kind::Targets, TARGET_KEYS, items)),
            _ => None,
        };
        read.unwrap_or_else(|| {
            let found = describe(value.get_ref());
            let reason = format!("expected {}, got {found}", kind.expected());
            self.complain(key.to_owned(), line, reason);
            RawValue::Refused
        })
    }

    /// Reads items of one kind, or tables with `keys` if there are any.
    fn list(
        &mut self,
        key: &str,
        kind: Kind,
        keys: &'static [(&'static str, Kind)],
        items: &[Spanned<DeValue<'_>>],
    ) -> RawValue {
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let line = self.line(&item.span());
            let value = match item.get_ref() {
                DeValue::Table(table) if !keys.is_empty() => self.item(key, keys, table),
                _ => self.value(key, kind, line, item),
            };
            let source = self.source(line);
            list.push(Located { value, source });
        }
        RawValue::List(list)
    }

    fn item(
        &mut self,
        section: &str,
        keys: &'static [(&'static str, Kind)],
        table: &DeTable<'_>,
    ) -> RawValue {
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let line = self.line(&name.span());
            match keys.iter().find(|(known, _)| known == name.get_ref()) {
                Some(&(known, kind)) => {
                    let value = self.value(&join(section, known), kind, line, value);
                    let source = self.source(line);
                    values.insert(known, Located { value, source });
                }
                None if self.damaged.contains(&line) => {}
                None => {
                    let known: Vec<_> = keys.iter().map(|(known, _)| *known).collect();
                    self.unknown(section, name, line, &known);
                }
            }
        }
        RawValue::Table(values)
    }
}

/// A header with nothing below it configures nothing.
fn join(section: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { format!("{name:?}") };
    if section.is_empty() { name } else { format!("{section}.{name}") }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(digits) => format!("the number {digits}"),
        DeValue::Float(digits) => format!("the number {digits}"),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
