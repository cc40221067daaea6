//! Soft thresholds of periodised orthogonal wavelet coefficients.

use super::shift::{place, take};
use super::{Prox, Shift, Wavelet, check_dims};
use crate::error::expect_len;
use crate::{Complex, Error, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Numbers that one task takes, at least.
const CHUNK: usize = 1 << 13;

/// An orthogonal wavelet transform of images, separable and periodised (PyWavelets, mode `periodization`).
///
/// Coefficients are arranged as the image: along each axis the averages of the coarsest level come first, then
/// the details from coarse to fine. Sizes that `2^level` does not divide are filled up with zeros.
#[derive(Clone, Debug)]
pub struct WaveletTransform {
    dims: Vec<usize>,
    padded: Vec<usize>,
    level: usize,
    low: Vec<f64>,
    high: Vec<f64>,
}

impl WaveletTransform {
    /// A transform of images of the sizes `dims`, with `level` times halved averages.
    ///
    /// # Errors
    /// If a size is zero or below `2^level`.
    pub fn new(wavelet: Wavelet, level: usize, dims: &[usize]) -> Result<Self> {
        const OP: &str = "wavelet transform";
        check_dims(OP, 1, dims)?;
        let least = dims.iter().copied().min().unwrap_or(0);
        let most = least.ilog2() as usize;
        if level > most {
            let problem = format!(
                "`level` {level} halves the size {least} of {dims:?} too often; at most {most} is possible"
            );
            return Err(Error::value(OP, problem));
        }
        let padded = dims.iter().map(|size| size.next_multiple_of(1 << level)).collect();
        let (low, high) = (wavelet.low_pass().to_vec(), wavelet.high_pass());
        Ok(Self { dims: dims.to_vec(), padded, level, low, high })
    }

    /// The sizes of the coefficients: those of the image, rounded up to multiples of `2^level`.
    pub fn coefficient_dims(&self) -> &[usize] {
        &self.padded
    }

    /// Coefficients of an image.
    ///
    /// # Errors
    /// If the image is not of the sizes that were planned.
    pub fn forward<T: Real>(&self, image: &[Complex<T>]) -> Result<Vec<Complex<T>>> {
        expect_len("wavelet transform", "an image", &self.dims, image.len())?;
        let mut out = self.room();
        place(image, &self.dims, &self.padded, &vec![0; self.dims.len()], &mut out);
        self.analyse(&mut out, &mut [self.room(), self.room()]);
        Ok(out)
    }

    /// The image of coefficients: the inverse, which is the adjoint, of [`WaveletTransform::forward`].
    ///
    /// # Errors
    /// If the coefficients are not of the sizes [`WaveletTransform::coefficient_dims`].
    pub fn inverse<T: Real>(&self, coefficients: &[Complex<T>]) -> Result<Vec<Complex<T>>> {
        expect_len("wavelet transform", "coefficients", &self.padded, coefficients.len())?;
        let mut whole = coefficients.to_vec();
        self.synthesise(&mut whole, &mut [self.room(), self.room()]);
        let mut image = vec![Complex::default(); self.dims.iter().product()];
        take(&whole, &self.dims, &self.padded, &vec![0; self.dims.len()], &mut image);
        Ok(image)
    }

    fn room<T: Real>(&self) -> Vec<Complex<T>> {
        vec![Complex::default(); self.padded.iter().product()]
    }

    /// The sizes of what level `level` splits.
    fn sizes(&self, level: usize) -> Vec<usize> {
        self.padded.iter().map(|size| size >> level).collect()
    }

    /// Coefficients in place of a padded image.
    fn analyse<T: Real>(&self, data: &mut [Complex<T>], [a, b]: &mut [Vec<Complex<T>>; 2]) {
        for level in 0..self.level {
            let dims = self.sizes(level);
            let len = dims.iter().product();
            corner(&self.padded, &dims, |from, to, row| {
                a[to..to + row].copy_from_slice(&data[from..from + row]);
            });
            for axis in 0..dims.len() {
                self.split(&a[..len], &mut b[..len], &dims, axis);
                std::mem::swap(a, b);
            }
            corner(&self.padded, &dims, |to, from, row| {
                data[to..to + row].copy_from_slice(&a[from..from + row]);
            });
        }
    }

    /// Undoes [`WaveletTransform::analyse`].
    fn synthesise<T: Real>(&self, data: &mut [Complex<T>], [a, b]: &mut [Vec<Complex<T>>; 2]) {
        for level in (0..self.level).rev() {
            let dims = self.sizes(level);
            let len = dims.iter().product();
            corner(&self.padded, &dims, |from, to, row| {
                a[to..to + row].copy_from_slice(&data[from..from + row]);
            });
            for axis in (0..dims.len()).rev() {
                self.join(&a[..len], &mut b[..len], &dims, axis);
                std::mem::swap(a, b);
            }
            corner(&self.padded, &dims, |to, from, row| {
                data[to..to + row].copy_from_slice(&a[from..from + row]);
            });
        }
    }

    /// Low and high half bands along an axis: `half[k] = Σ_m taps[m] x[2k + m + 1 − F/2]`, around the edge.
    fn split<T: Real>(
        &self,
        x: &[Complex<T>],
        out: &mut [Complex<T>],
        dims: &[usize],
        axis: usize,
    ) {
        let (n, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
        let (half, taps) = (n / 2, self.taps());
        // of output `k` the first input, which lies `F/2 − 1` before `2k`
        let before = taps.len() / 2 - 1;
        let from = |k: usize, m: usize| (2 * k + m + before * (n - 1)) % n;
        let chunks = x.par_chunks(n * inner).zip(out.par_chunks_mut(n * inner));
        if inner == 1 {
            chunks.with_min_len((CHUNK / n).max(1)).for_each_init(Vec::new, |line, (x, out)| {
                line.clear();
                line.extend((0..n + taps.len() - 2).map(|m| x[from(0, m)]));
                let (low, high) = out.split_at_mut(half);
                for (k, (low, high)) in low.iter_mut().zip(high).enumerate() {
                    [*low, *high] = [Complex::default(); 2];
                    for (v, [l, h]) in line[2 * k..].iter().zip(&taps) {
                        *low = *low + v.scale(*l);
                        *high = *high + v.scale(*h);
                    }
                }
            });
            return;
        }
        chunks.for_each(|(x, out)| {
            let (low, high) = out.split_at_mut(half * inner);
            let rows = low.par_chunks_mut(inner).zip(high.par_chunks_mut(inner)).enumerate();
            rows.with_min_len((CHUNK / inner).max(1)).for_each(|(k, (low, high))| {
                low.fill(Complex::default());
                high.fill(Complex::default());
                for (m, [l, h]) in taps.iter().enumerate() {
                    let row = &x[from(k, m) * inner..][..inner];
                    vectorised(
                        #[inline(always)]
                        || {
                            for ((low, high), v) in low.iter_mut().zip(high.iter_mut()).zip(row) {
                                *low = *low + v.scale(*l);
                                *high = *high + v.scale(*h);
                            }
                        },
                    );
                }
            });
        });
    }

    /// Undoes [`WaveletTransform::split`]; being orthogonal, by its transpose.
    fn join<T: Real>(&self, x: &[Complex<T>], out: &mut [Complex<T>], dims: &[usize], axis: usize) {
        let (n, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
        let (half, taps) = (n / 2, self.taps());
        let before = taps.len() / 2 - 1;
        // of output `i` every second tap counts: tap `odd + 2u` with the `u`-th pair before the last
        let parts = |i: usize| ((i + before) % 2, (i + before) / 2);
        let pair = |last: usize, u: usize| (last + u * (half - 1)) % half;
        let count = taps.len() / 2;
        if inner == 1 {
            let lines = x.par_chunks(n).zip(out.par_chunks_mut(n));
            lines.with_min_len((CHUNK / n).max(1)).for_each(|(x, out)| {
                let (low, high) = x.split_at(half);
                for (i, out) in out.iter_mut().enumerate() {
                    let (odd, last) = parts(i);
                    let mut at = last % half;
                    *out = Complex::default();
                    for u in 0..count {
                        let [l, h] = taps[odd + 2 * u];
                        *out = *out + low[at].scale(l) + high[at].scale(h);
                        at = if at == 0 { half - 1 } else { at - 1 };
                    }
                }
            });
            return;
        }
        let rows = out.par_chunks_mut(inner).enumerate();
        rows.with_min_len((CHUNK / inner).max(1)).for_each(|(row, out)| {
            let (outer, (odd, last)) = (row / n, parts(row % n));
            let (low, high) = x[outer * n * inner..][..n * inner].split_at(half * inner);
            out.fill(Complex::default());
            for u in 0..count {
                let at = pair(last, u) * inner;
                let ([l, h], low, high) = (taps[odd + 2 * u], &low[at..], &high[at..]);
                vectorised(
                    #[inline(always)]
                    || {
                        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                            *out = *out + low.scale(l) + high.scale(h);
                        }
                    },
                );
            }
        });
    }

    /// The taps of both filters.
    fn taps<T: Real>(&self) -> Vec<[T; 2]> {
        self.low.iter().zip(&self.high).map(|(&l, &h)| [T::of(l), T::of(h)]).collect()
    }
}

/// Calls `copy` with the place of each row of the first `inner` of an array of the sizes `outer`, in it and by
/// itself, and its length.
fn corner(outer: &[usize], inner: &[usize], mut copy: impl FnMut(usize, usize, usize)) {
    let last = inner.len() - 1;
    let row = inner[last];
    for at in 0..inner[..last].iter().product() {
        let (mut rest, mut place, mut stride) = (at, 0, outer[last]);
        for d in (0..last).rev() {
            place += rest % inner[d] * stride;
            rest /= inner[d];
            stride *= outer[d];
        }
        copy(place, at * row, row);
    }
}

/// Shrinks the magnitude of all wavelet coefficients: the proximal map of their sum. With sizes that had to be
/// filled up, or shifted, it is that map within the larger frame.
#[derive(Clone, Debug)]
pub struct WaveletThreshold<T> {
    transform: WaveletTransform,
    images: usize,
    shift: Shift,
    passes: u64,
    rooms: [Vec<Complex<T>>; 3],
}

impl<T: Real> WaveletThreshold<T> {
    /// A threshold for `images` images of the sizes `dims`, shifted by up to `2^level` voxels.
    ///
    /// # Errors
    /// As [`WaveletTransform::new`], or if there are no images.
    pub fn new(
        wavelet: Wavelet,
        level: usize,
        images: usize,
        dims: &[usize],
        shift: Shift,
    ) -> Result<Self> {
        check_dims("wavelet threshold", images, dims)?;
        let transform = WaveletTransform::new(wavelet, level, dims)?;
        let rooms = [transform.room(), transform.room(), transform.room()];
        Ok(Self { transform, images, shift, passes: 0, rooms })
    }
}

impl<T: Real> Prox<T> for WaveletThreshold<T> {
    fn domain(&self) -> usize {
        self.images * self.transform.dims.iter().product::<usize>()
    }

    fn apply(&mut self, x: &mut [Complex<T>], threshold: f64) {
        assert_eq!(x.len(), self.domain(), "whole images");
        let WaveletTransform { dims, padded, level, .. } = &self.transform;
        let shift = self.shift.at(self.passes, &vec![1 << level; dims.len()]);
        self.passes += 1;
        let [data, a, b] = &mut self.rooms;
        let mut rooms = [std::mem::take(a), std::mem::take(b)];
        for image in x.chunks_mut(dims.iter().product()) {
            place(image, dims, padded, &shift, data);
            self.transform.analyse(data, &mut rooms);
            data.par_chunks_mut(CHUNK).for_each(|data| soft_threshold(data, threshold));
            self.transform.synthesise(data, &mut rooms);
            take(data, dims, padded, &shift, image);
        }
        [*a, *b] = rooms;
    }
}

/// Shortens each number by the threshold, to zero at least.
fn soft_threshold<T: Real>(values: &mut [Complex<T>], threshold: f64) {
    vectorised(
        #[inline(always)]
        || {
            for v in values {
                let length = (v.re.f64() * v.re.f64() + v.im.f64() * v.im.f64()).sqrt();
                let factor = if length > threshold { 1.0 - threshold / length } else { 0.0 };
                *v = v.scale(T::of(factor));
            }
        },
    );
}
