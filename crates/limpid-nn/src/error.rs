//! The error of reading and writing checkpoints: it names the file, the trouble and a way out.

use std::path::{Path, PathBuf};

/// What went wrong with a checkpoint file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused to read or write the file.
    #[error(transparent)]
    Io(#[from] limpid_io::Error),
    /// The file is damaged, hostile, or of a kind that is not read.
    #[error("{problem}; {hint}: `{}`", path.display())]
    Format {
        /// What is wrong, with what was expected and found.
        problem: String,
        /// What to do about it.
        hint: String,
        /// The file.
        path: PathBuf,
    },
    /// The file holds no tensors under the name asked for.
    #[error("no tensors under `{wanted}`; the file has {available}: `{}`", path.display())]
    Missing {
        /// The name asked for.
        wanted: String,
        /// Where tensors are, with their number.
        available: String,
        /// The file.
        path: PathBuf,
    },
    /// A tensor or an optimizer state that cannot be used.
    #[error(transparent)]
    Tensor(#[from] limpid_kernels::Error),
}

impl From<candle_core::Error> for CheckpointError {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error.into())
    }
}

/// Trouble found by code that does not know the path; [`Fault::at`] adds it.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(std::io::Error),
    Format { problem: String, hint: &'static str },
    Tensor(candle_core::Error),
}

/// Hint for a file whose bytes cannot be what was written.
pub(crate) const DAMAGED: &str = "the file is cut short or damaged, copy or download it again";

impl Fault {
    pub(crate) fn damaged(problem: impl Into<String>) -> Self {
        Self::Format { problem: problem.into(), hint: DAMAGED }
    }

    pub(crate) fn at(self, path: &Path) -> CheckpointError {
        let path = path.to_owned();
        match self {
            Self::Io(error) => limpid_io::Error::io("read", &path, error).into(),
            Self::Format { problem, hint } => {
                CheckpointError::Format { problem, hint: hint.to_owned(), path }
            }
            Self::Tensor(error) => error.into(),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::damaged("unexpected end of file"),
            // the zip reader reports a wrong checksum this way
            std::io::ErrorKind::InvalidData => Self::damaged(error.to_string().to_lowercase()),
            _ => Self::Io(error),
        }
    }
}

impl From<candle_core::Error> for Fault {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

/// The first thing wrong with a configuration, as an error.
pub(crate) fn require_valid(
    op: &'static str,
    config: &impl limpid_config::Validate,
) -> Result<(), limpid_kernels::Error> {
    match limpid_config::check(config).first() {
        Some(finding) => Err(limpid_kernels::Error::argument(op, finding.to_string())),
        None => Ok(()),
    }
}
