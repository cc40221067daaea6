//! Fixtures for tests, which lie outside the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of the fixtures of EMDiffuse.
pub(crate) fn emdiffuse() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/emdiffuse")
}

/// The tensors of a fixture of the engine as f32, flat; none, with a printed reason, where it is
/// absent.
pub(crate) fn tensors(name: &str) -> Option<BTreeMap<String, Vec<f32>>> {
    tensors_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden/engine"), name)
}

/// The same of a fixture in a folder.
#[allow(clippy::print_stderr)]
pub(crate) fn tensors_in(folder: &Path, name: &str) -> Option<BTreeMap<String, Vec<f32>>> {
    let path = folder.join(format!("{name}.safetensors"));
    if !path.exists() {
        eprintln!("skipped: no fixture {}", path.display());
        return None;
    }
    let all = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let flat = |t: candle_core::Tensor| {
        t.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    Some(all.into_iter().map(|(name, t)| (name, flat(t))).collect())
}
