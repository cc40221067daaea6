//! The arguments that verbs share, in groups: a verb flattens those it honours, last, so that its
//! own come first in its help.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use limpid_config::Request;

use crate::device;
use crate::failure::Failure;
use crate::terminal::{Color, choose_color, report};
use crate::threads::init_threads;
use limpid_kernels::{ConvAlgorithm, Precision, set_conv_algorithm, set_precision};

/// For verbs that neither compute nor load a configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ColorArgs {
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = TERMINAL)]
    pub color: Color,
}

/// For verbs that compute on the processor.
#[derive(Debug, Clone, clap::Args)]
pub struct ComputeArgs {
    /// Threads to compute with [default: all cores]; results do not depend on it
    #[arg(long, value_name = "N", env = "LIMPID_THREADS", hide_env_values = true, help_heading = COMPUTE)]
    pub threads: Option<NonZeroUsize>,

    /// How convolutions are computed: the fastest way, or always by their definition (no Winograd)
    /// [default: auto]
    #[arg(long, value_name = "WAY", value_enum, help_heading = COMPUTE)]
    pub conv: Option<Conv>,

    /// The colour choice.
    #[command(flatten)]
    pub terminal: ColorArgs,
}

/// How convolutions are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Conv {
    /// The fastest way.
    Auto,
    /// By the definition.
    Direct,
}

/// The keys of a configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct SetArgs {
    /// Set a config key, such as optimizer.lr=1e-4; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = RUN)]
    pub sets: Vec<String>,
}

/// What makes the configuration of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct RequestArgs {
    /// Seed of all randomness; the same as `--set seed=N`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), help_heading = RUN)]
    pub seed: Option<u64>,

    /// The `--set`s.
    #[command(flatten)]
    pub keys: SetArgs,
}

/// For verbs that load a configuration and compute nothing.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Seed and keys.
    #[command(flatten)]
    pub request: RequestArgs,

    /// The colour choice.
    #[command(flatten)]
    pub terminal: ColorArgs,
}

/// For verbs that run a network.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonArgs {
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", env = "LIMPID_DEVICE", hide_env_values = true, help_heading = COMPUTE)]
    pub device: Device,

    /// Threads and colour.
    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Directory for what the command writes
    #[arg(long, value_name = "DIR", help_heading = RUN)]
    pub out: Option<PathBuf>,

    /// Show the resolved configuration and the plan, and stop
    #[arg(long, help_heading = RUN)]
    pub dry_run: bool,

    /// Only say what went wrong
    #[arg(short, long, conflicts_with = "verbose", help_heading = TERMINAL)]
    pub quiet: bool,

    /// Also say what it computes on
    #[arg(short, long, help_heading = TERMINAL)]
    pub verbose: bool,

    /// Write events and results as JSON lines to standard output
    #[arg(long, help_heading = TERMINAL)]
    pub json: bool,
}

/// For verbs that make a run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Seed and keys.
    #[command(flatten)]
    pub request: RequestArgs,

    /// Begin anew instead of continuing an unfinished run
    #[arg(long, help_heading = RUN)]
    pub fresh: bool,

    /// Go on with this run, whatever its name
    #[arg(long, value_name = "DIR", conflicts_with = "fresh", help_heading = RUN)]
    pub run: Option<PathBuf>,

    /// Go on although configuration or data have changed
    #[arg(long, help_heading = RUN)]
    pub allow_changed: bool,

    /// All else.
    #[command(flatten)]
    pub common: CommonArgs,
}

const COMPUTE: &str = "Compute";
const RUN: &str = "Run";
const TERMINAL: &str = "Terminal";

/// What networks compute with, for commands that only predict.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct PrecisionArgs {
    /// Compute with fewer digits, two or three of them: faster. On the CPU bf16 rounds the factors of linear
    /// maps (transformers); on a GPU bf16 and f16 halve the memory of a network's layers too
    #[arg(long, value_name = "TYPE", default_value = "f32", help_heading = COMPUTE)]
    pub precision: PrecisionName,
}

/// A choice of [`PrecisionArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrecisionName {
    /// Numbers of 32 bits.
    F32,
    /// Eleven significant bits in products, with the range of f32; on a GPU.
    Tf32,
    /// Eight significant bits, with the range of f32.
    Bf16,
    /// Eleven significant bits, up to 65504; on a GPU.
    F16,
}

impl PrecisionArgs {
    /// Puts the choice into effect, and says so where the device cannot follow it.
    pub fn apply(&self, device: &candle_core::Device) {
        let precision = match self.precision {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Tf32 => Precision::Tf32,
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::F16 => Precision::F16,
        };
        if !set_precision(precision) && device.is_cpu() {
            report("this processor does not multiply such numbers: computing in f32");
        }
    }
}

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and warnings.
    Normal,
    /// Reasons and details too.
    Verbose,
}

/// A device as the user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The CUDA device of that number.
    Cuda(usize),
}

impl ColorArgs {
    /// Puts the choice into effect; to be called once, before anything is printed.
    pub fn apply(&self) {
        choose_color(self.color);
    }
}

impl ComputeArgs {
    /// Puts the colour choice and the thread count into effect, and returns the number of threads;
    /// to be called once, before anything is printed or computed.
    ///
    /// # Errors
    /// [`Kind::Run`](crate::Kind::Run) if the threads cannot be started.
    pub fn apply(&self) -> Result<usize, Failure> {
        self.terminal.apply();
        // unset, the environment decides
        match self.conv {
            Some(Conv::Auto) => set_conv_algorithm(ConvAlgorithm::Auto),
            Some(Conv::Direct) => set_conv_algorithm(ConvAlgorithm::Direct),
            None => {}
        }
        init_threads(self.threads)
    }
}

impl CommonArgs {
    /// Puts the colour choice and the thread count into effect; to be called once, before anything
    /// is printed or computed.
    ///
    /// # Errors
    /// [`Kind::Run`](crate::Kind::Run) if the threads cannot be started.
    pub fn apply(&self) -> Result<(), Failure> {
        let threads = self.compute.apply()?;
        if self.verbosity() == Verbosity::Verbose {
            let simd = limpid_kernels::simd_level();
            report(format!("device {}, threads {threads}, {simd}", self.device));
        }
        Ok(())
    }

    /// The device that was asked for, opened; with `auto` it says why it is not a GPU.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::Kind::Device) if the device cannot be used.
    pub fn open_device(&self) -> Result<candle_core::Device, Failure> {
        let talk = self.verbosity() > Verbosity::Quiet;
        device::open(self.device, talk)
    }

    /// How much to say.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

impl RequestArgs {
    /// What to load the configuration from: `file`, the `--set`s and `--seed`.
    #[must_use]
    pub fn request(&self, file: Option<PathBuf>) -> Request<'static> {
        // the seed is the top-level key `seed` of every config
        let seed = self
            .seed
            .and_then(|seed| i64::try_from(seed).ok())
            .map(|seed| ("seed".to_owned(), toml::Value::Integer(seed), format!("--seed {seed}")));
        Request {
            file,
            sets: self.keys.sets.clone(),
            flags: seed.into_iter().collect(),
            ..Request::default()
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu or cuda:N".to_owned()),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(args: &[&str]) -> Result<RunArgs, String> {
        let args = [&["app"], args].concat();
        Cli::try_parse_from(args).map(|cli| cli.run).map_err(|e| e.to_string())
    }

    #[test]
    fn devices_are_named_as_documented() {
        let device = |text| parse(&["--device", text]).map(|args| args.common.device);
        assert_eq!(device("cpu"), Ok(Device::Cpu));
        assert_eq!(device("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(Device::Cuda(3)));
        for wrong in ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            let error = device(wrong).unwrap_err();
            assert!(error.contains("expected auto, cpu or cuda:N"), "{error}");
        }
    }

    #[test]
    fn cuda_is_refused_with_the_exit_code_of_devices() {
        let open = |device| device::open(device, false);
        assert!(open(Device::Auto).unwrap().is_cpu());
        assert!(open(Device::Cpu).unwrap().is_cpu());
        let failure = open(Device::Cuda(1)).unwrap_err();
        assert_eq!(failure.exit_code(), 4);
        let text = failure.to_string();
        assert!(text.starts_with("error: cannot use cuda:1: "), "{text}");
        assert!(text.ends_with("hint: use `--device cpu`"), "{text}");
    }

    #[test]
    fn sets_and_the_seed_reach_the_config() {
        let args = parse(&["--set", "a=1", "--set", "b.c=[1, 2]", "--seed", "7"]).unwrap();
        let request = args.request.request(None);
        assert_eq!(request.sets, ["a=1", "b.c=[1, 2]"]);
        assert_eq!(request.flags, [("seed".into(), toml::Value::Integer(7), "--seed 7".into())]);
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [["--threads", "0"], ["--seed", "18446744073709551615"], ["-q", "-v"]] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
