//! The error of this crate: it names the filter, what it takes and what it was given.

use limpid_config::{Validate, check};

/// What a filter refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The image has a shape the filter cannot take, or not as many values as its shape says.
    #[error("{filter}: expected {expected}, got {got}")]
    Shape {
        /// Name of the filter.
        filter: &'static str,
        /// What the filter takes, in words.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// A parameter is out of range.
    #[error("{filter}: {problem}")]
    Parameter {
        /// Name of the filter.
        filter: &'static str,
        /// The parameter, what it must be and what it is.
        problem: String,
    },
    /// The image holds a value that is not a number, or an infinite one.
    #[error("{filter}: the image holds {value} at {at:?}; replace such values or mask them first")]
    NotFinite {
        /// Name of the filter.
        filter: &'static str,
        /// Index of the first such value, one number per axis.
        at: Vec<usize>,
        /// The value.
        value: f64,
    },
}

/// Result of a filter.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn shape(
        filter: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Shape { filter, expected: expected.into(), got: got.into() }
    }

    pub(crate) fn parameter(filter: &'static str, problem: impl Into<String>) -> Self {
        Self::Parameter { filter, problem: problem.into() }
    }
}

/// Refuses parameters that do not pass their own validation, with all that is wrong.
pub(crate) fn require_valid(filter: &'static str, parameters: &impl Validate) -> Result<()> {
    let findings = check(parameters);
    if findings.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> = findings.iter().map(ToString::to_string).collect();
    Err(Error::parameter(filter, problems.join("; ")))
}
