//! Weights by formula: the same numbers here and in the reference without storing them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use limpid_nn::Params;

use super::fixture::{Worst, absolute, text};

/// Fills every parameter and buffer from its name and the seed.
pub(super) fn fill(params: &Params, seed: u64) -> Result<(), String> {
    for param in params.all() {
        let shape = param.shape();
        let values = values(param.name(), shape, seed);
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).map_err(text)?;
        param.set(&tensor).map_err(text)?;
    }
    Ok(())
}

/// The values of the parameter called `name`: a stream of splitmix64 whose seed is the FNV-1a hash
/// of the name, scaled by its sort.
fn values(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let hash = name.bytes().fold(OFFSET, |h, byte| (h ^ u64::from(byte)).wrapping_mul(PRIME));
    let start = hash ^ seed;
    let count: usize = shape.iter().product();
    let uniform = |k: u64| {
        let mut z = start.wrapping_add((k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        2.0 * ((z >> 11) as f64 * (0.5f64).powi(53)) - 1.0
    };
    let (offset, scale) = if shape.len() >= 2 {
        (0.0, (3.0 / (count / shape[0].max(1)) as f64).sqrt())
    } else if name.ends_with(".weight") || name.ends_with("running_var") {
        (1.0, 0.2)
    } else {
        (0.0, 0.1)
    };
    (0..count as u64).map(|k| (offset + scale * uniform(k)) as f32).collect()
}

/// Compares the first values of some parameters with those that the reference computed.
pub(super) fn check_samples(
    worst: &mut Worst,
    params: &Params,
    samples: &BTreeMap<String, Tensor>,
) -> Result<(), String> {
    for (name, expected) in samples {
        let param = params.get(name).ok_or_else(|| format!("no parameter `{name}`"))?;
        let flat = param.tensor().to_dtype(DType::F32).and_then(|t| t.flatten_all());
        let first = flat.and_then(|t| t.narrow(0, 0, expected.elem_count())).map_err(text)?;
        worst.tensor(&format!("first values of {name}"), &first, expected, absolute(1e-7))?;
    }
    Ok(())
}
