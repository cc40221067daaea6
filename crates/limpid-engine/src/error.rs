//! What can go wrong in training and inference.

use std::path::PathBuf;

/// An error of the data or of a callback, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in training and inference.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data could not be read.
    #[error(transparent)]
    Data(BoxError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] limpid_kernels::Error),
    /// A batch lacks a tensor that the model needs.
    #[error("the batch has no tensor `{name}`; it has {have}")]
    MissingTensor {
        /// What the model asked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// A value that is not finite.
    #[error("{what} is not finite at step {step}: {place}")]
    NonFinite {
        /// Loss, gradient or input, and its name.
        what: String,
        /// Optimizer step.
        step: u64,
        /// Layer, samples and files concerned.
        place: String,
    },
    /// A model asked to minimise with an optimizer that it did not declare.
    #[error("the model has no optimizer `{name}`; it has {have}")]
    UnknownOptimizer {
        /// What was asked for.
        name: String,
        /// What there is.
        have: String,
    },
    /// A callback depends on one that is not there.
    #[error("callback `{name}` needs `{dependency}`, which is not among the callbacks")]
    UnknownDependency {
        /// The callback.
        name: String,
        /// What it needs.
        dependency: String,
    },
    /// Callbacks depend on each other in a circle.
    #[error("callbacks depend on each other in a circle: {0}")]
    DependencyCycle(String),
    /// Two callbacks have one name.
    #[error("two callbacks are named `{0}`")]
    DuplicateCallback(String),
    /// A checkpoint cannot be used.
    #[error("{message}\nhint: {hint}\nfile: {}", path.display())]
    Checkpoint {
        /// Its directory or file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The run directory cannot be used.
    #[error("{message}\nhint: {hint}\nfile: {}", path.display())]
    RunDir {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// Settings that contradict each other or the data.
    #[error("{message}\nhint: {hint}")]
    Setting {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Tensor(e.into())
    }
}

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;
