//! The discrete wavelet transform in one to three dimensions (PyWavelets, mode `symmetric`).

use rayon::prelude::*;

use super::WaveletBasis;
use crate::border::Border;
use crate::grid::Grid;

/// A decomposed image.
pub(super) struct Pyramid {
    basis: WaveletBasis,
    axes: Vec<usize>,
    /// The detail bands of each level, finest first.
    levels: Vec<Level>,
    /// What is left: the coarsest average.
    average: Vec<f64>,
}

struct Level {
    /// Shape of the image that was split.
    dims: [usize; 3],
    /// Shape of each band.
    band: [usize; 3],
    /// All bands but the average; the last is the high pass along every axis.
    details: Vec<Vec<f64>>,
}

impl WaveletBasis {
    /// Taps of the low-pass filter for synthesis; those for analysis are the same, reversed.
    pub(super) fn low_pass(self) -> &'static [f64] {
        match self {
            Self::Db1 => &[std::f64::consts::FRAC_1_SQRT_2; 2],
            Self::Db2 => {
                &[0.48296291314453414, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037]
            }
            Self::Db4 => &[
                0.2303778133088965,
                0.7148465705529157,
                0.6308807679298589,
                -0.027983769416859854,
                -0.18703481171909309,
                0.030841381835560764,
                0.0328830116668852,
                -0.010597401785069032,
            ],
        }
    }

    /// Taps of the high-pass filter for synthesis: the low-pass mirrored, every second sign turned.
    fn high_pass(self) -> Vec<f64> {
        let low = self.low_pass().iter().rev().enumerate();
        low.map(|(i, tap)| if i % 2 == 0 { *tap } else { -tap }).collect()
    }
}

impl Pyramid {
    pub(super) fn decompose(
        image: &[f64],
        grid: &Grid,
        basis: WaveletBasis,
        levels: usize,
    ) -> Self {
        let axes: Vec<usize> = grid.axes().collect();
        let mut pyramid = Self { basis, axes, levels: Vec::new(), average: image.to_vec() };
        let mut dims = grid.dims;
        for _ in 0..levels {
            let mut band = dims;
            let mut bands = vec![std::mem::take(&mut pyramid.average)];
            for axis in &pyramid.axes {
                let split = bands.iter().map(|values| analyse(values, band, *axis, basis));
                // all low-pass halves first: the average stays in front, the diagonal at the end
                let (low, high): (Vec<_>, Vec<_>) = split.unzip();
                bands = low.into_iter().chain(high).collect();
                band[*axis] = (band[*axis] + basis.low_pass().len() - 1) / 2;
            }
            let details = bands.split_off(1);
            pyramid.average = bands.swap_remove(0);
            pyramid.levels.push(Level { dims, band, details });
            dims = band;
        }
        pyramid
    }

    /// The high pass along every axis, of the finest level.
    pub(super) fn finest_diagonal(&self) -> &[f64] {
        self.levels.first().and_then(|level| level.details.last()).map_or(&[], Vec::as_slice)
    }

    /// All bands but the average.
    pub(super) fn detail_bands(&mut self) -> impl Iterator<Item = &mut Vec<f64>> {
        self.levels.iter_mut().flat_map(|level| &mut level.details)
    }

    /// Undoes [`Pyramid::decompose`].
    pub(super) fn reconstruct(self) -> Vec<f64> {
        let mut average = self.average;
        for level in self.levels.into_iter().rev() {
            let mut dims = level.band;
            let mut bands = vec![average];
            bands.extend(level.details);
            for axis in self.axes.iter().rev() {
                let high = bands.split_off(bands.len() / 2);
                let n = level.dims[*axis];
                bands = bands
                    .iter()
                    .zip(&high)
                    .map(|(low, high)| synthesise(low, high, dims, *axis, n, self.basis))
                    .collect();
                dims[*axis] = n;
            }
            average = bands.swap_remove(0);
        }
        average
    }
}

/// Splits `values` along `axis` into its low and high half band:
/// `half[k] = sum_j taps[j] * values[2 k + 1 - j]`, mirrored at the edges.
fn analyse(
    values: &[f64],
    dims: [usize; 3],
    axis: usize,
    basis: WaveletBasis,
) -> (Vec<f64>, Vec<f64>) {
    let n = dims[axis];
    let low_pass = basis.low_pass();
    let high_pass = basis.high_pass();
    let taps = low_pass.len();
    let half = (n + taps - 1) / 2;
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    let mut low = vec![0.0; outer * half * inner];
    let mut high = vec![0.0; outer * half * inner];
    low.par_chunks_mut(inner).zip(high.par_chunks_mut(inner)).enumerate().for_each(
        |(row, (low, high))| {
            let (o, k) = (row / half, row % half);
            // taps of analysis are those of synthesis reversed
            for (j, (l, h)) in low_pass.iter().zip(&high_pass).rev().enumerate() {
                let from = 2 * k as isize + 1 - j as isize;
                let from = Border::Reflect.index(from, n).unwrap_or(0);
                let source = &values[(o * n + from) * inner..][..inner];
                for ((low, high), value) in low.iter_mut().zip(high.iter_mut()).zip(source) {
                    *low += l * value;
                    *high += h * value;
                }
            }
        },
    );
    (low, high)
}

/// Joins two half bands along `axis` into `n` samples.
fn synthesise(
    low: &[f64],
    high: &[f64],
    dims: [usize; 3],
    axis: usize,
    n: usize,
    basis: WaveletBasis,
) -> Vec<f64> {
    let low_pass = basis.low_pass();
    let high_pass = basis.high_pass();
    let taps = low_pass.len();
    let half = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    let mut out = vec![0.0; outer * n * inner];
    out.par_chunks_mut(inner).enumerate().for_each(|(row, out)| {
        let (o, i) = (row / n, row % n);
        // tap j = i + taps - 2 - 2 k, for all k that have one
        let last = (i + taps - 2) / 2;
        let first = i
            .div_ceil(2)
            .saturating_sub(1)
            .max((i + taps - 2).saturating_sub(taps - 1).div_ceil(2));
        for k in first..=last.min(half - 1) {
            let j = i + taps - 2 - 2 * k;
            let at = (o * half + k) * inner;
            let (l, h) = (low_pass[j], high_pass[j]);
            for ((out, low), high) in out.iter_mut().zip(&low[at..]).zip(&high[at..]) {
                *out += l * low + h * high;
            }
        }
    });
    out
}
