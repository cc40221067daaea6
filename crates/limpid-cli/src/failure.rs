//! Failures as the user sees them: what failed, why, what to do, where; and the exit code.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use limpid_config::ConfigError;
use limpid_engine::Error as EngineError;

/// What kind of failure it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The run failed: exit code 1.
    Run,
    /// Wrong usage or configuration: exit code 2.
    Config,
    /// Data or files: exit code 3.
    Data,
    /// The device: exit code 4.
    Device,
    /// Stopped by the user: exit code 130.
    Interrupted,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    error: Box<dyn Error + Send + Sync>,
    hints: Vec<String>,
    file: Option<PathBuf>,
}

/// How the driver of a GPU or its libraries say that its memory is full, in an error of whichever crate, and what to do.
const FULL: (&[&str], &str) = (
    &[
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
    "make batch or patch smaller, or use `--device cpu`; a run goes on from its last checkpoint",
);

/// How they say that a kernel went wrong: often not the one that was queued last.
const FAULT: (&[&str], &str) = (
    &[
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUBLAS_STATUS_EXECUTION_FAILED",
        "CUDNN_STATUS_EXECUTION_FAILED",
    ],
    "with `CUDA_LAUNCH_BLOCKING=1` in the environment the operation and its sizes are named; a run goes on from its last checkpoint",
);

/// Any error, or a message.
type Cause = Box<dyn Error + Send + Sync>;

impl Failure {
    /// A failure of that kind; of the device, whatever was under way, if that has no memory left or a kernel went
    /// wrong.
    pub fn new(kind: Kind, error: impl Into<Cause>) -> Self {
        let failure = Self { kind, error: error.into(), hints: Vec::new(), file: None };
        let text = failure.error.to_string();
        let met =
            [FULL, FAULT].into_iter().find(|(signs, _)| signs.iter().any(|s| text.contains(s)));
        match met {
            Some((_, hint)) => Self { kind: Kind::Device, ..failure }.hint(hint),
            None => failure,
        }
    }

    /// The run failed.
    pub fn run(error: impl Into<Cause>) -> Self {
        Self::new(Kind::Run, error)
    }

    /// Wrong usage or configuration.
    pub fn config(error: impl Into<Cause>) -> Self {
        Self::new(Kind::Config, error)
    }

    /// Data or files are missing, damaged or cannot be written.
    pub fn data(error: impl Into<Cause>) -> Self {
        Self::new(Kind::Data, error)
    }

    /// The device is missing or too small.
    pub fn device(error: impl Into<Cause>) -> Self {
        Self::new(Kind::Device, error)
    }

    /// Stopped by the user; the message is shown as it is, and may be empty.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message.into())
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the file it is about, unless the error names it itself.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Run => 1,
            Kind::Config => 2,
            Kind::Data => 3,
            Kind::Device => 4,
            Kind::Interrupted => 130,
        }
    }

    /// Whether the reader of our output went away, as `head` does: no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        causes(self.error.as_ref()).any(|e| {
            e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
        })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::config(error)
    }
}

/// The error and what caused it, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // problems of a configuration are laid out already, each with its place and hint
        if self.error.is::<ConfigError>() {
            let hints = self.hints.iter().map(|hint| format!("\nhint: {hint}"));
            return write!(f, "{}{}", self.error, hints.collect::<String>());
        }
        // errors of the crates below may end in `hint:` and `file:` lines of their own; they join
        // ours, so that the order is always error, causes, hints, file
        let text = self.error.to_string();
        let (mut body, mut hints, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            match line {
                _ if line.starts_with("hint: ") => hints.push(line.to_owned()),
                _ if line.starts_with("file: ") => files.push(line.to_owned()),
                _ => body.push(line.to_owned()),
            }
        }
        if let Some(first) = body.first_mut().filter(|_| self.kind != Kind::Interrupted) {
            first.insert_str(0, "error: ");
        }
        let mut said = text.clone();
        for cause in causes(self.error.as_ref()).skip(1).map(ToString::to_string) {
            // most errors quote their source already
            if !said.contains(&cause) {
                said += &cause;
                body.push(format!("cause: {cause}"));
            }
        }
        hints.extend(self.hints.iter().map(|hint| format!("hint: {hint}")));
        if let (Some(path), true) = (&self.file, files.is_empty()) {
            files.push(format!("file: {}", path.display()));
        }
        f.write_str(&[body, hints, files].concat().join("\n"))
    }
}

/// An error of the engine as the user sees it: data, settings or the run itself.
#[must_use]
pub fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Data(e) => Failure::data(e),
        e @ (EngineError::Setting { .. }
        | EngineError::UnknownDependency { .. }
        | EngineError::DependencyCycle(_)) => Failure::config(e),
        e @ (EngineError::Checkpoint { .. } | EngineError::RunDir { .. }) => Failure::data(e),
        e @ EngineError::NonFinite { .. } => Failure::run(e).hint(
            "lower `optimizer.lr`, limit the gradient with `train.clip`, or leave such batches out with `train.nonfinite = \"skip\"`",
        ),
        e => Failure::run(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a source that it does not mention, unless told to.
    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn a_full_gpu_is_a_failure_of_the_device() {
        let failure = Failure::run("conv: DriverError(CUDA_ERROR_OUT_OF_MEMORY)");
        assert_eq!(failure.kind(), Kind::Device);
        assert!(failure.to_string().contains("\nhint: make batch or patch smaller"), "{failure}");
        let failure = Failure::run("look: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert_eq!(failure.kind(), Kind::Device);
        assert!(failure.to_string().contains("CUDA_LAUNCH_BLOCKING=1"), "{failure}");
    }

    #[test]
    fn the_order_is_error_cause_hint_file() {
        let error =
            Outer("cannot read the volume\nhint: copy it again", io::Error::other("disk on fire"));
        let failure = Failure::data(error).hint("buy a disk").file("/data/a.tif");
        assert_eq!(
            failure.to_string(),
            "\
error: cannot read the volume
cause: disk on fire
hint: copy it again
hint: buy a disk
file: /data/a.tif"
        );
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn what_the_error_says_itself_is_not_repeated() {
        let error = Outer("no disk on fire\nfile: a.tif", io::Error::other("disk on fire"));
        let failure = Failure::run(error).file("b.tif");
        assert_eq!(failure.to_string(), "error: no disk on fire\nfile: a.tif");
    }

    #[test]
    fn config_errors_keep_their_shape_and_exit_with_2() {
        let problem = limpid_config::Problem {
            message: "unknown key `lrr`".into(),
            source: None,
            span: None,
            hint: Some("did you mean `lr`?".into()),
        };
        let error = ConfigError { problems: vec![problem.clone(), problem] };
        let failure = Failure::from(error);
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(
            failure.to_string(),
            "error: unknown key `lrr`\nhint: did you mean `lr`?\n\n\
             error: unknown key `lrr`\nhint: did you mean `lr`?"
        );
    }

    #[test]
    fn a_closed_pipe_is_found_under_other_errors() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(Failure::run(pipe()).is_broken_pipe());
        assert!(Failure::run(Outer("cannot write", pipe())).is_broken_pipe());
        assert!(!Failure::run("broken pipe").is_broken_pipe());
    }
}
