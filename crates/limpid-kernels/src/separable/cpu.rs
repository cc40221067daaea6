//! CPU arithmetic of the separable maps, in one pass over memory: a row of the output is a weighted
//! sum of rows of the input, mapped along the last dimension while it is in cache.

use super::AxisMap;
use super::run::Run;
use crate::buffer::{CHUNK, fill, rows_per_chunk};
use crate::interleave::{every, interleave};
use crate::math::Real;
use crate::op::Array;
use crate::planes::pieces;
use crate::prefetch::prefetch;
use crate::simd::vectorised;
use crate::{Error, Result};
use std::borrow::Cow;

/// With more input rows than this in an output row, a pass per dimension is less work.
const MOST_ROWS: usize = 16;

/// Applies the maps to the trailing dimensions; returns the data and its dimensions.
pub(super) fn forward<T: Real>(
    op: &'static str,
    maps: &[AxisMap],
    rest: f64,
    x: Array<T>,
) -> Result<(Vec<T>, Vec<usize>)> {
    let mut dims = x.dims.to_vec();
    let leading = dims.len() - maps.len();
    let mut data = Cow::Borrowed(x.data);
    let Some((last, outer)) = maps.split_last() else { return Ok((data.into_owned(), dims)) };
    // each outer dimension with where it is; those that shrink first
    let mut outer: Vec<(usize, &AxisMap)> = outer.iter().enumerate().collect();
    outer.sort_by_key(|(_, map)| map.outputs() > map.inputs);
    while outer.iter().map(|(_, map)| map.most_taps()).product::<usize>() > MOST_ROWS {
        let (axis, map) = outer.remove(0);
        let inner: usize = dims[leading + axis + 1..].iter().product();
        dims[leading + axis] = map.outputs();
        data = Cow::Owned(pass(op, &data, length(op, &dims)?, inner, map, T::of(rest))?);
    }
    let mut outputs = dims.clone();
    for &(axis, map) in &outer {
        outputs[leading + axis] = map.outputs();
    }
    outputs[dims.len() - 1] = last.outputs();
    let len = length(op, &outputs)?;
    if outer.iter().all(|(_, map)| map.is_identity()) && last.is_identity() {
        return Ok((data.into_owned(), outputs));
    }
    outer.sort_by_key(|(axis, _)| *axis);
    let rows = Rows { heights: &dims[leading..dims.len() - 1], maps: &outer };
    Ok((map_rows(op, &data, len, &rows, &Line::new(last, T::of(rest)))?, outputs))
}

fn length(op: &'static str, dims: &[usize]) -> Result<usize> {
    let len = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    len.ok_or_else(|| Error::argument(op, format!("{dims:?} is too large")))
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
    fill(op, len, CHUNK, |start, out| {
        let mut taps = Vec::new();
        for (row, piece) in pieces(start, out.len(), inner) {
            let (line, i) = (row / outputs, row % outputs);
            let offset = start + piece.start - row * inner;
            taps.clear();
            taps.extend(map.taps(i).map(|(j, w)| (j, T::of(w))));
            vectorised(
                #[inline(always)]
                || {
                    let source = |j: usize| &x[(line * inputs + j) * inner + offset..];
                    weighted_sum(&mut out[piece], &taps, source, rest);
                },
            );
        }
    })
}

/// Which rows of the input an output row is made of.
struct Rows<'a> {
    /// The sizes of the input in all mapped dimensions but the last.
    heights: &'a [usize],
    /// The maps of these dimensions, but for those that stay as they are.
    maps: &'a [(usize, &'a AxisMap)],
}

impl Rows<'_> {
    /// The input rows and weights of an output row, in place of what `taps` holds.
    fn taps<T: Real>(&self, mut row: usize, taps: &mut Vec<(usize, T)>) {
        taps.clear();
        taps.push((0, T::one()));
        let mut below = 1;
        for axis in (0..self.heights.len()).rev() {
            let map = self.maps.iter().find(|m| m.0 == axis).map(|m| m.1);
            let outputs = map.map_or(self.heights[axis], AxisMap::outputs);
            let i = row % outputs;
            row /= outputs;
            match map {
                Some(map) => multiply(taps, map.taps(i), below),
                None => taps.iter_mut().for_each(|tap| tap.0 += i * below),
            }
            below *= self.heights[axis];
        }
        taps.iter_mut().for_each(|tap| tap.0 += row * below);
    }
}

/// Every tap with every tap of one more dimension, in which one step is `below` rows.
fn multiply<T: Real>(
    taps: &mut Vec<(usize, T)>,
    mut more: impl Iterator<Item = (usize, f64)>,
    below: usize,
) {
    let Some((first, weight)) = more.next() else { return taps.clear() };
    let n = taps.len();
    for (j, v) in more {
        for i in 0..n {
            let (at, w) = taps[i];
            taps.push((at + j * below, w * T::of(v)));
        }
    }
    for (at, w) in &mut taps[..n] {
        *at += first * below;
        *w *= T::of(weight);
    }
}

/// So many elements of the input are asked for before they are needed.
const AHEAD: usize = 4096;

fn map_rows<T: Real>(
    op: &'static str,
    x: &[T],
    len: usize,
    rows: &Rows,
    line: &Line<T>,
) -> Result<Vec<T>> {
    let (inputs, outputs) = (line.map.inputs, line.map.outputs());
    let same = line.map.is_identity();
    let row = |j: usize| &x[j * inputs..(j + 1) * inputs];
    fill(op, len, outputs * rows_per_chunk(outputs), |start, out| {
        T::with_scratch(inputs + line.scratch(), |scratch| {
            let (sum, scratch) = scratch.split_at_mut(inputs);
            let (mut taps, mut asked) = (Vec::new(), 0);
            for (i, out) in out.chunks_mut(outputs).enumerate() {
                rows.taps(start / outputs + i, &mut taps);
                let last = taps.iter().map(|tap| tap.0).max().unwrap_or(0);
                let ask = ((last + 1) * inputs + AHEAD).min(x.len());
                prefetch(&x[asked.max(ask.saturating_sub(2 * AHEAD)).min(ask)..ask]);
                asked = ask;
                vectorised(
                    #[inline(always)]
                    || match *taps.as_slice() {
                        [] => out.fill(line.rest),
                        _ if same => weighted_sum(out, &taps, row, line.rest),
                        [(j, w)] if w == T::one() => line.apply(out, row(j), scratch),
                        _ => {
                            weighted_sum(sum, &taps, row, line.rest);
                            line.apply(out, sum, scratch);
                        }
                    },
                );
            }
        });
    })
}

/// The map of the last dimension.
struct Line<'a, T> {
    map: &'a AxisMap,
    weight: Vec<T>,
    rest: T,
    run: Option<Regular<T>>,
}

/// A run, and what it makes of a row: the inputs from `first` on are dealt out to `step` parts;
/// each of `period` parts of the output is a weighted sum of stretches of these; the parts of the
/// output are put together.
struct Regular<T> {
    run: Run,
    first: usize,
    /// Elements of a part of the input.
    length: usize,
    /// For each part of the output, where its summands start among the parts of the input.
    taps: Vec<Vec<(usize, T)>>,
}

impl<T: Real> Regular<T> {
    fn new(map: &AxisMap, run: Run) -> Self {
        let (start, repeats) = (run.outputs.start, run.outputs.len() / run.period);
        let inputs = |i: usize| map.taps(start + i).map(|(j, _)| j);
        let first = (0..run.period).flat_map(inputs).min().unwrap_or(0);
        let last = (0..run.period).flat_map(inputs).max().unwrap_or(0) + (repeats - 1) * run.step;
        let length = (last + 1 - first).div_ceil(run.step);
        let tap = |(j, w): (usize, f64)| {
            let j = j - first;
            (j % run.step * length + j / run.step, T::of(w))
        };
        let taps = (0..run.period).map(|i| map.taps(start + i).map(tap).collect()).collect();
        Self { run, first, length, taps }
    }

    /// Elements of all parts of input and output.
    fn scratch(&self) -> usize {
        self.run.step * self.length + self.run.outputs.len()
    }

    #[inline(always)]
    fn apply(&self, out: &mut [T], x: &[T], scratch: &mut [T], rest: T) {
        let Run { outputs, period, step } = &self.run;
        let out = &mut out[outputs.clone()];
        let repeats = out.len() / period;
        let (dealt, parts) = scratch.split_at_mut(step * self.length);
        let mut source = &x[self.first..];
        if *step > 1 {
            for (i, dealt) in dealt.chunks_mut(self.length).enumerate() {
                // the last parts may be shorter by one
                let length = (source.len().saturating_sub(i)).div_ceil(*step).min(dealt.len());
                every(&mut dealt[..length], source, *step, i);
            }
            source = dealt;
        }
        if let [taps] = self.taps.as_slice() {
            return weighted_sum(out, taps, |j| &source[j..], rest);
        }
        for (part, taps) in parts.chunks_mut(repeats).zip(&self.taps) {
            if as_it_is(taps).is_none() {
                weighted_sum(part, taps, |j| &source[j..], rest);
            }
        }
        interleave(out, *period, |k| match as_it_is(&self.taps[k]) {
            Some(j) => &source[j..],
            None => &parts[k * repeats..(k + 1) * repeats],
        });
    }
}

impl<'a, T: Real> Line<'a, T> {
    fn new(map: &'a AxisMap, rest: T) -> Self {
        let run = Run::of(map).map(|run| Regular::new(map, run));
        Self { map, weight: map.weight.iter().map(|&w| T::of(w)).collect(), rest, run }
    }

    fn scratch(&self) -> usize {
        self.run.as_ref().map_or(0, Regular::scratch)
    }

    #[inline(always)]
    fn apply(&self, out: &mut [T], x: &[T], scratch: &mut [T]) {
        let regular = match &self.run {
            Some(regular) => {
                regular.apply(out, x, &mut scratch[..regular.scratch()], self.rest);
                regular.run.outputs.clone()
            }
            None => 0..0,
        };
        for i in (0..regular.start).chain(regular.end..out.len()) {
            let taps = self.map.starts[i]..self.map.starts[i + 1];
            out[i] = if taps.is_empty() {
                self.rest
            } else {
                let taps = self.map.index[taps.clone()].iter().zip(&self.weight[taps]);
                taps.fold(T::zero(), |sum, (&j, &w)| sum + w * x[j])
            };
        }
    }
}

/// The only row of a sum that is nothing but this row.
#[inline(always)]
fn as_it_is<T: Real>(taps: &[(usize, T)]) -> Option<usize> {
    match *taps {
        [(j, w)] if w == T::one() => Some(j),
        _ => None,
    }
}

/// Each element of `out` is the weighted sum of those of some rows, which are as long or longer.
#[inline(always)]
fn weighted_sum<'a, T: Real>(
    out: &mut [T],
    taps: &[(usize, T)],
    row: impl Fn(usize) -> &'a [T],
    rest: T,
) {
    match *taps {
        [] => out.fill(rest),
        [(a, w)] if w == T::one() => out.copy_from_slice(&row(a)[..out.len()]),
        [a] => add_up(out, [a].map(|(a, w)| (row(a), w))),
        [a, b] => add_up(out, [a, b].map(|(a, w)| (row(a), w))),
        [a, b, c] => add_up(out, [a, b, c].map(|(a, w)| (row(a), w))),
        [a, b, c, d, ref more @ ..] => {
            add_up(out, [a, b, c, d].map(|(a, w)| (row(a), w)));
            for &(a, w) in more {
                for (o, &a) in out.iter_mut().zip(row(a)) {
                    *o += w * a;
                }
            }
        }
    }
}

#[inline(always)]
fn add_up<T: Real, const N: usize>(out: &mut [T], rows: [(&[T], T); N]) {
    let rows = rows.map(|(row, w)| (&row[..out.len()], w));
    for (i, o) in out.iter_mut().enumerate() {
        let mut sum = rows[0].1 * rows[0].0[i];
        for (row, w) in &rows[1..] {
            sum += *w * row[i];
        }
        *o = sum;
    }
}
