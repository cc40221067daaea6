//! Reference fixtures for the tests of this crate.

use candle_core::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A fixture beside the repository; none, with the reason printed, if it is not there.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub(crate) fn path(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(file);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no fixture {}", path.display());
    None
}

/// The tensors of a fixture.
pub(crate) fn load(file: &str) -> Option<BTreeMap<String, Tensor>> {
    Some(
        candle_core::safetensors::load(path(file)?, &candle_core::Device::Cpu)
            .unwrap()
            .into_iter()
            .collect(),
    )
}

/// All elements as f64, row-major.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference; shapes must be equal.
#[track_caller]
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
