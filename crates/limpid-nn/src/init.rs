//! Initialisers as PyTorch's `torch.nn.init` defines them, drawn from our own random streams.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use limpid_kernels::rng::Stream;

/// How the initial value of a parameter is drawn.
///
/// Fans follow PyTorch: for a weight `[o, i, k…]`, `fan_in = i·∏k` and `fan_out = o·∏k`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// One value everywhere.
    Const(f64),
    /// Uniform in `[low, high)`.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// Normal.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Normal cut at absolute bounds, as `trunc_normal_`.
    TruncNormal {
        /// Mean.
        mean: f64,
        /// Standard deviation before the cut.
        std: f64,
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// `kaiming_uniform_(a = √5)`: PyTorch's default for convolution and linear weights,
    /// `U(±1/√fan_in)`.
    Default,
    /// `kaiming_uniform_` with the gain of a leaky ReLU of slope `a`.
    KaimingUniform {
        /// Negative slope of the rectifier that follows.
        a: f64,
    },
    /// `kaiming_normal_` with the gain of a leaky ReLU of slope `a`.
    KaimingNormal {
        /// Negative slope of the rectifier that follows.
        a: f64,
    },
    /// `xavier_uniform_`.
    XavierUniform {
        /// Factor on the bound.
        gain: f64,
    },
    /// `xavier_normal_`.
    XavierNormal {
        /// Factor on the standard deviation.
        gain: f64,
    },
    /// `orthogonal_`: rows (or columns, whichever are fewer) are orthonormal, times the gain.
    Orthogonal {
        /// Factor on the matrix.
        gain: f64,
    },
}

/// Most values of a parameter: 4 GiB. More is a mistake in a configuration or a hostile file.
const MOST_VALUES: usize = 1 << 30;

/// `(fan_in, fan_out)` of a weight.
#[must_use]
pub fn fans(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n] => (*n, *n),
        [o, i, k @ ..] => {
            let k: usize = k.iter().product();
            (i * k, o * k)
        }
    }
}

impl Init {
    /// PyTorch's default for a bias: `U(±1/√fan_in)` of the weight it belongs to.
    #[must_use]
    pub fn bias_of(weight_shape: &[usize]) -> Self {
        let bound = 1.0 / (fans(weight_shape).0.max(1) as f64).sqrt();
        Self::Uniform { low: -bound, high: bound }
    }

    /// Draws a tensor.
    ///
    /// # Errors
    /// [`Error::Argument`] for an orthogonal initialiser on fewer than two dimensions, and for more
    /// than 2^30 values.
    pub fn tensor(
        self,
        shape: &[usize],
        stream: Stream,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let n = shape
            .iter()
            .try_fold(1usize, |n, s| n.checked_mul(*s))
            .filter(|n| *n <= MOST_VALUES)
            .ok_or_else(|| {
                let message = format!("a parameter of {shape:?} has more than 2^30 values");
                Error::Argument { op: "init", message }
            })?;
        let (fan_in, fan_out) = fans(shape);
        let (fan_in, fan_out) = (fan_in.max(1) as f64, fan_out.max(1) as f64);
        let he = |a: f64| (2.0 / (1.0 + a * a) / fan_in).sqrt();
        let symmetric = |bound: f64| Self::Uniform { low: -bound, high: bound };
        let values = match self {
            Self::Zeros => vec![0f32; n],
            Self::Ones => vec![1f32; n],
            Self::Const(c) => vec![c as f32; n],
            Self::Uniform { low, high } => {
                let mut v = vec![0f32; n];
                stream.fill_uniform(&mut v);
                v.iter_mut().for_each(|x| *x = (low + (high - low) * f64::from(*x)) as f32);
                v
            }
            Self::Normal { mean, std } => {
                let mut v = vec![0f32; n];
                stream.fill_normal(&mut v);
                v.iter_mut().for_each(|x| *x = (mean + std * f64::from(*x)) as f32);
                v
            }
            Self::TruncNormal { mean, std, low, high } => {
                let mut draws = stream.draws();
                (0..n).map(|_| truncated(&mut draws, mean, std, low, high)).collect()
            }
            Self::Orthogonal { gain } => orthogonal(shape, gain, stream)?,
            Self::Default => {
                return symmetric(1.0 / fan_in.sqrt()).tensor(shape, stream, dtype, device);
            }
            Self::KaimingUniform { a } => {
                return symmetric(3f64.sqrt() * he(a)).tensor(shape, stream, dtype, device);
            }
            Self::KaimingNormal { a } => {
                let normal = Self::Normal { mean: 0.0, std: he(a) };
                return normal.tensor(shape, stream, dtype, device);
            }
            Self::XavierUniform { gain } => {
                let bound = gain * (6.0 / (fan_in + fan_out)).sqrt();
                return symmetric(bound).tensor(shape, stream, dtype, device);
            }
            Self::XavierNormal { gain } => {
                let std = gain * (2.0 / (fan_in + fan_out)).sqrt();
                return Self::Normal { mean: 0.0, std }.tensor(shape, stream, dtype, device);
            }
        };
        Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
    }
}

/// One truncated normal number by rejection; bounds further than any draw are simply never hit.
fn truncated(
    draws: &mut limpid_kernels::rng::Draws,
    mean: f64,
    std: f64,
    low: f64,
    high: f64,
) -> f32 {
    for _ in 0..10_000 {
        let x = mean + std * draws.normal();
        if (low..=high).contains(&x) {
            return x as f32;
        }
    }
    draws.range(low, high) as f32
}

/// Orthonormal rows or columns by modified Gram–Schmidt in f64, applied twice for orthogonality to
/// rounding.
fn orthogonal(shape: &[usize], gain: f64, stream: Stream) -> Result<Vec<f32>> {
    let [rows, rest @ ..] = shape else {
        return Err(Error::argument("orthogonal init", "needs at least two dimensions"));
    };
    if rest.is_empty() {
        return Err(Error::argument("orthogonal init", "needs at least two dimensions"));
    }
    let (rows, cols) = (*rows, rest.iter().product::<usize>());
    let (short, long) = (rows.min(cols), rows.max(cols));
    let mut draws = stream.draws();
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(short);
    for _ in 0..short {
        let mut v: Vec<f64> = (0..long).map(|_| draws.normal()).collect();
        for _ in 0..2 {
            for b in &basis {
                let dot: f64 = v.iter().zip(b).map(|(x, y)| x * y).sum();
                v.iter_mut().zip(b).for_each(|(x, y)| *x -= dot * y);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        basis.push(v);
    }
    let at = |r: usize, c: usize| if rows <= cols { basis[r][c] } else { basis[c][r] };
    Ok((0..rows * cols).map(|i| (gain * at(i / cols, i % cols)) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(init: Init, shape: &[usize]) -> Vec<f64> {
        init.tensor(shape, Stream::new(11, "init"), DType::F64, &Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn std(v: &[f64]) -> f64 {
        let m = v.iter().sum::<f64>() / v.len() as f64;
        (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / v.len() as f64).sqrt()
    }

    #[test]
    fn bounds_and_deviations_follow_the_fans() {
        let shape = [64, 32, 3, 3];
        assert_eq!(fans(&shape), (288, 576));
        let bound = 1.0 / 288f64.sqrt();
        let v = draw(Init::Default, &shape);
        assert!(v.iter().all(|x| x.abs() <= bound) && v.iter().any(|x| x.abs() > 0.99 * bound));
        let he = (2.0 / 288f64).sqrt();
        assert!((std(&draw(Init::KaimingNormal { a: 0.0 }, &shape)) / he - 1.0).abs() < 0.02);
        assert!((std(&draw(Init::KaimingUniform { a: 0.0 }, &shape)) / he - 1.0).abs() < 0.02);
        let xavier = (2.0 / 864f64).sqrt();
        assert!((std(&draw(Init::XavierNormal { gain: 1.0 }, &shape)) / xavier - 1.0).abs() < 0.02);
        assert!(
            (std(&draw(Init::XavierUniform { gain: 1.0 }, &shape)) / xavier - 1.0).abs() < 0.02
        );
    }

    #[test]
    fn truncation_and_orthogonality_hold() {
        let cut = Init::TruncNormal { mean: 0.0, std: 1.0, low: -0.5, high: 2.0 };
        assert!(draw(cut, &[4000]).iter().all(|x| (-0.5..=2.0).contains(x)));
        for shape in [[5usize, 12], [12, 5]] {
            let v = draw(Init::Orthogonal { gain: 2.0 }, &shape);
            let (r, c) = (shape[0], shape[1]);
            let n = r.min(c);
            for i in 0..n {
                for j in 0..n {
                    let dot: f64 = if r <= c {
                        (0..c).map(|k| v[i * c + k] * v[j * c + k]).sum()
                    } else {
                        (0..r).map(|k| v[k * c + i] * v[k * c + j]).sum()
                    };
                    let want = if i == j { 4.0 } else { 0.0 };
                    assert!((dot - want).abs() < 1e-5, "{i} {j} {dot}");
                }
            }
        }
        assert!(
            Init::Orthogonal { gain: 1.0 }
                .tensor(&[3], Stream::new(0, ""), DType::F32, &Device::Cpu)
                .is_err()
        );
    }
}
