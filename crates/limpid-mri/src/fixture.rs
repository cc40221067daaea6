//! Reads the reference values of `../shared/golden/igrog` for the tests of this crate.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::Complex;
use safetensors::{Dtype, SafeTensors};

/// The tensors and the metadata of one fixture file.
pub(crate) struct Fixture {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    metadata: HashMap<String, String>,
}

/// Loads a fixture, as in `unit/nufft`, or says that it is absent and returns `None`.
pub(crate) fn load(name: &str) -> Option<Fixture> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/golden/igrog")
        .join(format!("{name}.safetensors"));
    let Ok(bytes) = std::fs::read(&path) else {
        #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("skipped: no fixture `{}`", path.display());
        }
        return None;
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = file
        .iter()
        .map(|(name, view)| {
            let values = values(view.dtype(), view.data());
            (name.to_string(), (view.shape().to_vec(), values))
        })
        .collect();
    Some(Fixture { tensors, metadata: header.metadata().clone().unwrap_or_default() })
}

impl Fixture {
    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensor(name).0
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        &self.tensor(name).1
    }

    /// The values of an array whose last axis holds real and imaginary parts.
    pub(crate) fn complex(&self, name: &str) -> Vec<Complex<f64>> {
        self.values(name).as_chunks().0.iter().map(|&[re, im]| Complex::new(re, im)).collect()
    }

    pub(crate) fn metadata(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("the fixture has no `{key}`"))
    }

    fn tensor(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no `{name}`"))
    }
}

fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    fn read<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.chunks_exact(N).map(|b| of(b.try_into().unwrap())).collect()
    }
    match dtype {
        Dtype::F64 => read(bytes, f64::from_le_bytes),
        Dtype::F32 => read(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::I64 => read(bytes, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => read(bytes, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::U8 => read(bytes, |[b]| f64::from(b)),
        Dtype::BOOL => read(bytes, |[b]| f64::from(b)),
        other => panic!("no test reads {other:?}"),
    }
}

/// Fails unless every `got` is within `tolerance` of `expected`.
pub(crate) fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of elements");
    let worst = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}, tolerance {tolerance:e}");
}
