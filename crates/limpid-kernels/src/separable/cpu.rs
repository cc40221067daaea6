//! CPU arithmetic of the separable maps: one pass over memory per dimension that changes.

use super::AxisMap;
use crate::buffer::{CHUNK, fill};
use crate::math::Real;
use crate::op::Array;
use crate::planes::pieces;
use crate::simd::vectorised;
use crate::{Error, Result};
use std::borrow::Cow;
use std::cmp::Reverse;

/// Applies the maps to the trailing dimensions; returns the data and its dimensions.
pub(super) fn forward<T: Real>(
    op: &'static str,
    maps: &[AxisMap],
    rest: f64,
    x: Array<T>,
) -> Result<(Vec<T>, Vec<usize>)> {
    let mut dims = x.dims.to_vec();
    let mut data = Cow::Borrowed(x.data);
    let leading = dims.len() - maps.len();
    for axis in order(maps) {
        let map = &maps[axis];
        if map.is_identity() {
            continue;
        }
        let inner: usize = dims[leading + axis + 1..].iter().product();
        dims[leading + axis] = map.outputs();
        let len = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let len = len.ok_or_else(|| Error::argument(op, format!("{dims:?} is too large")))?;
        data = Cow::Owned(pass(op, &data, len, inner, map, T::of(rest))?);
    }
    Ok((data.into_owned(), dims))
}

/// The axes in the order that moves the least memory: first those that shrink, last those that
/// grow. The last dimension, the slowest, where there is least to do.
fn order(maps: &[AxisMap]) -> Vec<usize> {
    let mut axes: Vec<usize> = (0..maps.len()).collect();
    axes.sort_by_key(|&axis| {
        let (inputs, outputs) = (maps[axis].inputs, maps[axis].outputs());
        (
            outputs > inputs,
            if outputs > inputs { Reverse(axis) } else { Reverse(maps.len() - axis) },
        )
    });
    axes
}

/// One dimension: `x [outer, inputs, inner]` to `len` elements `[outer, outputs, inner]`.
fn pass<T: Real>(
    op: &'static str,
    x: &[T],
    len: usize,
    inner: usize,
    map: &AxisMap,
    rest: T,
) -> Result<Vec<T>> {
    let (inputs, outputs) = (map.inputs, map.outputs());
    let weight: Vec<T> = map.weight.iter().map(|&w| T::of(w)).collect();
    let gather = map.is_gather();
    fill(op, len, CHUNK, |start, out| {
        vectorised(
            #[inline(always)]
            || {
                if inner == 1 {
                    for (line, piece) in pieces(start, out.len(), outputs) {
                        let x = &x[line * inputs..(line + 1) * inputs];
                        let first = start + piece.start - line * outputs;
                        let out = &mut out[piece];
                        if gather {
                            for (o, &j) in out.iter_mut().zip(&map.index[first..]) {
                                *o = x[j];
                            }
                        } else {
                            along(out, x, &map.starts[first..], &map.index, &weight, rest);
                        }
                    }
                } else {
                    for (row, piece) in pieces(start, out.len(), inner) {
                        let (line, i) = (row / outputs, row % outputs);
                        let offset = start + piece.start - row * inner;
                        let n = piece.len();
                        let source = |t: usize| {
                            let at = (line * inputs + map.index[t]) * inner + offset;
                            (&x[at..at + n], weight[t])
                        };
                        let taps = map.starts[i]..map.starts[i + 1];
                        across(&mut out[piece], taps, source, rest);
                    }
                }
            },
        );
    })
}

/// Part of a line of the last dimension: one weighted sum per element.
#[inline(always)]
fn along<T: Real>(
    out: &mut [T],
    x: &[T],
    starts: &[usize],
    index: &[usize],
    weight: &[T],
    rest: T,
) {
    for (o, ends) in out.iter_mut().zip(starts.windows(2)) {
        let taps = index[ends[0]..ends[1]].iter().zip(&weight[ends[0]..ends[1]]);
        *o = if ends[0] == ends[1] {
            rest
        } else {
            taps.fold(T::zero(), |sum, (&j, &w)| sum + w * x[j])
        };
    }
}

/// A row that is a weighted sum of whole rows.
#[inline(always)]
fn across<'a, T: Real>(
    out: &mut [T],
    taps: std::ops::Range<usize>,
    source: impl Fn(usize) -> (&'a [T], T),
    rest: T,
) {
    let first = taps.start;
    match taps.len() {
        0 => out.fill(rest),
        1 if source(first).1 == T::one() => out.copy_from_slice(source(first).0),
        2 => {
            let ((a, wa), (b, wb)) = (source(first), source(first + 1));
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = wa * a + wb * b;
            }
        }
        _ => {
            let (a, wa) = source(first);
            for (o, &a) in out.iter_mut().zip(a) {
                *o = wa * a;
            }
            for t in first + 1..taps.end {
                let (a, wa) = source(t);
                for (o, &a) in out.iter_mut().zip(a) {
                    *o += wa * a;
                }
            }
        }
    }
}
