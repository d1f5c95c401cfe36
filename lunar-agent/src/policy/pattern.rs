//! Host names as the policy writes them, and as the kernel looks them up.

use std::fmt;
use std::str::FromStr;

/// Room for a key: 256 bytes are the most that the kernel's LPM trie takes.
pub const KEY_BYTES: usize = 256;

/// The most bytes of a name as text: 255 on the wire (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// One name, or all names below a suffix.
///
/// Always canonical: lower case, IDNA in ASCII, no final dot. Two patterns that mean the same are therefore equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    text: Box<str>,
    /// Whether it means what is below `text`, at any depth, and not `text` itself.
    below: bool,
}

/// Why a text is no [`Pattern`]; reads on from the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    /// A wildcard that is not `*.suffix`.
    #[error("is not a usable wildcard; write *.SUFFIX, such as *.example.com")]
    Wildcard,
    /// Two dots in a row, a dot in front, or nothing at all.
    #[error("has an empty label; put one dot between the labels of a name")]
    EmptyLabel,
    /// A label is too long for DNS.
    #[error("has a label of {0} bytes; DNS has room for {MAX_LABEL}")]
    LongLabel(usize),
    /// The name is too long for DNS.
    #[error("is {0} bytes long; DNS has room for {MAX_NAME}")]
    Long(usize),
    /// Something that no host name has.
    #[error("has {0:?}, which no host name has; use letters, digits, hyphens and underscores")]
    Character(char),
    /// The last label has digits only, as that of a mistyped IPv4 address has (RFC 3696 section 2).
    #[error("is neither an IPv4 address nor a host name, whose last label is never a number")]
    Numeric,
    /// It cannot be written in ASCII by the rules of UTS 46.
    #[error("is not a valid internationalised name (UTS 46)")]
    Idna,
}

impl FromStr for Pattern {
    type Err = PatternProblem;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (name, below) = match text.strip_prefix('*') {
            Some(rest) => (rest.strip_prefix('.').ok_or(PatternProblem::Wildcard)?, true),
            None => (text, false),
        };
        if name.contains('*') || below && matches!(name, "" | ".") {
            return Err(PatternProblem::Wildcard);
        }
        let text = canonical(name)?;
        // A name below the suffix has two bytes more than it at least.
        let shortest = text.len() + if below { 2 } else { 0 };
        if shortest > MAX_NAME {
            return Err(PatternProblem::Long(shortest));
        }
        Ok(Self { text: text.into(), below })
    }
}

fn canonical(name: &str) -> Result<String, PatternProblem> {
    let mut text = idna::domain_to_ascii(name).map_err(|_| PatternProblem::Idna)?;
    // After the mapping: there are other dots than the ASCII one.
    if text.ends_with('.') {
        text.pop();
    }
    for label in text.split('.') {
        if label.is_empty() {
            return Err(PatternProblem::EmptyLabel);
        }
        let good = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if let Some(bad) = label.chars().find(|c| !good(c)) {
            return Err(PatternProblem::Character(bad));
        }
        if label.len() > MAX_LABEL {
            return Err(PatternProblem::LongLabel(label.len()));
        }
    }
    match text.rsplit('.').next() {
        Some(last) if last.bytes().all(|b| b.is_ascii_digit()) => Err(PatternProblem::Numeric),
        _ => Ok(text),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.text)
    }
}

impl Pattern {
    /// The name, if it is one; `None` for `*.suffix`.
    pub fn name(&self) -> Option<&str> {
        (!self.below).then_some(&self.text)
    }

    /// The key of the kernel's LPM trie: how many bits count, and the bytes, of which the rest are zero.
    ///
    /// The name is written backwards, and ends in NUL, as every name that is looked up does; a suffix ends in a dot. So the
    /// longest prefix of what is looked up is that of the most specific pattern, and a suffix is no prefix of itself.
    pub fn key(&self) -> (u32, [u8; KEY_BYTES]) {
        let mut key = [0; KEY_BYTES];
        // At most 253 bytes and the one after them.
        for (place, byte) in key.iter_mut().zip(self.text.bytes().rev()) {
            *place = byte;
        }
        if self.below {
            key[self.text.len()] = b'.';
        }
        ((self.text.len() as u32 + 1) * 8, key)
    }

    /// The pattern of a key; `None` if [`Pattern::key`] never made it, since what is pinned may have been scribbled on.
    pub fn from_key(bits: u32, key: &[u8; KEY_BYTES]) -> Option<Self> {
        let bytes = key.get(..usize::try_from(bits / 8).ok()?)?;
        let (last, backwards) = bytes.split_last()?;
        let text = String::from_utf8(backwards.iter().rev().copied().collect()).ok()?;
        let below = *last == b'.';
        let canonical = canonical(&text).is_ok_and(|canonical| canonical == text);
        let fits = text.len() + if below { 2 } else { 0 } <= MAX_NAME;
        let sound = canonical && fits && bits.is_multiple_of(8) && matches!(last, 0 | b'.');
        sound.then(|| Self { text: text.into(), below })
    }

    /// The text and whether it is a suffix, in the order by which patterns are sorted.
    pub(super) fn parts(&self) -> (&str, bool) {
        (&self.text, self.below)
    }
}

/// The suffixes of the wildcards that mean `text` and whatever is below it, the most specific first.
pub(super) fn suffixes(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('.').map(|(dot, _)| &text[dot + 1..])
}

#[cfg(test)]
pub(super) mod tests;
