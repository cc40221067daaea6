//! Semantic validation: a config struct says what is wrong with itself, all of it at once.
//!
//! Serde and the schema settle names and types; [`Validate`] settles what they cannot: ranges, and
//! keys that contradict each other. Problems carry the path of their key, so that
//! [`load`](crate::load) can point at the line, the `--set` or the default they come from.
//!
//! ```
//! use limpid_config::{Check, Validate, check};
//!
//! struct Train { steps: u64, crop: Vec<usize> }
//! struct Config { train: Train }
//!
//! impl Validate for Train {
//!     fn validate(&self, at: &mut Check) {
//!         if self.steps == 0 {
//!             at.problem("steps", "must be at least 1");
//!         }
//!         for (i, side) in self.crop.iter().enumerate() {
//!             if side % 16 != 0 {
//!                 at.problem(format!("crop.{i}"), format!("must be a multiple of 16, got {side}"))
//!                     .hint(format!("use {}", side.next_multiple_of(16)));
//!             }
//!         }
//!     }
//! }
//! impl Validate for Config {
//!     fn validate(&self, at: &mut Check) {
//!         at.nested("train", &self.train);
//!     }
//! }
//!
//! let findings = check(&Config { train: Train { steps: 0, crop: vec![64, 60] } });
//! assert_eq!(findings[0].key, "train.steps");
//! assert_eq!(findings[1].to_string(), "`train.crop.1` must be a multiple of 16, got 60");
//! ```

use std::collections::BTreeMap;
use std::fmt;

use crate::key::{join, names};

/// A config value that can judge itself.
pub trait Validate {
    /// Reports everything wrong with `self` to `at`, and hands nested values on with
    /// [`Check::nested`]. Stops at nothing: later keys are judged even when earlier ones are wrong.
    fn validate(&self, at: &mut Check);
}

/// Collects the problems of one config, and knows in which table it stands.
#[derive(Debug, Default)]
pub struct Check {
    at: Vec<String>,
    findings: Vec<Finding>,
}

/// One semantic problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Dotted path of the key from the root, such as `train.steps` or `terms.0.weight`.
    pub key: String,
    /// What is wrong, as the rest of a sentence that starts with the key: `must be at least 1`.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Check {
    /// Reports a problem of `key`, which is relative to the current table; dots and array indices
    /// are allowed, and an empty key is the table itself. The message continues a sentence that
    /// starts with the key: `must be at least 1, got 0`.
    pub fn problem(&mut self, key: impl AsRef<str>, message: impl Into<String>) -> &mut Finding {
        let mut path = self.at.clone();
        path.extend(names(key.as_ref()));
        self.findings.push(Finding { key: join(&path), message: message.into(), hint: None });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// Validates the value of `key` (one name, or an index) in the current table.
    pub fn nested(&mut self, key: impl Into<String>, value: &(impl Validate + ?Sized)) {
        self.at.push(key.into());
        value.validate(self);
        self.at.pop();
    }
}

impl Finding {
    /// Adds what to do about the problem.
    pub fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "the configuration {}", self.message),
            key => write!(f, "`{key}` {}", self.message),
        }
    }
}

/// Everything that `value` finds wrong with itself, in the order it was reported.
pub fn check(value: &(impl Validate + ?Sized)) -> Vec<Finding> {
    let mut at = Check::default();
    value.validate(&mut at);
    at.findings
}

/// Nothing to judge when absent.
impl<T: Validate> Validate for Option<T> {
    fn validate(&self, at: &mut Check) {
        if let Some(value) = self {
            value.validate(at);
        }
    }
}

/// Each item under its index.
impl<T: Validate> Validate for Vec<T> {
    fn validate(&self, at: &mut Check) {
        for (i, item) in self.iter().enumerate() {
            at.nested(i.to_string(), item);
        }
    }
}

/// Each entry under its name.
impl<T: Validate> Validate for BTreeMap<String, T> {
    fn validate(&self, at: &mut Check) {
        for (name, item) in self {
            at.nested(name, item);
        }
    }
}
