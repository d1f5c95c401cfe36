//! What shows in a response that the gateway is in trouble (`relay.error_indicators`).

use std::{fmt, str::FromStr};

use http::{HeaderName, HeaderValue};

/// One indicator. Interim responses never show one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorIndicator {
    /// The header is there, whatever its value.
    Header(HeaderName),
    /// The header has this value, in this case.
    Value(HeaderName, HeaderValue),
    /// The response has this status, 200 to 999.
    Status(u16),
}

/// Why a text is no [`ErrorIndicator`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{indicator:?} {reason}")]
pub struct ErrorIndicatorError {
    /// The indicator as it was given, without the white space around it.
    pub indicator: String,
    /// What is wrong with it.
    pub reason: ErrorIndicatorProblem,
}

/// What is wrong with an error indicator; reads on from the indicator itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorIndicatorProblem {
    /// Nothing but white space.
    #[error("is empty; write a header's name, \"header=value\" or \"status:502\", or remove it")]
    Empty,
    /// Something that no header is named.
    #[error("does not begin with a header's name; write one, \"header=value\" or \"status:502\"")]
    Name,
    /// `header: value`.
    #[error("has a colon; write \"header=value\"")]
    Colon,
    /// A value that no header has, or none.
    #[error("has a value that no header can have; write \"header=value\", or the name alone for any value")]
    Value,
    /// No status, or that of an interim response.
    #[error("has a status that is not 200 to 999; write it like \"status:502\"")]
    Status,
}

impl FromStr for ErrorIndicator {
    type Err = ErrorIndicatorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let indicator = text.trim();
        parse(indicator).map_err(|reason| ErrorIndicatorError { indicator: indicator.to_owned(), reason })
    }
}

impl fmt::Display for ErrorIndicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "{name}"),
            Self::Value(name, value) => write!(f, "{name}={}", String::from_utf8_lossy(value.as_bytes())),
            Self::Status(status) => write!(f, "status:{status}"),
        }
    }
}

impl ErrorIndicator {
    /// Whether this header shows it; `value` is without the white space around it.
    pub(super) fn is_header(&self, name: &str, value: &[u8]) -> bool {
        let is = |wanted: &HeaderName| name.eq_ignore_ascii_case(wanted.as_str());
        match self {
            Self::Header(wanted) => is(wanted),
            Self::Value(wanted, exactly) => value == exactly.as_bytes() && is(wanted),
            Self::Status(_) => false,
        }
    }

    /// Whether this status shows it.
    pub(super) fn is_status(&self, status: u16) -> bool {
        matches!(self, Self::Status(wanted) if *wanted == status)
    }
}

fn parse(text: &str) -> Result<ErrorIndicator, ErrorIndicatorProblem> {
    use ErrorIndicatorProblem as Problem;
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    if let Some(status) = text.strip_prefix("status:") {
        let digits = status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit());
        let status = status.parse().ok().filter(|status| digits && *status >= 200);
        return Ok(ErrorIndicator::Status(status.ok_or(Problem::Status)?));
    }
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
        None => (text, None),
    };
    if name.contains(':') {
        return Err(Problem::Colon);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Problem::Name)?;
    match value {
        None => Ok(ErrorIndicator::Header(name)),
        Some("") => Err(Problem::Value),
        Some(value) => {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Problem::Value)?;
            Ok(ErrorIndicator::Value(name, value))
        }
    }
}
