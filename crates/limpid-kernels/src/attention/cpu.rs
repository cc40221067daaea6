//! CPU arithmetic of the attention: blocks of queries, one after the other on each thread, and of each
//! a block of keys at a time, whose scores stay in the second-level cache. The softmax is made as they
//! come, with the largest score so far (Milakov & Gimelshein, arXiv:1805.02867; Dao et al.,
//! arXiv:2205.14135).

use super::NAME;
use super::sizes::{Broadcast, Sizes};
use crate::Result;
use crate::math::Real;
use crate::matrix::{BLOCK, Matrix, Right, product};
use crate::simd::vectorised;
use crate::softmax::{exponentials, lane_sum, largest};
use rayon::prelude::*;
use std::ops::Range;

/// Queries that share the scores of a block of keys.
const QUERIES: usize = 96;

/// The distance of rows of scores: no power of two, so that they do not compete for sets of a cache.
const STRIDE: usize = BLOCK + 16;

/// A broadcast bias.
#[derive(Clone, Copy)]
pub(super) struct BiasRows<'a, T> {
    pub data: &'a [T],
    pub broadcast: &'a Broadcast,
}

/// What the scores are made of. Rows of `k` and `v` may lie apart.
pub(super) struct Operands<'a, T> {
    pub sizes: &'a Sizes,
    pub scale: f64,
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
    pub k_stride: usize,
    pub v_stride: usize,
    pub bias: Option<BiasRows<'a, T>>,
}

impl<T: Real> Operands<'_, T> {
    fn k(&self, batch: usize) -> Matrix<'_, T> {
        Matrix::rows(&self.k[batch * self.sizes.keys * self.k_stride..], self.k_stride)
    }

    fn v(&self, batch: usize) -> Matrix<'_, T> {
        Matrix::rows(&self.v[batch * self.sizes.keys * self.v_stride..], self.v_stride)
    }

    fn q(&self, batch: usize, rows: &Range<usize>) -> Matrix<'_, T> {
        let Sizes { queries, depth, .. } = *self.sizes;
        Matrix::rows(&self.q[(batch * queries + rows.start) * depth..], depth)
    }

    /// `scale * q`, for some rows.
    fn scaled(&self, batch: usize, rows: &Range<usize>, out: &mut [T]) {
        let (q, scale) = (self.q(batch, rows).data, T::of(self.scale));
        out.iter_mut().zip(q).for_each(|(o, &q)| *o = scale * q);
    }

    /// `q kᵀ + bias` for some rows and keys.
    fn scores(
        &self,
        batch: usize,
        [rows, keys]: [&Range<usize>; 2],
        [q, out]: [&mut [T]; 2],
        k: &Right<T>,
    ) {
        let depth = self.sizes.depth;
        let q = Matrix::rows(q, depth);
        k.multiply(out, STRIDE, rows.len(), [keys.clone(), 0..depth], false, q);
        let Some(BiasRows { data, broadcast }) = self.bias else { return };
        let offset = broadcast.offset(batch);
        for (row, out) in rows.clone().zip(out.chunks_mut(STRIDE)) {
            let out = &mut out[..keys.len()];
            let first = offset + row * broadcast.row;
            let bias = &data[first + keys.start * broadcast.column..];
            if broadcast.column == 0 {
                out.iter_mut().for_each(|o| *o += bias[0]);
            } else {
                out.iter_mut().zip(bias).for_each(|(o, &b)| *o += b);
            }
        }
    }

    /// Queries that are computed together: equal blocks instead of a small last one.
    fn rows_at_once(&self) -> usize {
        let queries = self.sizes.queries.max(1);
        queries.div_ceil(queries.div_ceil(QUERIES)).next_multiple_of(8)
    }

    /// Blocks of keys.
    fn key_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let keys = self.sizes.keys;
        (0..keys).step_by(BLOCK).map(move |start| start..keys.min(start + BLOCK))
    }
}

/// What makes the softmax of a row of scores: `exp(score - largest) * factor`.
#[derive(Clone, Copy, Default)]
pub(super) struct RowScale {
    largest: f64,
    factor: f64,
}

/// The result and the scale of each row.
///
/// # Errors
/// As [`Right::new`].
pub(super) fn forward<T: Real>(x: &Operands<T>) -> Result<(Vec<T>, Vec<RowScale>)> {
    let Sizes { batch, queries, keys, depth, values } = *x.sizes;
    let mut y = vec![T::zero(); batch * queries * values];
    let mut scales = vec![RowScale::default(); batch * queries];
    let height = x.rows_at_once();
    let outputs = y.par_chunks_mut((queries * values).max(1));
    let per_batch = outputs.zip(scales.par_chunks_mut(queries.max(1))).enumerate();
    per_batch.try_for_each(|(b, (y, scales))| -> Result<()> {
        let k = Right::new(NAME, [depth, keys], x.k(b).transposed())?;
        let v = Right::new(NAME, [keys, values], x.v(b))?;
        let blocks = y.par_chunks_mut(height * values).zip(scales.par_chunks_mut(height));
        blocks.enumerate().for_each(|(i, (y, scales))| {
            let m = scales.len();
            let rows = i * height..i * height + m;
            T::with_scratch(m * (depth + STRIDE), |scratch| {
                let (q, scores) = scratch.split_at_mut(m * depth);
                x.scaled(b, &rows, q);
                let mut softmax = vec![Softmax::new(); m];
                for keys in x.key_blocks() {
                    x.scores(b, [&rows, &keys], [q, scores], &k);
                    let y_rows = y.chunks_mut(values);
                    for ((row, y), softmax) in
                        scores.chunks_mut(STRIDE).zip(y_rows).zip(&mut softmax)
                    {
                        softmax.take(&mut row[..keys.len()], y);
                    }
                    let (p, first) = (Matrix::rows(scores, STRIDE), keys.start == 0);
                    v.multiply(y, values, m, [0..values, keys], !first, p);
                }
                for ((y, scale), softmax) in y.chunks_mut(values).zip(scales).zip(softmax) {
                    let factor = T::one() / softmax.sum;
                    y.iter_mut().for_each(|y| *y *= factor);
                    *scale = RowScale { largest: softmax.largest.f64(), factor: factor.f64() };
                }
            });
        });
        Ok(())
    })?;
    Ok((y, scales))
}

/// The softmax of a row whose scores come block by block.
#[derive(Clone, Copy)]
struct Softmax<T> {
    /// The largest score so far.
    largest: T,
    /// The sum of `exp(score - largest)` so far.
    sum: T,
}

impl<T: Real> Softmax<T> {
    fn new() -> Self {
        Self { largest: T::LOWEST, sum: T::zero() }
    }

    /// Turns scores into `exp(score - largest)`, and what was summed with an earlier `largest`, here and
    /// in `y`, into what it is with this one.
    fn take(&mut self, scores: &mut [T], y: &mut [T]) {
        let in_scores = vectorised(
            #[inline(always)]
            || largest(scores),
        );
        let largest = if in_scores > self.largest { in_scores } else { self.largest };
        // where all scores are masked so far, any number will do
        let from = if largest == T::LOWEST { T::zero() } else { largest };
        let sum = exponentials(scores, from);
        if largest > self.largest && self.sum != T::zero() {
            let kept = (self.largest - from).exp();
            self.sum *= kept;
            y.iter_mut().for_each(|y| *y *= kept);
        }
        self.sum += sum;
        self.largest = largest;
    }
}

/// Gradients of the operands; rows of `k` and `v` are next to each other here.
pub(super) struct Gradients<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub bias: Option<Vec<T>>,
}

/// Work of one task: some rows of scores of some batch indices, one index after the other.
struct Task {
    batches: Vec<usize>,
    rows: Range<usize>,
}

/// Cuts the work by sizes alone, so that sums come out the same on any number of threads.
fn tasks<T: Real>(x: &Operands<T>, want_bias: bool) -> Vec<Task> {
    const ENOUGH: usize = 16;
    let Sizes { batch, queries, .. } = *x.sizes;
    if let (true, Some(bias)) = (want_bias, x.bias) {
        // a task adds up the gradient of one part of the bias; at most `ENOUGH` share a part
        let offsets: Vec<usize> = (0..batch).map(|b| bias.broadcast.offset(b)).collect();
        let mut order: Vec<usize> = (0..batch).collect();
        order.sort_by_key(|&b| offsets[b]);
        let per_task = |n: usize| n.div_ceil(ENOUGH);
        return order
            .chunk_by(|&a, &b| offsets[a] == offsets[b])
            .flat_map(|same| same.chunks(per_task(same.len())))
            .map(|batches| Task { batches: batches.to_vec(), rows: 0..queries })
            .collect();
    }
    // few batch indices are cut into ranges of rows of several blocks each
    let wanted = ENOUGH.div_ceil(batch.max(1));
    let height = queries.div_ceil(wanted).max(x.rows_at_once()).max(1);
    (0..batch)
        .flat_map(|b| {
            (0..queries).step_by(height).map(move |start| Task {
                batches: vec![b],
                rows: start..(start + height).min(queries),
            })
        })
        .collect()
}

/// The gradients from the result `y` and its gradient `g`.
///
/// # Errors
/// As [`Right::new`].
pub(super) fn backward<T: Real>(
    x: &Operands<T>,
    scales: &[RowScale],
    y: &[T],
    g: &[T],
    want_bias: bool,
) -> Result<Gradients<T>> {
    let Sizes { batch, queries, keys, depth, values } = *x.sizes;
    let tasks = tasks(x, want_bias);
    let parts: Vec<Gradients<T>> = tasks
        .par_iter()
        .map(|task| run(x, scales, y, g, want_bias, task))
        .collect::<Result<_>>()?;
    let mut all = Gradients {
        q: vec![T::zero(); batch * queries * depth],
        k: vec![T::zero(); batch * keys * depth],
        v: vec![T::zero(); batch * keys * values],
        bias: x.bias.filter(|_| want_bias).map(|b| vec![T::zero(); b.broadcast.len]),
    };
    for (task, part) in tasks.iter().zip(&parts) {
        for (i, &b) in task.batches.iter().enumerate() {
            let (len, first) = (task.rows.len() * depth, (b * queries + task.rows.start) * depth);
            all.q[first..first + len].copy_from_slice(&part.q[i * len..(i + 1) * len]);
            let (k, v) = (keys * depth, keys * values);
            add(&mut all.k[b * k..(b + 1) * k], &part.k[i * k..(i + 1) * k]);
            add(&mut all.v[b * v..(b + 1) * v], &part.v[i * v..(i + 1) * v]);
        }
        if let (Some(all), Some(part), Some(bias)) = (&mut all.bias, &part.bias, x.bias) {
            let first = task.batches.first().map_or(0, |&b| bias.broadcast.offset(b));
            add(&mut all[first..first + part.len()], part);
        }
    }
    Ok(all)
}

fn add<T: Real>(sum: &mut [T], terms: &[T]) {
    for (s, &t) in sum.iter_mut().zip(terms) {
        *s += t;
    }
}

fn run<T: Real>(
    x: &Operands<T>,
    scales: &[RowScale],
    y: &[T],
    g: &[T],
    want_bias: bool,
    task: &Task,
) -> Result<Gradients<T>> {
    let Sizes { queries, keys, depth, values, .. } = *x.sizes;
    let (n, height) = (task.batches.len(), x.rows_at_once());
    let mut part = Gradients {
        q: vec![T::zero(); n * task.rows.len() * depth],
        k: vec![T::zero(); n * keys * depth],
        v: vec![T::zero(); n * keys * values],
        bias: x.bias.filter(|_| want_bias).map(|b| {
            let Broadcast { row, column, .. } = *b.broadcast;
            vec![T::zero(); (queries.max(1) - 1) * row + (keys - 1) * column + 1]
        }),
    };
    let scale = T::of(x.scale);
    for (i, &b) in task.batches.iter().enumerate() {
        let k_right = Right::new(NAME, [keys, depth], x.k(b))?;
        let k_transposed = Right::new(NAME, [depth, keys], x.k(b).transposed())?;
        let v_transposed = Right::new(NAME, [values, keys], x.v(b).transposed())?;
        let dk = &mut part.k[i * keys * depth..(i + 1) * keys * depth];
        let dv = &mut part.v[i * keys * values..(i + 1) * keys * values];
        for start in task.rows.clone().step_by(height) {
            let rows = start..(start + height).min(task.rows.end);
            let m = rows.len();
            let outer = b * queries + rows.start;
            let (y, g) = (&y[outer * values..][..m * values], &g[outer * values..][..m * values]);
            let first = (i * task.rows.len() + start - task.rows.start) * depth;
            let dq = &mut part.q[first..first + m * depth];
            let levels: Vec<T> = y
                .chunks(values)
                .zip(g.chunks(values))
                .map(|(y, g)| lane_sum(y, g, |y, g| y * g))
                .collect();
            T::with_scratch(m * (depth + 2 * STRIDE), |scratch| {
                let (q, scratch) = scratch.split_at_mut(m * depth);
                let (p, ds) = scratch.split_at_mut(m * STRIDE);
                x.scaled(b, &rows, q);
                for keys in x.key_blocks() {
                    let (first, len) = (keys.start == 0, keys.len());
                    x.scores(b, [&rows, &keys], [q, p], &k_transposed);
                    let g_rows = Matrix::rows(g, values);
                    let columns = [keys.clone(), 0..values];
                    v_transposed.multiply(ds, STRIDE, m, columns, false, g_rows);
                    let score_rows = p.chunks_mut(STRIDE).zip(ds.chunks_mut(STRIDE));
                    for (r, (p, ds)) in score_rows.enumerate() {
                        score_gradients(
                            &mut p[..len],
                            &mut ds[..len],
                            scales[outer + r],
                            levels[r],
                        );
                    }
                    let p = Matrix::rows(p, STRIDE).transposed();
                    let dv = &mut dv[keys.start * values..keys.end * values];
                    product(dv, [len, values, m], true, T::one(), p, g_rows);
                    if let (Some(sum), Some(bias)) = (&mut part.bias, x.bias) {
                        add_bias(sum, bias.broadcast, [&rows, &keys], ds);
                    }
                    let ds = Matrix::rows(ds, STRIDE);
                    let dk = &mut dk[keys.start * depth..keys.end * depth];
                    product(dk, [len, depth, m], true, scale, ds.transposed(), x.q(b, &rows));
                    k_right.multiply(dq, depth, m, [0..depth, keys], !first, ds);
                }
            });
            dq.iter_mut().for_each(|dq| *dq *= scale);
        }
    }
    Ok(part)
}

/// Turns a row of scores into its softmax `p`, and the gradient of `p` into that of the scores,
/// `p (dp - level)`.
fn score_gradients<T: Real>(p: &mut [T], ds: &mut [T], scale: RowScale, level: T) {
    exponentials(p, T::of(scale.largest));
    let factor = T::of(scale.factor);
    vectorised(
        #[inline(always)]
        || {
            for (p, ds) in p.iter_mut().zip(ds) {
                *p *= factor;
                *ds = *p * (*ds - level);
            }
        },
    );
}

/// Adds the gradients of some rows and keys of scores to that of their part of the bias.
fn add_bias<T: Real>(
    sum: &mut [T],
    broadcast: &Broadcast,
    [rows, keys]: [&Range<usize>; 2],
    ds: &[T],
) {
    for (row, ds) in rows.clone().zip(ds.chunks(STRIDE)) {
        let ds = &ds[..keys.len()];
        let sum = &mut sum[row * broadcast.row + keys.start * broadcast.column..];
        if broadcast.column == 0 {
            sum[0] += lane_sum(ds, ds, |s, _| s);
        } else {
            add(&mut sum[..keys.len()], ds);
        }
    }
}
