//! The error of this crate: it names the operation, what it takes and what it was given.

/// What an operation refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Numbers of samples, coils or voxels that do not fit together.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// What it takes, in words.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// A parameter or a value is out of range.
    #[error("{op}: {problem}")]
    Value {
        /// Name of the operation.
        op: &'static str,
        /// The parameter, what it must be, what it is, and what may have caused it.
        problem: String,
    },
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn shape(
        op: &'static str,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.into() }
    }

    pub(crate) fn value(op: &'static str, problem: impl Into<String>) -> Self {
        Self::Value { op, problem: problem.into() }
    }
}

/// Refuses a slice of another length than the shape, which `what` names, has elements.
pub(crate) fn expect_len(op: &'static str, what: &str, shape: &[usize], len: usize) -> Result<()> {
    if shape.iter().product::<usize>() == len {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} of shape {shape:?}"), format!("{len} values")))
}
