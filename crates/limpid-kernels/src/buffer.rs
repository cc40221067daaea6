//! Output buffers that several threads fill, in fixed chunks, without a pass that only zeroes them.

#![allow(unsafe_code)] // declares memory initialised once it has been written

use crate::math::Real;
use crate::simd::vectorised;
use crate::{Error, Result};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Elements that one task computes: 64 kB of f32, long against the cost of a task, short against
/// the caches. A constant, so that no sum depends on the number of threads.
pub(crate) const CHUNK: usize = 16 * 1024;

/// How many whole rows of `row` elements make about a [`CHUNK`]; at least one.
pub(crate) fn rows_per_chunk(row: usize) -> usize {
    (CHUNK / row.max(1)).max(1)
}

/// A buffer of `len` elements made by `f(start, chunk)`, called in parallel for consecutive chunks
/// of at most `chunk` elements. A chunk is zero when `f` receives it.
///
/// # Errors
/// [`Error::Argument`] if there is not enough memory.
pub(crate) fn fill<T: Real>(
    op: &'static str,
    len: usize,
    chunk: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) -> Result<Vec<T>> {
    let chunk = chunk.max(1);
    let filled = |data: &mut [MaybeUninit<T>]| {
        data.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| {
            // zeroed here, while the part is about to enter the cache anyway
            part.fill(MaybeUninit::new(T::zero()));
            f(i * chunk, initialised(part));
        });
    };
    // SAFETY: the chunks cover the slice.
    unsafe { build(op, len, filled) }
}

/// As [`fill`], but a chunk is not zeroed first: that costs half as much again as a simple loop.
///
/// # Errors
/// As [`fill`].
///
/// # Safety
/// `f` writes every element of the chunk.
pub(crate) unsafe fn fill_unset<T: Real>(
    op: &'static str,
    len: usize,
    chunk: usize,
    f: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Result<Vec<T>> {
    let chunk = chunk.max(1);
    let filled = |data: &mut [MaybeUninit<T>]| {
        data.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| f(i * chunk, part));
    };
    // SAFETY: the chunks cover the slice, the caller vouches for its function.
    unsafe { build(op, len, filled) }
}

/// `f` of every element.
///
/// # Errors
/// As [`fill`].
pub(crate) fn map<T: Real>(op: &'static str, x: &[T], f: impl Fn(T) -> T + Sync) -> Result<Vec<T>> {
    let filled = |data: &mut [MaybeUninit<T>]| {
        data.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
            vectorised(
                #[inline(always)]
                || {
                    for (o, &x) in out.iter_mut().zip(x) {
                        o.write(f(x));
                    }
                },
            );
        });
    };
    // SAFETY: the source is as long as the result.
    unsafe { build(op, x.len(), filled) }
}

/// `f` of every pair of elements of two slices of the same length.
///
/// # Errors
/// As [`fill`].
pub(crate) fn map2<T: Real>(
    op: &'static str,
    x: &[T],
    y: &[T],
    f: impl Fn(T, T) -> T + Sync,
) -> Result<Vec<T>> {
    if x.len() != y.len() {
        return Err(Error::shape(op, format!("{} elements", x.len()), y.len()));
    }
    let filled = |data: &mut [MaybeUninit<T>]| {
        let sources = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK));
        data.par_chunks_mut(CHUNK).zip(sources).for_each(|(out, (x, y))| {
            vectorised(
                #[inline(always)]
                || {
                    for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
                        o.write(f(x, y));
                    }
                },
            );
        });
    };
    // SAFETY: both sources are as long as the result.
    unsafe { build(op, x.len(), filled) }
}

/// Memory for `len` elements, written by `f`.
///
/// # Errors
/// As [`fill`].
///
/// # Safety
/// `f` writes all of it.
pub(crate) unsafe fn build<T>(
    op: &'static str,
    len: usize,
    f: impl FnOnce(&mut [MaybeUninit<T>]),
) -> Result<Vec<T>> {
    let mut data: Vec<T> = reserved(op, len)?;
    f(&mut data.spare_capacity_mut()[..len]);
    // SAFETY: the capacity was reserved, and the caller vouches for the function.
    unsafe { data.set_len(len) };
    Ok(data)
}

/// Several buffers of these lengths, written by one `f`.
///
/// # Errors
/// As [`fill`].
///
/// # Safety
/// `f` writes all of them.
pub(crate) unsafe fn build_all<T>(
    op: &'static str,
    lens: &[usize],
    f: impl FnOnce(Vec<&mut [MaybeUninit<T>]>),
) -> Result<Vec<Vec<T>>> {
    let all = lens.iter().map(|&len| reserved(op, len));
    let mut all: Vec<Vec<T>> = all.collect::<Result<_>>()?;
    let spare = all.iter_mut().zip(lens);
    f(spare.map(|(data, &len)| &mut data.spare_capacity_mut()[..len]).collect());
    for (data, &len) in all.iter_mut().zip(lens) {
        // SAFETY: as in `build`.
        unsafe { data.set_len(len) };
    }
    Ok(all)
}

/// An empty buffer with room for `len` elements.
fn reserved<T>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    if data.try_reserve_exact(len).is_err() {
        let message = format!("not enough memory for an output of {len} elements");
        return Err(Error::Argument { op, message });
    }
    Ok(data)
}

/// A slice whose every element was just written.
fn initialised<T: Real>(part: &mut [MaybeUninit<T>]) -> &mut [T] {
    // SAFETY: the only caller fills `part` in the line before.
    unsafe { part.assume_init_mut() }
}
