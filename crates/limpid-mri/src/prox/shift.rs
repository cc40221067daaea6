//! Cyclic shifts of images, from one proximal step to the next.

use crate::{Complex, Real};
use limpid_kernels::rng::Stream;
use rayon::prelude::*;

/// How far images are shifted, cyclically along each axis, while a proximal map is applied (Coifman and Donoho
/// 1995; Figueiredo and Nowak, IEEE TIP 2003).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shift {
    /// Not at all.
    #[default]
    None,
    /// Through all shifts in turn, the last axis first.
    Incrementing,
    /// At random.
    Random {
        /// Of the random numbers.
        seed: u64,
    },
}

impl Shift {
    /// The shift along each axis, below its period, at the `pass`-th use.
    pub(super) fn at(self, pass: u64, periods: &[usize]) -> Vec<usize> {
        let mut shift = vec![0; periods.len()];
        match self {
            Self::None => {}
            Self::Incrementing => {
                let mut rest = pass;
                for (shift, &period) in shift.iter_mut().zip(periods).rev() {
                    *shift = (rest % period as u64) as usize;
                    rest /= period as u64;
                }
            }
            Self::Random { seed } => {
                let mut draws = Stream::new(seed, "prox shift").op(pass).draws();
                for (shift, &period) in shift.iter_mut().zip(periods) {
                    *shift = draws.below(period as u64) as usize;
                }
            }
        }
        shift
    }
}

/// Copies an image of the sizes `inner` into zeros of the sizes `outer`, from `shift` on, around the edge.
pub(super) fn place<T: Real>(
    image: &[Complex<T>],
    inner: &[usize],
    outer: &[usize],
    shift: &[usize],
    out: &mut [Complex<T>],
) {
    if inner != outer {
        out.fill(Complex::default());
    }
    let row = inner[inner.len() - 1];
    for (at, image) in image.chunks(row).enumerate() {
        let (start, split) = target(at, inner, outer, shift);
        let (first, wrapped) = image.split_at(split.min(row));
        let last = outer[outer.len() - 1];
        out[start + last - split..][..first.len()].copy_from_slice(first);
        out[start..][..wrapped.len()].copy_from_slice(wrapped);
    }
}

/// Undoes [`place`].
pub(super) fn take<T: Real>(
    placed: &[Complex<T>],
    inner: &[usize],
    outer: &[usize],
    shift: &[usize],
    image: &mut [Complex<T>],
) {
    let row = inner[inner.len() - 1];
    image.par_chunks_mut(row).with_min_len(64).enumerate().for_each(|(at, image)| {
        let (start, split) = target(at, inner, outer, shift);
        let (first, wrapped) = image.split_at_mut(split.min(row));
        let last = outer[outer.len() - 1];
        first.copy_from_slice(&placed[start + last - split..][..first.len()]);
        wrapped.copy_from_slice(&placed[start..][..wrapped.len()]);
    });
}

/// Where the row of `outer` begins that takes row `at` of `inner`, and how much of it lies before the edge.
fn target(at: usize, inner: &[usize], outer: &[usize], shift: &[usize]) -> (usize, usize) {
    let last = inner.len() - 1;
    let (mut rest, mut start, mut stride) = (at, 0, outer[last]);
    for d in (0..last).rev() {
        start += (rest % inner[d] + shift[d]) % outer[d] * stride;
        rest /= inner[d];
        stride *= outer[d];
    }
    (start, outer[last] - shift[last])
}
