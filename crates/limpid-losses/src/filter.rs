//! Separable correlation of f64 arrays of any rank: the windows of SSIM and the gradient kernels.

use rayon::prelude::*;

/// What lies beyond the border, and how large the result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// Only positions where the kernel fits: `len - taps + 1`.
    Valid,
    /// Every position the kernel touches, zeros outside: `len + taps - 1`. The adjoint of `Valid`.
    Full,
    /// Same size, zeros outside. An even kernel has its extra tap after the centre.
    Zero,
    /// Same size, mirrored about the edge of the border sample (`d c b a | a b c d | d c b a`).
    Reflect,
}

impl Border {
    /// Length of the result along an axis.
    pub(crate) fn output(self, len: usize, taps: usize) -> usize {
        match self {
            Self::Valid => len + 1 - taps,
            Self::Full => len + taps - 1,
            Self::Zero | Self::Reflect => len,
        }
    }

    /// Where the first tap lies, relative to the output position.
    pub(crate) fn shift(self, taps: usize) -> isize {
        match self {
            Self::Valid => 0,
            Self::Full => 1 - taps as isize,
            Self::Zero | Self::Reflect => -((taps as isize - 1) / 2),
        }
    }

    /// The input position that stands for `i`, if any.
    fn source(self, i: isize, len: usize) -> Option<usize> {
        if (0..len as isize).contains(&i) {
            return Some(i as usize);
        }
        (self == Self::Reflect).then(|| mirror(i, len))
    }
}

/// Half-sample symmetric continuation of `0..len`, for any distance.
pub(crate) fn mirror(i: isize, len: usize) -> usize {
    let folded = i.rem_euclid(2 * len as isize) as usize;
    if folded < len { folded } else { 2 * len - 1 - folded }
}

/// Normalised Gaussian taps.
pub(crate) fn gaussian_taps(size: usize, sigma: f64) -> Vec<f64> {
    let centre = (size as f64 - 1.0) / 2.0;
    let taps: Vec<f64> =
        (0..size).map(|i| (-0.5 * ((i as f64 - centre) / sigma).powi(2)).exp()).collect();
    let total: f64 = taps.iter().sum();
    taps.iter().map(|t| t / total).collect()
}

/// Taps of a moving average.
pub(crate) fn uniform_taps(size: usize) -> Vec<f64> {
    vec![1.0 / size as f64; size]
}

/// Correlates the last `taps.len()` axes of a row-major array, one kernel per axis.
///
/// Returns the result and its shape. With [`Border::Valid`] every kernel must fit.
pub(crate) fn separable(
    data: &[f64],
    shape: &[usize],
    taps: &[Vec<f64>],
    border: Border,
) -> (Vec<f64>, Vec<usize>) {
    let mut shape = shape.to_vec();
    let first = shape.len() - taps.len();
    let mut current: Option<Vec<f64>> = None;
    for (i, taps) in taps.iter().enumerate() {
        let input = current.as_deref().unwrap_or(data);
        let output = along_axis(input, &shape, first + i, taps, border);
        shape[first + i] = border.output(shape[first + i], taps.len());
        current = Some(output);
    }
    (current.unwrap_or_else(|| data.to_vec()), shape)
}

fn along_axis(
    data: &[f64],
    shape: &[usize],
    axis: usize,
    taps: &[f64],
    border: Border,
) -> Vec<f64> {
    let len = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let length = border.output(len, taps.len());
    let shift = border.shift(taps.len());
    let mut out = vec![0.0; data.len() / len * length];
    // rows of a few elements are grouped, so that a rayon task has some thousand additions
    let grain = 1 + 4096 / (inner * if inner == 1 { length } else { 1 });
    if inner == 1 {
        out.par_chunks_mut(length).zip(data.par_chunks(len)).with_min_len(grain).for_each_init(
            Vec::new,
            |padded: &mut Vec<f64>, (out, line)| {
                padded.clear();
                padded.extend((0..length + taps.len() - 1).map(|i| {
                    border.source(i as isize + shift, len).map_or(0.0, |source| line[source])
                }));
                for (t, &tap) in taps.iter().enumerate() {
                    add_scaled(out, tap, &padded[t..t + length]);
                }
            },
        );
    } else {
        out.par_chunks_mut(inner).with_min_len(grain).enumerate().for_each(|(row, out)| {
            let (outer, i) = (row / length, row % length);
            for (t, &tap) in taps.iter().enumerate() {
                if let Some(source) = border.source((i + t) as isize + shift, len) {
                    let start = (outer * len + source) * inner;
                    add_scaled(out, tap, &data[start..start + inner]);
                }
            }
        });
    }
    out
}

fn add_scaled(out: &mut [f64], tap: f64, row: &[f64]) {
    for (o, v) in out.iter_mut().zip(row) {
        *o += tap * v;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_of_a_line() {
        let line = [1.0, 2.0, 3.0, 4.0];
        let taps = [vec![1.0, 10.0, 100.0]];
        let of = |border| separable(&line, &[4], &taps, border).0;
        assert_eq!(of(Border::Valid), [321.0, 432.0]);
        assert_eq!(of(Border::Zero), [210.0, 321.0, 432.0, 43.0]);
        assert_eq!(of(Border::Reflect), [211.0, 321.0, 432.0, 443.0]);
        assert_eq!(of(Border::Full), [100.0, 210.0, 321.0, 432.0, 43.0, 4.0]);
    }

    #[test]
    fn axes_are_independent_and_leading_axes_untouched() {
        let data: Vec<f64> = (0..2 * 3 * 4).map(f64::from).collect();
        let (out, shape) =
            separable(&data, &[2, 3, 4], &[vec![1.0, 1.0], vec![0.0, 1.0]], Border::Valid);
        assert_eq!(shape, [2, 2, 3]);
        assert_eq!(out[0], 1.0 + 5.0);
        assert_eq!(out[6], 13.0 + 17.0);
    }

    #[test]
    fn mirror_repeats_the_border_sample() {
        let positions: Vec<usize> = (-4..8).map(|i| mirror(i, 3)).collect();
        assert_eq!(positions, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1]);
    }
}
