//! Reads the reference values of `../shared/golden` for the tests of this crate.

use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of one fixture file by name, and its metadata.
pub(crate) struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

/// Loads a fixture of `engine`, or says that it is absent and returns `None`.
pub(crate) fn load(name: &str) -> Option<Fixture> {
    load_from("engine", name)
}

/// Loads a fixture of a folder, or says that it is absent and returns `None`.
pub(crate) fn load_from(folder: &str, name: &str) -> Option<Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/golden")
        .join(folder)
        .join(format!("{name}.safetensors"));
    let Ok(bytes) = std::fs::read(&path) else {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: no fixture `{}`", path.display());
        }
        return None;
    };
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    // hash maps go straight into sorted ones
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Some(Fixture { tensors: tensors.into_iter().collect(), metadata })
}

impl Fixture {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`")).clone()
    }

    pub(crate) fn metadata(&self, name: &str) -> String {
        self.metadata.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`")).clone()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(name).dims().to_vec()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        let flat = self.tensor(name).flatten_all().unwrap();
        flat.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    pub(crate) fn scalar(&self, name: &str) -> f64 {
        self.values(name)[0]
    }
}

/// Fails unless every `got` is within `absolute + relative * |expected|`.
pub(crate) fn assert_close(
    what: &str,
    got: &[f64],
    expected: &[f64],
    relative: f64,
    absolute: f64,
) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (g - e).abs();
        assert!(error <= absolute + relative * e.abs(), "{what}[{i}]: got {g}, expected {e}");
    }
}
