//! What can be wrong with data: files that cannot be used, and settings that do not fit them.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What can be wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] limpid_io::Error),
    /// A file can be read, but its content cannot be used.
    #[error("{message}\nhint: {hint}\nfile: {}", path.display())]
    File {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
        /// The file.
        path: PathBuf,
    },
    /// Settings that contradict each other or the files.
    #[error("{message}\nhint: {hint}")]
    Setting {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn file(path: &Path, message: impl Display, hint: impl Display) -> Self {
        let (message, hint) = (message.to_string(), hint.to_string());
        Self::File { message, hint, path: path.to_owned() }
    }

    pub(crate) fn setting(message: impl Display, hint: impl Display) -> Self {
        Self::Setting { message: message.to_string(), hint: hint.to_string() }
    }
}
