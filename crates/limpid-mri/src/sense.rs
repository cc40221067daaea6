//! Images seen by several coils, and images that change from frame to frame.
//!
//! Each is an operator made of others: coils of frames of weighted samples are
//! `Sense<Subspace<`[`Weighted`](crate::Weighted)`<…>>>`.

use crate::error::expect_len;
use crate::real::wide;
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Parts whose images are held at a time.
const GROUP: usize = 8;

/// Numbers that one task takes.
const CHUNK: usize = 1 << 13;

/// Images through the sensitivities of coils: samples of coil `c` are those of the image times `S_c`
/// (Pruessmann et al., MRM 1999 and 2001).
///
/// Images are `[any number, dims…]`, as many as the operator of one coil takes (the coefficients of a
/// [`Subspace`], say); samples are `[coils, those of the operator]`.
#[derive(Clone, Debug)]
pub struct Sense<T, O> {
    operator: O,
    /// `[coils, pixels]`
    maps: Vec<Complex<T>>,
    pixels: usize,
}

impl<T: Real, O: Operator<T>> Sense<T, O> {
    /// Sees images through `maps` of shape `[coils, dims…]`; `operator` samples what one coil sees.
    ///
    /// # Errors
    /// If there is no map, the maps are not of the sizes `dims` or not finite, or the operator takes
    /// no whole number of images of those sizes.
    pub fn new(operator: O, coils: usize, dims: &[usize], maps: Vec<Complex<T>>) -> Result<Self> {
        const OP: &str = "sense";
        let pixels = dims.iter().fold(1usize, |all, &size| all.saturating_mul(size));
        if coils == 0 || pixels == 0 || maps.is_empty() {
            let got = format!("{coils} maps of {dims:?}");
            return Err(Error::shape(OP, "one coil map or more, none of them empty", got));
        }
        expect_len(OP, "coil maps", &[&[coils], dims].concat(), maps.len())?;
        if operator.domain() == 0 || !operator.domain().is_multiple_of(pixels) {
            let expected = format!("an operator on images of {dims:?}, the sizes of the coil maps");
            return Err(Error::shape(OP, expected, format!("{} values", operator.domain())));
        }
        if let Some(at) = maps.iter().position(|v| !(v.re.f64() + v.im.f64()).is_finite()) {
            let problem = format!(
                "the map of coil {} is {} at voxel {}; set maps to zero where nothing was measured",
                at / pixels,
                wide(maps[at]),
                at % pixels
            );
            return Err(Error::value(OP, problem));
        }
        Ok(Self { operator, maps, pixels })
    }

    /// Number of coils.
    pub fn coils(&self) -> usize {
        self.maps.len() / self.pixels
    }

    /// The maps, `[coils, dims…]`.
    pub fn maps(&self) -> &[Complex<T>] {
        &self.maps
    }

    /// What samples one coil.
    pub fn operator(&self) -> &O {
        &self.operator
    }

    /// What a coil sees of images.
    fn see(&self, coil: usize, images: &[Complex<T>], seen: &mut [Complex<T>]) {
        let map = &self.maps[coil * self.pixels..][..self.pixels];
        for (image, seen) in images.chunks(self.pixels).zip(seen.chunks_mut(self.pixels)) {
            multiply(image, map, seen);
        }
    }

    /// `images = Σ conj(S_c) · part(c)`.
    fn combine(&self, images: &mut [Complex<T>], part: impl Fn(usize, &mut [Complex<T>]) + Sync) {
        images.fill(Complex::default());
        in_groups(self.coils(), images.len(), part, |coil, seen| {
            let map = &self.maps[coil * self.pixels..][..self.pixels];
            for (image, seen) in images.chunks_mut(self.pixels).zip(seen.chunks(self.pixels)) {
                add_conjugate_product(image, map, seen);
            }
        });
    }
}

impl<T: Real, O: Operator<T>> Operator<T> for Sense<T, O> {
    fn domain(&self) -> usize {
        self.operator.domain()
    }

    fn range(&self) -> usize {
        self.coils() * self.operator.range()
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        let coils = samples.par_chunks_mut(self.operator.range().max(1)).enumerate();
        coils.for_each_init(
            || vec![Complex::default(); image.len()],
            |seen, (coil, samples)| {
                self.see(coil, image, seen);
                self.operator.forward(seen, samples);
            },
        );
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        let len = self.operator.range();
        self.combine(image, |coil, seen| {
            self.operator.adjoint(&samples[coil * len..][..len], seen);
        });
    }

    fn normal(&self, image: &[Complex<T>], result: &mut [Complex<T>]) {
        assert!(image.len() == self.domain() && result.len() == image.len(), "whole images");
        self.combine(result, |coil, seen| {
            let mut own = vec![Complex::default(); image.len()];
            self.see(coil, image, &mut own);
            self.operator.normal(&own, seen);
        });
    }
}

/// Images of frames that are sums of a few: frame `t` is `Σ_k basis[k, t] α_k`, and has an operator of its
/// own. Images are the coefficients `[K, those of an operator]`, samples those of all frames, one after
/// another (Liang, ISBI 2007; Tamir et al., MRM 2017).
#[derive(Clone, Debug)]
pub struct Subspace<T, O> {
    frames: Vec<O>,
    /// `[K, frames]`
    basis: Vec<Complex<T>>,
    /// Where the samples of each frame begin, and where the last end.
    starts: Vec<usize>,
    pixels: usize,
}

impl<T: Real, O: Operator<T>> Subspace<T, O> {
    /// Frames of images that the temporal `basis` `[K, frames]` makes.
    ///
    /// # Errors
    /// If there is no frame, the operators take images of different sizes, or the basis is empty, has
    /// no whole number of rows or values that are not finite.
    pub fn new(frames: Vec<O>, basis: Vec<Complex<T>>) -> Result<Self> {
        const OP: &str = "subspace";
        let Some(pixels) = frames.first().map(Operator::domain) else {
            return Err(Error::shape(OP, "one frame or more", "none"));
        };
        if let Some(at) = frames.iter().position(|frame| frame.domain() != pixels) {
            let expected = format!("images of {pixels} values for all frames");
            let got = format!("{} values for frame {at}", frames[at].domain());
            return Err(Error::shape(OP, expected, got));
        }
        if basis.is_empty() || !basis.len().is_multiple_of(frames.len()) {
            let expected = format!("a basis [K, {}]", frames.len());
            return Err(Error::shape(OP, expected, format!("{} values", basis.len())));
        }
        if let Some(at) = basis.iter().position(|v| !(v.re.f64() + v.im.f64()).is_finite()) {
            let (k, frame) = (at / frames.len(), at % frames.len());
            let problem =
                format!("function {k} of the basis is {} at frame {frame}", wide(basis[at]));
            return Err(Error::value(OP, problem));
        }
        let mut starts = vec![0];
        starts.extend(frames.iter().scan(0, |end, frame| {
            *end += frame.range();
            Some(*end)
        }));
        Ok(Self { frames, basis, starts, pixels })
    }

    /// Number of coefficients: functions of the basis.
    pub fn coefficients(&self) -> usize {
        self.basis.len() / self.frames.len()
    }

    /// The image of a frame.
    fn frame(&self, frame: usize, coefficients: &[Complex<T>], image: &mut [Complex<T>]) {
        image.fill(Complex::default());
        for (k, coefficient) in coefficients.chunks(self.pixels).enumerate() {
            add_scaled(image, coefficient, self.basis[k * self.frames.len() + frame]);
        }
    }

    /// `coefficients_k = Σ_t conj(basis[k, t]) · part(t)`.
    fn combine(
        &self,
        coefficients: &mut [Complex<T>],
        part: impl Fn(usize, &mut [Complex<T>]) + Sync,
    ) {
        coefficients.fill(Complex::default());
        in_groups(self.frames.len(), self.pixels, part, |frame, image| {
            for (k, coefficient) in coefficients.chunks_mut(self.pixels).enumerate() {
                let factor = self.basis[k * self.frames.len() + frame].conj();
                add_scaled(coefficient, image, factor);
            }
        });
    }
}

impl<T: Real, O: Operator<T>> Operator<T> for Subspace<T, O> {
    fn domain(&self) -> usize {
        self.coefficients() * self.pixels
    }

    fn range(&self) -> usize {
        self.starts[self.frames.len()]
    }

    fn forward(&self, image: &[Complex<T>], samples: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        let mut parts = Vec::with_capacity(self.frames.len());
        let mut rest = samples;
        for frame in &self.frames {
            let (part, others) = rest.split_at_mut(frame.range());
            parts.push(part);
            rest = others;
        }
        parts.into_par_iter().enumerate().for_each_init(
            || vec![Complex::default(); self.pixels],
            |own, (frame, samples)| {
                self.frame(frame, image, own);
                self.frames[frame].forward(own, samples);
            },
        );
    }

    fn adjoint(&self, samples: &[Complex<T>], image: &mut [Complex<T>]) {
        check_slices(self, image, samples);
        self.combine(image, |frame, own| {
            let samples = &samples[self.starts[frame]..self.starts[frame + 1]];
            self.frames[frame].adjoint(samples, own);
        });
    }

    fn normal(&self, image: &[Complex<T>], result: &mut [Complex<T>]) {
        assert!(image.len() == self.domain() && result.len() == image.len(), "whole images");
        self.combine(result, |frame, own| {
            let mut seen = vec![Complex::default(); self.pixels];
            self.frame(frame, image, &mut seen);
            self.frames[frame].normal(&seen, own);
        });
    }
}

/// Panics as [`Operator::forward`] says.
pub(crate) fn check_slices<T: Real>(
    operator: &impl Operator<T>,
    image: &[Complex<T>],
    samples: &[Complex<T>],
) {
    let (domain, range) = (operator.domain(), operator.range());
    assert!(image.len() == domain && samples.len() == range, "{domain} voxels, {range} samples");
}

/// Computes vectors of `len` numbers, some in parallel, and hands them to `take` in their order, so that sums
/// over them have the same bits for any number of threads.
pub(crate) fn in_groups<T: Real>(
    parts: usize,
    len: usize,
    compute: impl Fn(usize, &mut [Complex<T>]) + Sync,
    mut take: impl FnMut(usize, &[Complex<T>]),
) {
    if len == 0 {
        return;
    }
    let mut group = vec![Complex::default(); parts.min(GROUP) * len];
    for first in (0..parts).step_by(GROUP) {
        let group = &mut group[..(parts - first).min(GROUP) * len];
        group.par_chunks_mut(len).enumerate().for_each(|(i, part)| compute(first + i, part));
        group.chunks(len).enumerate().for_each(|(i, part)| take(first + i, part));
    }
}

/// `out = a · b`, element by element.
pub(crate) fn multiply<T: Real>(a: &[Complex<T>], b: &[Complex<T>], out: &mut [Complex<T>]) {
    let inputs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (a, b))| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a * b),
        );
    });
}

/// `out += conj(factor) · part`, element by element.
pub(crate) fn add_conjugate_product<T: Real>(
    out: &mut [Complex<T>],
    factor: &[Complex<T>],
    part: &[Complex<T>],
) {
    let inputs = factor.par_chunks(CHUNK).zip(part.par_chunks(CHUNK));
    out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (factor, part))| {
        vectorised(
            #[inline(always)]
            || {
                let parts = factor.iter().zip(part);
                out.iter_mut().zip(parts).for_each(|(o, (f, p))| *o = *o + f.conj() * p);
            },
        );
    });
}

/// `out += factor · part`.
fn add_scaled<T: Real>(out: &mut [Complex<T>], part: &[Complex<T>], factor: Complex<T>) {
    out.par_chunks_mut(CHUNK).zip(part.par_chunks(CHUNK)).for_each(|(out, part)| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(part).for_each(|(o, p)| *o = *o + factor * p),
        );
    });
}

#[cfg(test)]
pub(crate) mod tests;
