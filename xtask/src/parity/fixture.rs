//! One file of reference values, and the comparison with it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use limpid_kernels::{Precision, precision};
use safetensors::{Dtype, SafeTensors};

/// A file of reference values.
pub(crate) struct Fixture {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its tensors by name; booleans are u8.
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Its metadata.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The result of a handler.
pub(crate) enum Outcome {
    /// Everything in the file was compared.
    Compared(Worst),
    /// The file is not for us, and why.
    Skipped(String),
}

/// Where comparisons are computed, if not on the CPU.
static DEVICE: OnceLock<Device> = OnceLock::new();

/// Where comparisons are computed.
pub(crate) fn device() -> Device {
    DEVICE.get().cloned().unwrap_or(Device::Cpu)
}

/// Has comparisons computed on a GPU from now on; only the first choice counts.
#[cfg(feature = "cuda")]
pub(super) fn compute_on(device: Device) {
    let _ = DEVICE.set(device);
}

/// Any error as text, for `map_err`.
pub(crate) fn text(error: impl Display) -> String {
    error.to_string()
}

impl Fixture {
    /// Reads a file; of JSON each entry becomes metadata. A folder is known by its path alone.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        if path.is_dir() {
            let (tensors, metadata) = (BTreeMap::new(), BTreeMap::new());
            return Ok(Self { path: path.to_path_buf(), tensors, metadata });
        }
        let at = |e: &dyn Display| format!("{e}: `{}`", path.display());
        let bytes = std::fs::read(path).map_err(|e| at(&e))?;
        if path.extension().is_some_and(|e| e == "json") {
            let entries: BTreeMap<String, serde_json::Value> =
                serde_json::from_slice(&bytes).map_err(|e| at(&e))?;
            let metadata = entries.into_iter().map(|(key, value)| (key, value.to_string()));
            let (path, metadata) = (path.to_path_buf(), metadata.collect());
            return Ok(Self { path, tensors: BTreeMap::new(), metadata });
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|e| at(&e))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| at(&e))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let tensor = match view.dtype() {
                Dtype::BOOL => Tensor::from_slice(view.data(), view.shape(), &device()),
                _ => view.load(&device()),
            };
            tensors.insert(name.to_string(), tensor.map_err(|e| at(&e))?);
        }
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path: path.to_path_buf(), tensors, metadata })
    }

    /// The names of the tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor, String> {
        self.tensors.get(name).ok_or_else(|| format!("the file has no tensor `{name}`"))
    }

    /// Its values.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f64>, String> {
        values(self.tensor(name)?)
    }

    /// Its only value.
    pub(crate) fn scalar(&self, name: &str) -> Result<f64, String> {
        match self.values(name)?[..] {
            [value] => Ok(value),
            ref values => Err(format!("`{name}` has {} values instead of one", values.len())),
        }
    }

    /// Its shape.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], String> {
        Ok(self.tensor(name)?.dims())
    }

    /// The metadata called `key`, parsed.
    pub(crate) fn meta<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.metadata.get(key).ok_or_else(|| format!("the file has no `{key}`"))?;
        text.parse().map_err(|_| format!("cannot read the metadata `{key}`: {text}"))
    }

    /// The metadata called `key`, which is JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T, String> {
        let text: String = self.meta(key)?;
        serde_json::from_str(&text).map_err(|e| format!("cannot read the metadata `{key}`: {e}"))
    }

    /// What the file says of itself, in a line: what it holds, and which program made it.
    pub(crate) fn about(&self) -> String {
        const SHOWN: usize = 120;
        let Some(config) = self.metadata.get("config") else {
            return self.metadata.get("what").cloned().unwrap_or_default();
        };
        let parsed: Option<serde_json::Value> = serde_json::from_str(config).ok();
        let entry = |key: &str| parsed.as_ref()?.get(key)?.as_str().map(str::to_owned);
        let about = entry("what").or_else(|| entry("reference")).or_else(|| entry("kind"));
        about.unwrap_or_else(|| config.clone()).chars().take(SHOWN).collect()
    }

    /// Parameters of the network in the file: as it says, else all values of its weights.
    pub(crate) fn parameters(&self) -> usize {
        if let Ok(count) = self.meta("nparams") {
            return count;
        }
        let weight = |n: &str| n.starts_with("param.") || n.starts_with("weights.");
        self.tensors.iter().filter(|(n, _)| weight(n)).map(|(_, t)| t.elem_count()).sum()
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub(crate) fn part(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let inner = |(n, t): (&String, &Tensor)| Some((n.strip_prefix(prefix)?.into(), t.clone()));
        self.tensors.iter().filter_map(inner).collect()
    }
}

/// The values of a tensor, row-major.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f64>, String> {
    let flat = tensor.flatten_all().and_then(|t| t.to_dtype(DType::F64));
    flat.and_then(|t| t.to_vec1()).map_err(text)
}

/// How far a value may be off: `absolute + relative * |expected|`.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// In units of the value.
    pub(crate) absolute: f64,
    /// As a fraction of the expected value.
    pub(crate) relative: f64,
}

/// How far a tensor that is computed in half precision may be off, as a fraction of its norm. Where functions have
/// kinks gradients are off by the root of the rounding: an element that changes sides changes its slope as a whole.
pub(super) fn rounding(what: &str) -> Tolerance {
    let [gradients, values] = match precision() {
        Precision::Bf16 => [0.2, 0.03],
        _ => [0.1, 0.005],
    };
    absolute(if what.starts_with("grad") { gradients } else { values })
}

/// Whether networks are computed in half precision.
pub(crate) fn is_half() -> bool {
    matches!(precision(), Precision::Bf16 | Precision::F16)
}

/// A tolerance that does not depend on the value.
pub(crate) const fn absolute(absolute: f64) -> Tolerance {
    Tolerance { absolute, relative: 0.0 }
}

/// A tolerance in proportion to the value.
pub(crate) const fn relative(relative: f64) -> Tolerance {
    Tolerance { absolute: 0.0, relative }
}

/// Collects comparisons and remembers the one nearest to, or farthest beyond, its tolerance.
#[derive(Default)]
pub(crate) struct Worst {
    checks: usize,
    worst: Option<Deviation>,
    /// Largest errors of gradients and of everything else.
    gradients: Option<f64>,
    values: Option<f64>,
    failures: Vec<String>,
}

/// How far off one value is.
struct Deviation {
    what: String,
    error: f64,
    tolerance: f64,
}

impl Deviation {
    /// 1 at the tolerance; infinite for a wrong NaN or any error where none is allowed.
    fn ratio(&self) -> f64 {
        match self.error / self.tolerance {
            _ if self.error == 0.0 => 0.0,
            ratio if ratio.is_nan() => f64::INFINITY,
            ratio => ratio,
        }
    }
}

impl Worst {
    /// Compares values one by one. Equal infinities and NaNs agree.
    pub(crate) fn compare(
        &mut self,
        what: &str,
        got: &[f64],
        expected: &[f64],
        tolerance: Tolerance,
    ) {
        self.checks += 1;
        if got.len() != expected.len() {
            let (got, expected) = (got.len(), expected.len());
            self.failures.push(format!("{what}: {got} values instead of {expected}"));
            return;
        }
        let deviation = |(got, expected): (&f64, &f64)| {
            let same = got == expected || (got.is_nan() && expected.is_nan());
            Deviation {
                what: what.to_string(),
                error: if same { 0.0 } else { (got - expected).abs() },
                tolerance: tolerance.absolute + tolerance.relative * expected.abs(),
            }
        };
        let all = got.iter().zip(expected).map(deviation);
        let Some(worst) = all.reduce(|a, b| if b.ratio() > a.ratio() { b } else { a }) else {
            return;
        };
        let errors = got.iter().zip(expected).map(|p| deviation(p).error);
        let largest = errors.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a });
        let group = if what.starts_with("grad") { &mut self.gradients } else { &mut self.values };
        *group = Some(group.map_or(largest, |old| if largest > old { largest } else { old }));
        if worst.ratio() > 1.0 {
            self.failures.push(format!("{what} is off by {:.1e}", worst.error));
        }
        if self.worst.as_ref().is_none_or(|old| worst.ratio() > old.ratio()) {
            self.worst = Some(worst);
        }
    }

    /// Compares a tensor, its shape included; in half precision as a whole.
    pub(crate) fn tensor(
        &mut self,
        what: &str,
        got: &Tensor,
        expected: &Tensor,
        tolerance: Tolerance,
    ) -> Result<(), String> {
        if got.dims() != expected.dims() {
            let (got, expected) = (got.dims(), expected.dims());
            self.require(&format!("{what}: shape {got:?} instead of {expected:?}"), false);
            return Ok(());
        }
        let (got, expected) = (values(got)?, values(expected)?);
        if is_half() {
            self.rounded(what, &got, &expected, rounding(what));
        } else {
            self.compare(what, &got, &expected, tolerance);
        }
        Ok(())
    }

    /// Compares gradients by their names; in half precision all of them together, since some are nothing but rounding,
    /// as those of the biases of keys.
    pub(crate) fn gradients(
        &mut self,
        found: &[(String, Tensor, Tensor)],
        tolerance: impl Fn(&str) -> Tolerance,
        in_half: Tolerance,
    ) -> Result<(), String> {
        if !is_half() {
            return found.iter().try_for_each(|(key, got, expected)| {
                self.tensor(&format!("gradient of {key}"), got, expected, tolerance(key))
            });
        }
        let (mut all, mut expected) = (Vec::new(), Vec::new());
        for (_, got, reference) in found {
            all.extend(values(got)?);
            expected.extend(values(reference)?);
        }
        self.rounded("gradients", &all, &expected, in_half);
        Ok(())
    }

    /// Compares what was computed in half precision, by the norm of all values.
    fn rounded(&mut self, what: &str, got: &[f64], expected: &[f64], tolerance: Tolerance) {
        if got.len() != expected.len() {
            return self.compare(what, got, expected, tolerance);
        }
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
        let error = error / norm(&mut expected.iter().copied()).max(1e-30);
        self.compare(what, &[error], &[0.0], tolerance);
    }

    /// A condition that must hold; `what` is said when it does not.
    pub(crate) fn require(&mut self, what: &str, holds: bool) {
        self.checks += 1;
        if !holds {
            self.failures.push(what.to_string());
        }
    }

    /// Whether everything agreed, and there was anything to compare.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty() && self.checks > 0
    }

    /// The worst error and its tolerance.
    pub(crate) fn error_and_tolerance(&self) -> Option<(f64, f64)> {
        self.worst.as_ref().map(|worst| (worst.error, worst.tolerance))
    }

    /// The largest error of what is no gradient, and of gradients.
    pub(crate) fn largest(&self) -> (Option<f64>, Option<f64>) {
        (self.values, self.gradients)
    }

    /// How many comparisons, and what failed or came closest to failing.
    pub(crate) fn detail(&self) -> String {
        const SHOWN: usize = 4;
        match self.failures.len() {
            0 if self.checks == 0 => "nothing in the file that could be compared".into(),
            0 => match &self.worst {
                Some(worst) => format!("{} checks, closest {}", self.checks, worst.what),
                None => format!("{} checks", self.checks),
            },
            n => {
                let more =
                    if n > SHOWN { format!(" and {} more", n - SHOWN) } else { String::new() };
                let shown = &self.failures[..n.min(SHOWN)];
                format!("{n} of {} checks fail: {}{more}", self.checks, shown.join("; "))
            }
        }
    }

    /// The outcome of a handler.
    pub(crate) fn done(self) -> Result<Outcome, String> {
        Ok(Outcome::Compared(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_nearest_its_tolerance_is_reported() {
        let mut worst = Worst::default();
        worst.compare("wide", &[1.5], &[1.0], absolute(1.0));
        worst.compare("narrow", &[1.0, 1.0008], &[1.0, 1.0], relative(1e-3));
        worst.compare(
            "equal",
            &[f64::NAN, f64::INFINITY],
            &[f64::NAN, f64::INFINITY],
            absolute(0.0),
        );
        assert!(worst.passed());
        let (error, tolerance) = worst.error_and_tolerance().unwrap();
        assert!((error - 8e-4).abs() < 1e-12 && tolerance == 1e-3);
        assert_eq!(worst.detail(), "3 checks, closest narrow");
    }

    #[test]
    fn whatever_disagrees_fails() {
        let fails = |got: &[f64], expected: &[f64]| {
            let mut worst = Worst::default();
            worst.compare("x", got, expected, absolute(0.5));
            !worst.passed()
        };
        assert!(fails(&[2.0], &[1.0]));
        assert!(fails(&[f64::NAN], &[1.0]));
        assert!(fails(&[1.0], &[f64::NAN]));
        assert!(fails(&[f64::INFINITY], &[1.0]));
        assert!(fails(&[1.0, 1.0], &[1.0]));
        assert!(!Worst::default().passed());
        let mut worst = Worst::default();
        worst.require("it does not hold", false);
        assert!(!worst.passed() && worst.detail().contains("it does not hold"));
    }
}
