//! One config that has everything, and the tests of messages and of layers on it.

mod layers;
mod messages;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::load::load_in;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Seed of all randomness.
    seed: u64,
    /// Where to compute.
    device: String,
    /// How the weights move.
    optimizer: Optimizer,
    train: Train,
    terms: Vec<Term>,
    tile: Tile,
    /// Output file.
    out: Option<PathBuf>,
    names: BTreeMap<String, u8>,
    axes: Axes,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Optimizer {
    /// Adam with decoupled weight decay.
    Adamw {
        /// Learning rate.
        #[serde(default = "Optimizer::lr")]
        lr: f64,
        /// Decay of the moments.
        #[serde(default = "Optimizer::betas")]
        betas: [f64; 2],
    },
    Sgd(Sgd),
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Sgd {
    lr: f64,
    momentum: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Train {
    /// Optimizer steps.
    steps: u64,
    /// Items per step.
    batch: usize,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Fast,
    /// Slower.
    Exact,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Term {
    /// Name of the loss. There are many.
    loss: String,
    #[serde(default)]
    weight: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Tile {
    Auto(Auto),
    Fixed(Vec<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Auto {
    Auto,
}

/// Refused by serde only: the schema says string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
struct Axes(String);

impl TryFrom<String> for Axes {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.chars().all(|c| "ZYXC".contains(c)) {
            true => Ok(Self(text)),
            false => Err(format!("axes are letters of ZYXC, got {text}")),
        }
    }
}

impl Optimizer {
    fn lr() -> f64 {
        1e-3
    }
    fn betas() -> [f64; 2] {
        [0.9, 0.999]
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 42,
            device: "auto".into(),
            optimizer: Optimizer::Adamw { lr: 2e-4, betas: [0.5, 0.999] },
            train: Train::default(),
            terms: Vec::new(),
            tile: Tile::Auto(Auto::Auto),
            out: None,
            names: BTreeMap::new(),
            axes: Axes("YX".into()),
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self { steps: 1000, batch: 4, mode: Mode::Fast }
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        at.nested("optimizer", &self.optimizer);
        at.nested("train", &self.train);
        at.nested("terms", &self.terms);
        if let Tile::Fixed(sides) = &self.tile {
            for (i, side) in sides.iter().enumerate().filter(|(_, side)| *side % 16 != 0) {
                at.problem(format!("tile.{i}"), format!("must be a multiple of 16, got {side}"))
                    .hint(format!("use {}", side.next_multiple_of(16)));
            }
        }
    }
}

impl Validate for Optimizer {
    fn validate(&self, at: &mut Check) {
        let (Self::Adamw { lr, .. } | Self::Sgd(Sgd { lr, .. })) = self;
        if lr.is_nan() || *lr <= 0.0 {
            at.problem("lr", format!("must be positive, got {lr}"));
        }
    }
}

impl Validate for Train {
    fn validate(&self, at: &mut Check) {
        if self.steps == 0 {
            at.problem("steps", "must be at least 1");
        }
        if self.batch > 1000 {
            at.problem("batch", format!("must be at most 1000, got {}", self.batch));
        }
    }
}

impl Validate for Term {
    fn validate(&self, at: &mut Check) {
        if self.weight < 0.0 {
            at.problem("weight", "must not be negative");
        }
    }
}

const ENV: &[(&str, &str)] = &[("LIMPID_DEVICE", "device"), ("LIMPID_SEED", "seed")];

/// A request of a text in place of a file, and `--set`s.
fn request<'a>(text: &'a str, sets: &[&str]) -> Request<'a> {
    Request {
        builtin: Some(("a.toml", text)),
        env_keys: ENV,
        sets: sets.iter().map(ToString::to_string).collect(),
        ..Request::default()
    }
}

fn try_load(text: &str, sets: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    load_in(&request(text, sets), |_| None)
}

fn loaded(text: &str, sets: &[&str]) -> Loaded<Config> {
    try_load(text, sets).unwrap_or_else(|e| panic!("{e}"))
}

fn error(text: &str, sets: &[&str]) -> String {
    try_load(text, sets).unwrap_err().to_string()
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}
