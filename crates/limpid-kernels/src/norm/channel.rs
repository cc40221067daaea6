//! Normalisation with parameters per channel: by group of channels or over the batch.

use super::moments::Statistic;
use super::{Affine, composed};
use crate::buffer::{CHUNK, fill};
use crate::math::Real;
use crate::op::{Array, Backward, Op, with_slices};
use crate::planes::{pieces, reduce, sums};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{DType, Shape, Tensor};

/// Which planes of a tensor share a mean and a variance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    pub batch: usize,
    pub channels: usize,
    /// Elements of a plane.
    pub plane: usize,
    /// Groups of channels per batch item; `None` if a channel shares over the batch.
    groups: Option<usize>,
}

impl Sharing {
    pub(super) fn group(op: &'static str, x: &Tensor, groups: usize) -> Result<Self> {
        let sharing = Self { groups: Some(groups), ..Self::batch(op, x)? };
        if groups == 0 || !sharing.channels.is_multiple_of(groups) {
            let message =
                format!("`groups` is {groups}, but must divide the {} channels", sharing.channels);
            return Err(Error::Argument { op, message });
        }
        Ok(sharing)
    }

    pub(super) fn batch(op: &'static str, x: &Tensor) -> Result<Self> {
        match x.dims() {
            [batch, channels, spatial @ ..] => Ok(Self {
                batch: *batch,
                channels: *channels,
                plane: spatial.iter().product(),
                groups: None,
            }),
            other => Err(Error::shape(op, "x [N, C, s..]", other)),
        }
    }

    /// Number of different statistics.
    pub(super) fn statistics(&self) -> usize {
        self.groups.map_or(self.channels, |groups| self.batch * groups)
    }

    /// Elements that share a statistic.
    pub(super) fn count(&self) -> usize {
        match self.groups {
            Some(groups) => self.channels / groups * self.plane,
            None => self.batch * self.plane,
        }
    }

    /// The statistic of a plane.
    pub(super) fn of_plane(&self, plane: usize) -> usize {
        match self.groups {
            Some(groups) => plane / (self.channels / groups),
            None => plane % self.channels,
        }
    }

    /// The tensor with the shared elements in dimensions of their own: its shape, those dimensions,
    /// and the shape of a parameter.
    fn view(&self) -> ([usize; 4], Vec<usize>, [usize; 4]) {
        let groups = self.groups.unwrap_or(self.channels);
        let members = self.channels / groups;
        let shared = if self.groups.is_some() { vec![2, 3] } else { vec![0, 3] };
        ([self.batch, groups, members, self.plane], shared, [1, groups, members, 1])
    }
}

/// Normalisation with known statistics.
pub(super) struct Normalise {
    pub name: &'static str,
    pub sharing: Sharing,
    pub statistics: Vec<Statistic>,
    pub eps: f64,
    /// Whether the statistics are constants, else they depend on `x`.
    pub fixed: bool,
    pub affine: Affine,
}

impl Op for Normalise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (x, plane) = (args[0], self.sharing.plane);
        let (w, b) = (self.affine.weight(args), self.affine.bias(args));
        let y = fill(self.name, x.data.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let c = p % self.sharing.channels;
                let Statistic { mean, rstd } = self.statistics[self.sharing.of_plane(p)];
                let mean = T::of(mean);
                let scale = T::of(w.map_or(1.0, |w| w.data[c].f64()) * rstd);
                let shift = b.map_or(T::zero(), |b| b.data[c]);
                let x = &x.data[start + piece.start..start + piece.end];
                let out = &mut out[piece];
                vectorised(
                    #[inline(always)]
                    || {
                        for (o, &x) in out.iter_mut().zip(x) {
                            *o = (x - mean) * scale + shift;
                        }
                    },
                );
            }
        })?;
        Ok((y, x.dims.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        if at.is_differentiated() {
            let (view, shared, parameter) = self.sharing.view();
            let given =
                self.fixed.then(|| self.statistics.iter().map(|s| (s.mean, s.rstd)).unzip());
            let view = composed::View {
                view: &view,
                shared: &shared,
                parameter: &parameter,
                shape: &[self.sharing.channels],
            };
            return composed::gradients(at, self.affine, view, given, self.eps);
        }
        match at.grad.dtype() {
            DType::F64 => self.gradients::<f64>(at),
            _ => self.gradients::<f32>(at),
        }
    }
}

impl Normalise {
    fn gradients<T: Real>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let Sharing { channels, plane, .. } = self.sharing;
        let x = &at.args[0];
        let weight = match self.affine.weight(&at.args) {
            Some(w) => w.to_dtype(DType::F64)?.to_vec1::<f64>()?,
            None => vec![1.0; channels],
        };
        with_slices(self.name, [x, &at.grad], |[xs, grads]: [&[T]; 2]| {
            // per plane: the sums of g and of g (x - mean)
            let of_planes = reduce(
                xs.len() / plane.max(1),
                plane,
                |at| {
                    let mean = self.statistics[self.sharing.of_plane(at.start / plane)].mean;
                    sums([&xs[at.clone()], &grads[at]], |[x, g]| {
                        [g.f64(), g.f64() * (x.f64() - mean)]
                    })
                },
                |[a, b], [c, d]| [a + c, b + d],
            );
            let mut shared = vec![[0f64; 2]; self.statistics.len()];
            let (mut dw, mut db) = (vec![0f64; channels], vec![0f64; channels]);
            for (p, [g, gx]) in of_planes.iter().enumerate() {
                let (c, s) = (p % channels, self.sharing.of_plane(p));
                dw[c] += gx * self.statistics[s].rstd;
                db[c] += g;
                shared[s][0] += g * weight[c];
                shared[s][1] += gx * weight[c];
            }
            let dx = if at.wanted[0] {
                let dx = self.data_gradient(xs, grads, &weight, &shared)?;
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let vector = |v: Vec<f64>| {
                Tensor::from_vec(v.into_iter().map(T::of).collect::<Vec<T>>(), channels, x.device())
            };
            Ok(self.affine.gradients(dx, vector(dw)?, vector(db)?))
        })
    }

    fn data_gradient<T: Real>(
        &self,
        x: &[T],
        grads: &[T],
        weight: &[f64],
        shared: &[[f64; 2]],
    ) -> Result<Vec<T>> {
        let Sharing { channels, plane, .. } = self.sharing;
        let count = self.sharing.count() as f64;
        fill(self.name, x.len(), CHUNK, |start, out| {
            for (p, piece) in pieces(start, out.len(), plane) {
                let s = self.sharing.of_plane(p);
                let Statistic { mean, rstd } = self.statistics[s];
                let [sum, product] = if self.fixed { [0.0; 2] } else { shared[s] };
                let scale = T::of(weight[p % channels] * rstd);
                let slope = T::of(-product * rstd * rstd * rstd / count);
                let shift = T::of(-sum * rstd / count);
                let mean = T::of(mean);
                let at = start + piece.start..start + piece.end;
                let (x, g, out) = (&x[at.clone()], &grads[at], &mut out[piece]);
                vectorised(
                    #[inline(always)]
                    || {
                        for ((o, &x), &g) in out.iter_mut().zip(x).zip(g) {
                            *o = g * scale + ((x - mean) * slope + shift);
                        }
                    },
                );
            }
        })
    }
}
