//! CPU arithmetic of the attention: blocks of rows of scores, one after the other on each thread.

use super::sizes::{Broadcast, Sizes};
use crate::math::Real;
use crate::matrix::{Matrix, apart, product, product_apart};
use crate::simd::vectorised;
use crate::softmax::{lane_sum, largest};
use rayon::prelude::*;
use std::ops::Range;

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

    /// The distance of rows of scores.
    fn stride(&self) -> usize {
        apart(self.sizes.keys)
    }

    /// `scale * q kᵀ + bias` for some rows.
    fn scores(&self, batch: usize, rows: &Range<usize>, out: &mut [T]) {
        let Sizes { keys, depth, .. } = *self.sizes;
        let (q, k, stride) = (self.q(batch, rows), self.k(batch).transposed(), self.stride());
        product_apart(out, stride, [rows.len(), keys, depth], false, T::of(self.scale), q, k);
        let Some(BiasRows { data, broadcast }) = self.bias else { return };
        for (row, out) in rows.clone().zip(out.chunks_mut(stride)) {
            let out = &mut out[..keys];
            let bias = &data[broadcast.offsets[batch] + row * broadcast.row..];
            if broadcast.column == 0 {
                out.iter_mut().for_each(|o| *o += bias[0]);
            } else {
                out.iter_mut().zip(bias).for_each(|(o, &b)| *o += b);
            }
        }
    }

    /// Rows of scores that are computed together: up to 64, fewer if they are long.
    fn rows_at_once(&self) -> usize {
        let most = ((1 << 18) / self.sizes.keys).clamp(8, 64);
        // equal blocks instead of a small last one
        let queries = self.sizes.queries.max(1);
        queries.div_ceil(queries.div_ceil(most))
    }
}

/// What makes the softmax of a row of scores: `exp(score - largest) * factor`.
#[derive(Clone, Copy, Default)]
pub(super) struct RowScale {
    largest: f64,
    factor: f64,
}

/// The result and the scale of each row.
pub(super) fn forward<T: Real>(x: &Operands<T>) -> (Vec<T>, Vec<RowScale>) {
    let Sizes { batch, queries, keys, values, .. } = *x.sizes;
    let mut y = vec![T::zero(); batch * queries * values];
    let mut scales = vec![RowScale::default(); batch * queries];
    let (height, stride) = (x.rows_at_once(), x.stride());
    let outputs = y.par_chunks_mut((queries * values).max(1));
    let per_batch = outputs.zip(scales.par_chunks_mut(queries.max(1))).enumerate();
    per_batch.for_each(|(b, (y, scales))| {
        let blocks = y.par_chunks_mut(height * values).zip(scales.par_chunks_mut(height));
        blocks.enumerate().for_each(|(i, (y, scales))| {
            let rows = i * height..i * height + scales.len();
            T::with_scratch(rows.len() * stride, |scores| {
                x.scores(b, &rows, scores);
                for (scores, scale) in scores.chunks_mut(stride).zip(scales.iter_mut()) {
                    *scale = softmax_row(&mut scores[..keys]);
                }
                let p = Matrix::rows(scores, stride);
                product(y, [rows.len(), values, keys], false, T::one(), p, x.v(b));
            });
        });
    });
    (y, scales)
}

/// Turns a row of scores into its softmax.
fn softmax_row<T: Real>(scores: &mut [T]) -> RowScale {
    vectorised(
        #[inline(always)]
        || {
            let largest = largest(scores);
            for s in scores.iter_mut() {
                *s = (*s - largest).exp();
            }
            let sum = lane_sum(scores, scores, |s, _| s);
            let factor = T::one() / sum;
            for s in scores.iter_mut() {
                *s *= factor;
            }
            RowScale { largest: largest.f64(), factor: factor.f64() }
        },
    )
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
        let offsets = &bias.broadcast.offsets;
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
pub(super) fn backward<T: Real>(
    x: &Operands<T>,
    scales: &[RowScale],
    y: &[T],
    g: &[T],
    want_bias: bool,
) -> Gradients<T> {
    let Sizes { batch, queries, keys, depth, values } = *x.sizes;
    let tasks = tasks(x, want_bias);
    let parts: Vec<Gradients<T>> =
        tasks.par_iter().map(|task| run(x, scales, y, g, want_bias, task)).collect();
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
            let first = task.batches.first().map_or(0, |&b| bias.broadcast.offsets[b]);
            add(&mut all[first..first + part.len()], part);
        }
    }
    all
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
) -> Gradients<T> {
    let Sizes { queries, keys, depth, values, .. } = *x.sizes;
    let (n, height, stride) = (task.batches.len(), x.rows_at_once(), x.stride());
    let mut part = Gradients {
        q: vec![T::zero(); n * task.rows.len() * depth],
        k: vec![T::zero(); n * keys * depth],
        v: vec![T::zero(); n * keys * values],
        bias: x.bias.filter(|_| want_bias).map(|b| {
            let Broadcast { row, column, .. } = *b.broadcast;
            vec![T::zero(); (queries.max(1) - 1) * row + (keys - 1) * column + 1]
        }),
    };
    T::with_scratch(2 * height * stride, |scratch| {
        for (i, &b) in task.batches.iter().enumerate() {
            let dk = &mut part.k[i * keys * depth..(i + 1) * keys * depth];
            let dv = &mut part.v[i * keys * values..(i + 1) * keys * values];
            for start in task.rows.clone().step_by(height) {
                let rows = start..(start + height).min(task.rows.end);
                let m = rows.len();
                let (p, ds) = scratch[..2 * m * stride].split_at_mut(m * stride);
                let outer = b * queries + rows.start;
                let (y, g) =
                    (&y[outer * values..][..m * values], &g[outer * values..][..m * values]);
                x.scores(b, &rows, p);
                let g_rows = Matrix::rows(g, values);
                let v = x.v(b).transposed();
                product_apart(ds, stride, [m, keys, values], false, T::one(), g_rows, v);
                for r in 0..m {
                    let at = r * values..(r + 1) * values;
                    let level = lane_sum(&y[at.clone()], &g[at], |y, g| y * g);
                    let at = r * stride..r * stride + keys;
                    score_gradients(&mut p[at.clone()], &mut ds[at], scales[outer + r], level);
                }
                let p = Matrix::rows(p, stride);
                product(dv, [keys, values, m], true, T::one(), p.transposed(), g_rows);
                if let (Some(sum), Some(bias)) = (&mut part.bias, x.bias) {
                    add_bias(sum, bias.broadcast, &rows, ds, keys);
                }
                let scale = T::of(x.scale);
                let ds = Matrix::rows(ds, stride);
                let first = (i * task.rows.len() + start - task.rows.start) * depth;
                let dq = &mut part.q[first..first + m * depth];
                product(dq, [m, depth, keys], false, scale, ds, x.k(b));
                product(dk, [keys, depth, m], true, scale, ds.transposed(), x.q(b, &rows));
            }
        }
    });
    part
}

/// Turns a row of scores into its softmax `p`, and the gradient of `p` into that of the scores,
/// `p (dp - level)`.
fn score_gradients<T: Real>(p: &mut [T], ds: &mut [T], scale: RowScale, level: T) {
    let (largest, factor) = (T::of(scale.largest), T::of(scale.factor));
    vectorised(
        #[inline(always)]
        || {
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = (*p - largest).exp() * factor;
                *ds = *p * (*ds - level);
            }
        },
    );
}

/// Adds the gradients of some rows of scores to that of their part of the bias.
fn add_bias<T: Real>(
    sum: &mut [T],
    broadcast: &Broadcast,
    rows: &Range<usize>,
    ds: &[T],
    keys: usize,
) {
    for (row, ds) in rows.clone().zip(ds.chunks(ds.len() / rows.len())) {
        let ds = &ds[..keys];
        let sum = &mut sum[row * broadcast.row..];
        if broadcast.column == 0 {
            sum[0] += lane_sum(ds, ds, |s, _| s);
        } else {
            add(&mut sum[..keys], ds);
        }
    }
}
