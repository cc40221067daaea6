//! What can go wrong with a scan.

use std::path::PathBuf;

/// What can go wrong with a scan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] limpid_io::Error),
    /// Numbers that an operation refuses.
    #[error(transparent)]
    Mri(#[from] limpid_mri::Error),
    /// The training of a network failed.
    #[error(transparent)]
    Training(#[from] limpid_engine::Error),
    /// A model file cannot be used.
    #[error(transparent)]
    Model(#[from] limpid_export::BundleError),
    /// Arrays are missing, or do not go together.
    #[error("{message}\nhint: {hint}{}", file.as_ref().map_or_else(String::new, |f| format!("\nfile: {}", f.display())))]
    Scan {
        /// What is wrong.
        message: String,
        /// The likely cause, and what to do.
        hint: String,
        /// The file.
        file: Option<PathBuf>,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Arrays that are missing or do not go together.
    pub(crate) fn scan(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Scan { message: message.into(), hint: hint.into(), file: None }
    }

    /// The same of a file.
    pub(crate) fn at(self, path: &std::path::Path) -> Self {
        match self {
            Self::Scan { message, hint, file: None } => {
                Self::Scan { message, hint, file: Some(path.to_owned()) }
            }
            other => other,
        }
    }
}
