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
    if elements(shape) == Some(len) {
        return Ok(());
    }
    Err(Error::shape(op, format!("{what} of shape {shape:?}"), format!("{len} values")))
}

/// Refuses images that are not of two or three sizes above zero, or of more voxels than anyone means.
pub(crate) fn expect_matrix(op: &'static str, matrix: &[usize]) -> Result<()> {
    const MOST: usize = 1 << 32;
    let voxels = elements(matrix);
    if (2..=3).contains(&matrix.len()) && voxels.is_some_and(|v| (1..=MOST).contains(&v)) {
        return Ok(());
    }
    let expected = format!("two or three sizes above zero, of at most {MOST} voxels");
    Err(Error::shape(op, expected, format!("{matrix:?}")))
}

/// Elements of a shape, if they can be counted.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size))
}
