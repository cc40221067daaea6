//! Sums and updates of long vectors, cut at fixed places so that they have the same bits for any number of
//! threads.

use crate::{Complex, Real};
use limpid_kernels::vectorised;
use rayon::prelude::*;

/// Numbers that one task takes.
pub(super) const CHUNK: usize = 1 << 13;

/// Sums that are kept apart, so that they fill the lanes of a register.
const LANES: usize = 8;

/// `Re ⟨a, b⟩`, in f64.
pub(super) fn inner<T: Real>(a: &[Complex<T>], b: &[Complex<T>]) -> f64 {
    let parts = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(|(a, b)| inner_chunk(a, b));
    parts.collect::<Vec<_>>().into_iter().sum()
}

/// `‖a‖²`, in f64.
pub(super) fn norm_sqr<T: Real>(a: &[Complex<T>]) -> f64 {
    inner(a, a)
}

/// `Re ⟨a, b⟩` of parts that are not cut again.
pub(super) fn inner_chunk<T: Real>(a: &[Complex<T>], b: &[Complex<T>]) -> f64 {
    vectorised(
        #[inline(always)]
        || {
            let product =
                |a: Complex<T>, b: Complex<T>| a.re.f64() * b.re.f64() + a.im.f64() * b.im.f64();
            let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            let mut sums = [0.0; LANES];
            for (a, b) in a.iter().zip(b) {
                for i in 0..LANES {
                    sums[i] += product(a[i], b[i]);
                }
            }
            let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| product(a, b));
            sums.into_iter().chain(rest).sum()
        },
    )
}

/// Calls `f` with each number of `a` and its partner.
pub(super) fn update<T: Real>(
    a: &mut [Complex<T>],
    b: &[Complex<T>],
    f: impl Fn(&mut Complex<T>, Complex<T>) + Sync,
) {
    a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
        vectorised(
            #[inline(always)]
            || a.iter_mut().zip(b).for_each(|(a, &b)| f(a, b)),
        );
    });
}
