//! The error of every tensor-side crate: it names the operation, what it expected and what it got.

/// What went wrong in a tensor operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operand has a shape, rank or dtype that the operation cannot take.
    #[error("{op}: expected {expected}, got {got}")]
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// What the operation takes, in words.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// An argument other than a tensor is out of range or contradicts another.
    #[error("{op}: {message}")]
    Argument {
        /// Name of the operation.
        op: &'static str,
        /// What is wrong with the argument, and what would be right.
        message: String,
    },
    /// An error of the tensor library beneath.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What an error says in a line: without the backtrace that those of candle carry where the environment asks for it.
#[must_use]
pub fn first_line(e: &impl std::fmt::Display) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Result of a tensor operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Shape`] from anything printable.
    pub fn shape(op: &'static str, expected: impl ToString, got: impl std::fmt::Debug) -> Self {
        Self::Shape { op, expected: expected.to_string(), got: format!("{got:?}") }
    }

    /// A [`Error::Argument`] from a message.
    pub fn argument(op: &'static str, message: impl Into<String>) -> Self {
        Self::Argument { op, message: message.into() }
    }
}
