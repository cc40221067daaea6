//! The error of reading and writing files: what was being done, what was expected and found, and
//! last the path.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action}: {source}{hint}: `{}`", path.display())]
    Io {
        /// What was being done, as in "cannot …".
        action: &'static str,
        /// The reason the system gave.
        source: std::io::Error,
        /// What the reader may do about it, starting with `; `, or nothing.
        hint: &'static str,
        /// The file or folder.
        path: PathBuf,
    },
    /// The file is no image this crate knows.
    #[error("not a readable image: {found}; readable are {readable}: `{}`", path.display())]
    UnknownFormat {
        /// What the file begins with or is called.
        found: String,
        /// Names of the readable formats.
        readable: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file breaks the rules of its format: cut short, damaged, or inconsistent.
    #[error("damaged {format}: {message}: `{}`", path.display())]
    Damaged {
        /// Name of the format.
        format: &'static str,
        /// What was expected and what was found.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// The file may be valid, but uses a part of its format that cannot be read or written here.
    #[error("unsupported {format}: {message}: `{}`", path.display())]
    Unsupported {
        /// Name of the format.
        format: &'static str,
        /// What is not supported, and what to do instead.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// The caller asked for something the file cannot give or take.
    #[error("{message}: `{}`", path.display())]
    Argument {
        /// What was asked, and what would be right.
        message: String,
        /// The file.
        path: PathBuf,
    },
    /// Arrays, axes or shapes that contradict each other, before any file is involved.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// The thing that is wrong.
        what: &'static str,
        /// What was expected, in words.
        expected: String,
        /// What was given.
        got: String,
    },
}

/// Result of reading or writing a file.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] with the hint that fits the system's reason.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let hint = match source.kind() {
            Kind::NotFound => "; check the name, and that its folder exists",
            Kind::PermissionDenied => "; check the permissions of the file and its folder",
            Kind::ReadOnlyFilesystem => "; choose a folder that can be written",
            Kind::StorageFull | Kind::QuotaExceeded => "; free some space or choose another disk",
            Kind::UnexpectedEof => "; the file is shorter than it claims, copy it again",
            _ => "",
        };
        Self::Io { action, source, hint, path: path.to_owned() }
    }

    /// An [`Error::Damaged`].
    pub(crate) fn damaged(format: &'static str, path: &Path, message: impl Display) -> Self {
        Self::Damaged { format, message: message.to_string(), path: path.to_owned() }
    }

    /// An [`Error::Unsupported`].
    pub(crate) fn unsupported(format: &'static str, path: &Path, message: impl Display) -> Self {
        Self::Unsupported { format, message: message.to_string(), path: path.to_owned() }
    }

    /// An [`Error::Argument`].
    pub(crate) fn argument(path: &Path, message: impl Display) -> Self {
        Self::Argument { message: message.to_string(), path: path.to_owned() }
    }

    /// An [`Error::Shape`].
    pub(crate) fn shape(what: &'static str, expected: impl Display, got: impl Display) -> Self {
        Self::Shape { what, expected: expected.to_string(), got: got.to_string() }
    }
}
