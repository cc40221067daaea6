//! Centred, orthonormal Fourier transforms of images, on rustfft.
//!
//! The frequency of index `j` is `j − ⌊N/2⌋`, as the position of voxel `n` is `n − ⌊N/2⌋`. Lines are turned by
//! half their length when they are copied to where they are transformed, so that nothing is shifted in a
//! pass of its own. What is zero or unwanted around the middle of an image is neither stored nor transformed.

mod filter;
mod lines;
#[cfg(test)]
mod tests;

pub(crate) use filter::Filter;

use crate::{Complex, Real};
use lines::{Lines, Span};
use rayon::prelude::*;
use rustfft::{Fft, FftDirection, FftPlanner};
use std::ops::Range;
use std::sync::Arc;

/// Numbers for which waking a thread is worth while.
const LEAST: usize = 1 << 13;

/// Transforms of images of one shape.
#[derive(Clone)]
pub struct CentredFft<T: Real> {
    dims: Vec<usize>,
    /// Forward and inverse, of each axis.
    plans: Vec<[Arc<dyn Fft<T>>; 2]>,
}

/// The middle of an axis, and the factors of what is read from it or written to it.
struct Middle<T> {
    range: Range<usize>,
    factors: Vec<T>,
}

impl<T: Real> CentredFft<T> {
    /// Plans transforms of images of the sizes `dims`.
    pub fn new(dims: &[usize]) -> Self {
        let mut planner = FftPlanner::new();
        let mut plan = |&len: &usize| {
            [FftDirection::Forward, FftDirection::Inverse].map(|way| planner.plan_fft(len, way))
        };
        Self { dims: dims.to_vec(), plans: dims.iter().map(&mut plan).collect() }
    }

    /// The sizes of an image.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Numbers of an image.
    pub fn pixels(&self) -> usize {
        self.dims.iter().product()
    }

    /// Transforms images `[any number, dims…]` in place.
    ///
    /// # Panics
    /// If the numbers are not those of whole images; so do the other transforms.
    pub fn forward(&self, data: &mut [Complex<T>]) {
        self.in_place(data, 0);
    }

    /// Undoes [`CentredFft::forward`].
    pub fn inverse(&self, data: &mut [Complex<T>]) {
        self.in_place(data, 1);
    }

    /// Puts images `[any number, inner…]` into the middle of zeros and transforms them to `out`.
    pub fn forward_padded(&self, images: &[Complex<T>], inner: &[usize], out: &mut [Complex<T>]) {
        self.forward_windowed(images, &ones(inner), out);
    }

    /// The middles, of the sizes `inner`, of the inverse transforms of `data`, whose numbers are lost.
    pub fn inverse_cropped(
        &self,
        data: &mut [Complex<T>],
        inner: &[usize],
        out: &mut [Complex<T>],
    ) {
        self.inverse_windowed(data, &ones(inner), out);
    }

    /// As [`CentredFft::forward_padded`], of images times the product of a window for each axis.
    pub(crate) fn forward_windowed(
        &self,
        images: &[Complex<T>],
        windows: &[Vec<T>],
        out: &mut [Complex<T>],
    ) {
        let middles = self.middles(windows);
        let (few, many) = (few(windows), self.pixels());
        let alone = expect_images([images.len(), few], [out.len(), many]);
        if few == 0 {
            return out.fill(Complex::default());
        }
        out.par_chunks_mut(many).zip(images.par_chunks(few)).for_each(|(out, image)| {
            self.rows_of(&middles, image, out, alone);
            for axis in (0..self.dims.len() - 1).rev() {
                self.columns(out, axis, 0, &middles, alone);
            }
        });
    }

    /// As [`CentredFft::inverse_cropped`], times the product of a window for each axis.
    pub(crate) fn inverse_windowed(
        &self,
        data: &mut [Complex<T>],
        windows: &[Vec<T>],
        out: &mut [Complex<T>],
    ) {
        let middles = self.middles(windows);
        let (few, many) = (few(windows), self.pixels());
        let alone = expect_images([out.len(), few], [data.len(), many]);
        if few == 0 {
            return;
        }
        data.par_chunks_mut(many).zip(out.par_chunks_mut(few)).for_each(|(data, out)| {
            for axis in 0..self.dims.len() - 1 {
                self.columns(data, axis, 1, &middles, alone);
            }
            self.rows_to(&middles, data, out, alone);
        });
    }

    fn in_place(&self, data: &mut [Complex<T>], way: usize) {
        let Some((&row, rest)) = self.dims.split_last() else { return };
        let pixels = self.pixels();
        if pixels == 0 {
            return;
        }
        let middles = self.middles(&ones(&self.dims));
        let alone = expect_images([data.len(), pixels], [data.len(), pixels]);
        data.par_chunks_mut(pixels).for_each(|image| {
            let (plan, all) = (&*self.plans[rest.len()][way], &middles[rest.len()]);
            let rows = image.par_chunks_mut(row).with_min_len(least(row, alone));
            rows.for_each_init(
                || lines::buffers(row, plan.get_inplace_scratch_len()),
                |[line, scratch], row| {
                    lines::load(row, &all.range, Some(&all.factors), line);
                    plan.process_with_scratch(line, scratch);
                    lines::store(line, &all.range, None, row);
                },
            );
            for axis in 0..rest.len() {
                self.columns(image, axis, way, &middles, alone);
            }
        });
    }

    /// The middles of the axes of which windows of these sizes are multiplied.
    fn middles(&self, windows: &[Vec<T>]) -> Vec<Middle<T>> {
        assert_eq!(self.dims.len(), windows.len(), "there is a size for each axis");
        let of = |(&len, window): (&usize, &Vec<T>)| {
            let factor = T::of((len as f64).sqrt().recip());
            let factors = window.iter().map(|&w| w * factor).collect();
            Middle { range: middle(window.len(), len), factors }
        };
        self.dims.iter().zip(windows).map(of).collect()
    }

    /// Transforms the rows of a small image to those of the whole one that cross its middle.
    fn rows_of(
        &self,
        middles: &[Middle<T>],
        image: &[Complex<T>],
        out: &mut [Complex<T>],
        alone: bool,
    ) {
        let (last, rest) = (self.dims.len() - 1, &middles[..self.dims.len() - 1]);
        let (plan, middle, row) = (&*self.plans[last][0], &middles[last], self.dims[last]);
        let rows = out.par_chunks_mut(row).enumerate().with_min_len(least(row, alone));
        rows.for_each_init(
            || lines::buffers(row, plan.get_inplace_scratch_len()),
            |[line, scratch], (at, out)| {
                let Some(from) = self.small(rest, at) else { return };
                let from = &image[from * middle.range.len()..][..middle.range.len()];
                lines::load(from, &middle.range, Some(&middle.factors), line);
                plan.process_with_scratch(line, scratch);
                lines::store(line, &(0..row), None, out);
            },
        );
    }

    /// Transforms rows back to those of a small image.
    fn rows_to(
        &self,
        middles: &[Middle<T>],
        data: &[Complex<T>],
        out: &mut [Complex<T>],
        alone: bool,
    ) {
        let (last, rest) = (self.dims.len() - 1, &middles[..self.dims.len() - 1]);
        let (plan, middle, row) = (&*self.plans[last][1], &middles[last], self.dims[last]);
        let rows = out.par_chunks_mut(middle.range.len()).enumerate();
        rows.with_min_len(least(row, alone)).for_each_init(
            || lines::buffers(row, plan.get_inplace_scratch_len()),
            |[line, scratch], (at, out)| {
                let from = &data[self.whole(rest, at) * row..][..row];
                lines::load(from, &(0..row), None, line);
                plan.process_with_scratch(line, scratch);
                lines::store(line, &middle.range, Some(&middle.factors), out);
            },
        );
    }

    /// Transforms an image along another than the last axis, where it crosses the middle of the axes before.
    fn columns(
        &self,
        data: &mut [Complex<T>],
        axis: usize,
        way: usize,
        middles: &[Middle<T>],
        alone: bool,
    ) {
        let (len, plan) = (self.dims[axis], &*self.plans[axis][way]);
        let inner: usize = self.dims[axis + 1..].iter().product();
        let Middle { range, factors } = &middles[axis];
        let all = Span { range: 0..len, base: 0, factors: None };
        let part = Span { range: range.clone(), base: 0, factors: Some(factors) };
        let (read, write) = if way == 0 { (part, all) } else { (all, part) };
        let scratch = plan.get_inplace_scratch_len();
        let lines = Lines { scratch, len, inner, rows: len, read, write };
        let wanted = |chunk: usize| self.small(&middles[..axis], chunk).is_some();
        lines.run(data, alone, wanted, |_, lines, scratch| {
            plan.process_with_scratch(lines, scratch);
        });
    }

    /// The number in the small image of what has the number `at` in the whole one, by their first axes.
    fn small(&self, middles: &[Middle<T>], mut at: usize) -> Option<usize> {
        let (mut place, mut stride) = (0, 1);
        for (middle, &size) in middles.iter().zip(&self.dims).rev() {
            let index = at % size;
            at /= size;
            if !middle.range.contains(&index) {
                return None;
            }
            place += (index - middle.range.start) * stride;
            stride *= middle.range.len();
        }
        Some(place)
    }

    /// Undoes [`CentredFft::small`].
    fn whole(&self, middles: &[Middle<T>], mut at: usize) -> usize {
        let (mut place, mut stride) = (0, 1);
        for (middle, &size) in middles.iter().zip(&self.dims).rev() {
            place += (at % middle.range.len() + middle.range.start) * stride;
            at /= middle.range.len();
            stride *= size;
        }
        place
    }
}

/// The smallest size from `least` on that has no prime factors above five.
pub(crate) fn fast_len(least: usize) -> usize {
    let smooth = |&n: &usize| {
        let mut rest = n;
        for factor in [2, 3, 5] {
            while rest.is_multiple_of(factor) {
                rest /= factor;
            }
        }
        rest == 1
    };
    (least.max(1)..).find(smooth).unwrap_or(least)
}

/// Windows that change nothing.
fn ones<T: Real>(sizes: &[usize]) -> Vec<Vec<T>> {
    sizes.iter().map(|&size| vec![T::one(); size]).collect()
}

/// Numbers of an image on which the windows lie.
fn few<T>(windows: &[Vec<T>]) -> usize {
    windows.iter().map(Vec::len).product()
}

/// How many lines of this length are a task: all if images are `alone` enough for all threads.
fn least(line: usize, alone: bool) -> usize {
    if alone { usize::MAX } else { (LEAST / line).max(1) }
}

/// Whether there are as many images as threads, so that each is left to one.
fn expect_images([small, few]: [usize; 2], [large, many]: [usize; 2]) -> bool {
    let images = large.checked_div(many).unwrap_or(0);
    assert!(large == images * many && small == images * few, "whole images are transformed");
    images >= rayon::current_num_threads()
}

/// Where `inner` numbers lie in the middle of `outer` ones: index `⌊inner/2⌋` at index `⌊outer/2⌋`.
fn middle(inner: usize, outer: usize) -> Range<usize> {
    assert!(inner <= outer, "the middle is not larger than the whole");
    let start = outer / 2 - inner / 2;
    start..start + inner
}

/// Puts images `[any number, inner…]` into the middle of zeros `[the same, outer…]`.
///
/// # Panics
/// If a size of `inner` is above that of `outer`, or the numbers are not those of as many images.
pub fn pad<T: Real>(
    images: &[Complex<T>],
    inner: &[usize],
    outer: &[usize],
    out: &mut [Complex<T>],
) {
    out.fill(Complex::default());
    rows(inner, outer, images.len(), out.len(), |from, to, len| {
        out[to..to + len].copy_from_slice(&images[from..from + len]);
    });
}

/// The middles `[any number, inner…]` of images `[the same, outer…]`.
///
/// # Panics
/// As [`pad`].
pub fn crop<T: Real>(
    images: &[Complex<T>],
    outer: &[usize],
    inner: &[usize],
    out: &mut [Complex<T>],
) {
    rows(inner, outer, out.len(), images.len(), |to, from, len| {
        out[to..to + len].copy_from_slice(&images[from..from + len]);
    });
}

/// Calls `copy` with the place of each row of the middles, in them and in the whole images, and its length.
fn rows(
    inner: &[usize],
    outer: &[usize],
    inner_len: usize,
    outer_len: usize,
    mut copy: impl FnMut(usize, usize, usize),
) {
    let sizes: [usize; 2] = [inner, outer].map(|dims| dims.iter().product());
    if inner_len == 0 {
        return;
    }
    let (images, rank) = (inner_len / sizes[0], inner.len());
    assert!(
        rank == outer.len() && inner_len == images * sizes[0] && outer_len == images * sizes[1]
    );
    let starts: Vec<usize> = inner.iter().zip(outer).map(|(&i, &o)| middle(i, o).start).collect();
    let row = inner[rank - 1];
    for at in 0..inner_len / row {
        let (mut rest, mut place, mut stride) = (at, starts[rank - 1], outer[rank - 1]);
        for d in (0..rank - 1).rev() {
            place += (rest % inner[d] + starts[d]) * stride;
            rest /= inner[d];
            stride *= outer[d];
        }
        copy(at * row, rest * sizes[1] + place, row);
    }
}
