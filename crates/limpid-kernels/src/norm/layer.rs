//! Normalisation of rows with parameters per element of a row.

use super::moments::{Statistic, Statistics, of_planes, on_host};
use super::{Affine, composed};
use crate::Result;
use crate::activation::Activation;
use crate::buffer::{CHUNK, fill, rows_per_chunk};
use crate::cast::InHalf;
use crate::math::Real;
#[cfg(feature = "cuda")]
use crate::op::gradients_on_gpu;
use crate::op::{Array, Backward, Op, with_slices};
use crate::planes::{pieces, reduce, sums};
use crate::simd::vectorised;
use candle_core::{DType, Shape, Tensor};
use rayon::prelude::*;
use std::sync::OnceLock;

pub(super) const NAME: &str = "layer_norm";

/// Normalisation of rows.
pub(super) struct LayerNorm {
    /// The normalised dimensions: the shape of a parameter.
    pub dims: Vec<usize>,
    /// Elements of a row, their product.
    pub width: usize,
    pub eps: f64,
    /// Of the rows; set by the forward pass.
    pub statistics: OnceLock<Statistics>,
    pub affine: Affine,
}

impl Op for LayerNorm {
    const IN_HALF: InHalf = InHalf::Kept;

    fn name(&self) -> &'static str {
        NAME
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, width) = (args[0], self.width);
        let measured = || of_planes(x.data, width).into_iter().map(|m| m.statistic(self.eps));
        self.statistics.get_or_init(|| Statistics::Host(measured().collect()));
        let statistics = on_host(NAME, &self.statistics)?;
        let w = self.affine.weight(args).map(|w| w.data);
        let b = self.affine.bias(args).map(|b| b.data);
        let y = fill(NAME, x.data.len(), CHUNK, |start, out| {
            for (row, piece) in pieces(start, out.len(), width) {
                let Statistic { mean, rstd, .. } = statistics[row];
                let (mean, rstd) = (T::of(mean), T::of(rstd));
                let x = &x.data[start + piece.start..start + piece.end];
                let first = start + piece.start - row * width;
                let out = &mut out[piece];
                vectorised(
                    #[inline(always)]
                    || {
                        for (o, &x) in out.iter_mut().zip(x) {
                            *o = (x - mean) * rstd;
                        }
                        if let Some(w) = w {
                            for (o, &w) in out.iter_mut().zip(&w[first..]) {
                                *o *= w;
                            }
                        }
                        if let Some(b) = b {
                            for (o, &b) in out.iter_mut().zip(&b[first..]) {
                                *o += b;
                            }
                        }
                    },
                );
            }
        })?;
        Ok((y, x.dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::layer::forward(self, gpu, args)
    }

    #[cfg(feature = "cuda")]
    fn gradients_cuda<T: crate::gpu::Number>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        super::cuda::layer::gradients::<T>(self, at)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        if at.is_differentiated() {
            let rows = at.grad.elem_count() / self.width;
            let view = [rows, self.width];
            let view = composed::View {
                view: &view,
                shared: &[1],
                statistic: &[rows, 1],
                parameter: &[1, self.width],
                shape: &self.dims,
            };
            return composed::gradients(
                at,
                self.affine,
                Activation::Identity,
                view,
                None,
                self.eps,
            );
        }
        #[cfg(feature = "cuda")]
        if at.grad.device().is_cuda() {
            return gradients_on_gpu(self, at);
        }
        match at.grad.dtype() {
            DType::F64 => self.gradients::<f64>(at),
            _ => self.gradients::<f32>(at),
        }
    }
}

impl LayerNorm {
    fn gradients<T: Real>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let x = &at.args[0];
        let statistics = on_host(NAME, &self.statistics)?;
        let weight = match self.affine.weight(&at.args) {
            Some(w) => w.flatten_all()?,
            None => Tensor::ones(self.width, x.dtype(), x.device())?,
        };
        with_slices(NAME, [x, &at.grad, &weight], |[xs, grads, weight]: [&[T]; 3]| {
            let dx = if at.wanted[0] {
                let dx = self.data_gradient(statistics, xs, grads, weight)?;
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let (dw, db) = self.parameter_gradients(statistics, xs, grads);
            let tensor = |v: Vec<f64>| {
                Tensor::from_vec(
                    v.into_iter().map(T::of).collect::<Vec<T>>(),
                    &*self.dims,
                    x.device(),
                )
            };
            Ok(self.affine.gradients(vec![dx], tensor(dw)?, tensor(db)?))
        })
    }

    fn data_gradient<T: Real>(
        &self,
        statistics: &[Statistic],
        x: &[T],
        grads: &[T],
        weight: &[T],
    ) -> Result<Vec<T>> {
        let width = self.width;
        // per row: the sums of g w and of g w (x - mean)
        let of_rows = reduce(
            x.len() / width,
            width,
            |at| {
                let row = at.start / width;
                let mean = statistics[row].mean;
                let weight = &weight[at.start - row * width..at.end - row * width];
                sums([&x[at.clone()], &grads[at], weight], |[x, g, w]| {
                    let gw = g.f64() * w.f64();
                    [gw, gw * (x.f64() - mean)]
                })
            },
            |[a, b], [c, d]| [a + c, b + d],
        );
        fill(NAME, x.len(), CHUNK, |start, out| {
            for (row, piece) in pieces(start, out.len(), width) {
                let Statistic { mean, rstd, .. } = statistics[row];
                let [sum, product] = of_rows[row];
                let slope = T::of(-product * rstd * rstd * rstd / width as f64);
                let shift = T::of(-sum * rstd / width as f64);
                let (mean, rstd) = (T::of(mean), T::of(rstd));
                let first = start + piece.start - row * width;
                let at = start + piece.start..start + piece.end;
                let (x, g, w) = (&x[at.clone()], &grads[at], &weight[first..]);
                let out = &mut out[piece];
                vectorised(
                    #[inline(always)]
                    || {
                        for (((o, &x), &g), &w) in out.iter_mut().zip(x).zip(g).zip(w) {
                            *o = g * w * rstd + ((x - mean) * slope + shift);
                        }
                    },
                );
            }
        })
    }

    /// The gradients of weight and bias: sums over the rows, in fixed blocks of rows and columns.
    fn parameter_gradients<T: Real>(
        &self,
        statistics: &[Statistic],
        x: &[T],
        grads: &[T],
    ) -> (Vec<f64>, Vec<f64>) {
        const COLUMNS: usize = 1024;
        let (width, rows) = (self.width, x.len() / self.width);
        // tall blocks, and not more than 64, bound the memory for the partial sums
        let height = (4 * rows_per_chunk(width)).max(rows.div_ceil(64)).max(1);
        let across = width.div_ceil(COLUMNS);
        let parts: Vec<(Vec<f64>, Vec<f64>)> = (0..rows.div_ceil(height) * across)
            .into_par_iter()
            .map(|i| {
                let columns = i % across * COLUMNS..((i % across + 1) * COLUMNS).min(width);
                let block = i / across * height..((i / across + 1) * height).min(rows);
                let (mut dw, mut db) = (vec![0f64; columns.len()], vec![0f64; columns.len()]);
                for row in block {
                    let Statistic { mean, rstd, .. } = statistics[row];
                    let at = row * width + columns.start..row * width + columns.end;
                    let (x, g) = (&x[at.clone()], &grads[at]);
                    vectorised(
                        #[inline(always)]
                        || {
                            for ((w, &x), &g) in dw.iter_mut().zip(x).zip(g) {
                                *w += g.f64() * ((x.f64() - mean) * rstd);
                            }
                            for (b, &g) in db.iter_mut().zip(g) {
                                *b += g.f64();
                            }
                        },
                    );
                }
                (dw, db)
            })
            .collect();
        let (mut dw, mut db) = (vec![0f64; width], vec![0f64; width]);
        for (i, (w, b)) in parts.iter().enumerate() {
            let first = i % across * COLUMNS;
            for j in 0..w.len() {
                dw[first + j] += w[j];
                db[first + j] += b[j];
            }
        }
        (dw, db)
    }
}
