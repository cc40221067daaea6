//! Factors of the frequencies of an image: `crop · F⁻¹ · mask · F · pad`.

use super::lines::{Lines, Span};
use super::{CentredFft, Middle, expect_images, middle, ones};
use crate::{Complex, Real};
use rayon::prelude::*;
use rustfft::Fft;
use std::ops::Range;
use std::sync::Arc;

/// A Hermitian convolution of images of one shape: real factors of the frequencies of larger ones. Their first
/// axis is transformed there and back at once, so that the larger image never exists as a whole.
pub(crate) struct Filter<T: Real> {
    /// Of the image that is larger in all axes but the first.
    rest: CentredFft<T>,
    middles: Vec<Middle<T>>,
    /// Forward and inverse, of the first axis.
    plans: [Arc<dyn Fft<T>>; 2],
    len: usize,
    range: Range<usize>,
    factors: Vec<T>,
    /// `[other axes, first axis]`, each line from its middle on.
    mask: Vec<T>,
}

impl<T: Real> Filter<T> {
    /// Plans the filter of images of the sizes `inner`, two or more, by a mask of the sizes of `fft`.
    ///
    /// # Panics
    /// If the mask has other sizes, or a size of `inner` is above that of `fft`.
    pub(crate) fn new(fft: &CentredFft<T>, inner: &[usize], mask: &[T]) -> Self {
        let (len, columns) = (fft.dims[0], fft.pixels() / fft.dims[0]);
        assert_eq!(mask.len(), len * columns, "there is a factor for each frequency");
        let mut turned = vec![T::zero(); mask.len()];
        turned.par_chunks_mut(len).enumerate().for_each(|(column, line)| {
            for (i, v) in line.iter_mut().enumerate() {
                *v = mask[(i + len / 2) % len * columns + column];
            }
        });
        let mut rest = fft.clone();
        rest.dims[0] = inner[0];
        let middles = rest.middles(&ones(inner));
        let factors = vec![T::of((len as f64).sqrt().recip()); inner[0]];
        let plans = fft.plans[0].clone();
        Self { rest, middles, plans, len, range: middle(inner[0], len), factors, mask: turned }
    }

    /// Numbers of an image.
    pub(crate) fn pixels(&self) -> usize {
        self.middles.iter().map(|m| m.range.len()).product()
    }

    /// Filters images `[any number, inner…]` to `out`.
    ///
    /// # Panics
    /// If the numbers are not those of whole images.
    pub(crate) fn apply(&self, images: &[Complex<T>], out: &mut [Complex<T>]) {
        let pixels = self.pixels();
        let alone = expect_images([images.len(), pixels], [out.len(), pixels]);
        out.par_chunks_mut(pixels).zip(images.par_chunks(pixels)).for_each_init(
            || vec![Complex::default(); self.rest.pixels()],
            |room, (out, image)| self.one(image, room, out, alone),
        );
    }

    fn one(
        &self,
        image: &[Complex<T>],
        room: &mut [Complex<T>],
        out: &mut [Complex<T>],
        alone: bool,
    ) {
        let (rest, middles) = (&self.rest, &self.middles);
        rest.rows_of(middles, image, room, alone);
        for axis in (1..rest.dims.len() - 1).rev() {
            rest.columns(room, axis, 0, middles, alone);
        }
        let span = || Span {
            range: self.range.clone(),
            base: self.range.start,
            factors: Some(&self.factors),
        };
        let lines = Lines {
            scratch: self.plans[0]
                .get_inplace_scratch_len()
                .max(self.plans[1].get_inplace_scratch_len()),
            len: self.len,
            inner: rest.dims[1..].iter().product(),
            rows: self.range.len(),
            read: span(),
            write: span(),
        };
        lines.run(
            room,
            alone,
            |_| true,
            |first, lines, scratch| {
                self.plans[0].process_with_scratch(lines, scratch);
                for (v, &factor) in lines.iter_mut().zip(&self.mask[first * self.len..]) {
                    *v = v.scale(factor);
                }
                self.plans[1].process_with_scratch(lines, scratch);
            },
        );
        for axis in 1..rest.dims.len() - 1 {
            rest.columns(room, axis, 1, middles, alone);
        }
        rest.rows_to(middles, room, out, alone);
    }
}
