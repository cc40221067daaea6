//! Normalisation with parameters per channel, and a pointwise function of it: by group of channels
//! or over the batch.
//!
//! Nothing but `x` and the statistics is kept for the backward pass, which computes the argument of
//! the function again: that costs less than memory to write it to and read it from.

#![allow(unsafe_code)] // results are written to memory that is not zeroed first

use super::moments::Statistic;
use super::{Affine, composed};
use crate::activation::{Activation, Function, Visit};
use crate::buffer::{CHUNK, fill_unset};
use crate::math::Real;
use crate::op::{Array, Backward, Op, with_slices};
use crate::planes::{Sums, pieces, reduce};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{DType, Shape, Tensor};
use std::mem::MaybeUninit;

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
    /// and the shape of a parameter per channel.
    fn view(&self) -> ([usize; 4], Vec<usize>, [usize; 4]) {
        let groups = self.groups.unwrap_or(self.channels);
        let members = self.channels / groups;
        let shared = if self.groups.is_some() { vec![2, 3] } else { vec![0, 3] };
        ([self.batch, groups, members, self.plane], shared, [1, groups, members, 1])
    }
}

/// Normalisation with known statistics, and a function of what comes of it.
pub(super) struct Normalise {
    pub name: &'static str,
    pub sharing: Sharing,
    pub statistics: Vec<Statistic>,
    pub eps: f64,
    /// Whether the statistics are constants, else they depend on `x`.
    pub fixed: bool,
    pub affine: Affine,
    pub activation: Activation,
}

impl Op for Normalise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let x = args[0];
        let lines = self.lines(
            self.affine.weight(args).map(|w| w.data),
            self.affine.bias(args).map(|b| b.data),
        );
        let values = |start: usize, out: &mut [MaybeUninit<T>]| {
            for (p, piece) in pieces(start, out.len(), self.sharing.plane) {
                let x = &x.data[start + piece.start..start + piece.end];
                self.activation.visit(Value { line: lines(p), x, out: &mut out[piece] });
            }
        };
        // SAFETY: the pieces are the whole chunk, and `Value` writes all of a piece.
        let y = unsafe { fill_unset(self.name, x.data.len(), CHUNK, values) }?;
        Ok((y, x.dims.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        if at.is_differentiated() {
            return self.composed(at);
        }
        match at.grad.dtype() {
            DType::F64 => self.gradients::<f64>(at),
            _ => self.gradients::<f32>(at),
        }
    }
}

impl Normalise {
    fn composed(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (view, shared, statistic) = self.sharing.view();
        let mut parameter = statistic;
        let shape = self.affine.weight(&at.args).or(self.affine.bias(&at.args));
        let shape = shape.map_or(vec![self.sharing.channels], |t| t.dims().to_vec());
        if shape.len() == 2 {
            parameter[0] = self.sharing.batch;
        }
        let given = self.fixed.then(|| self.statistics.iter().map(|s| (s.mean, s.rstd)).unzip());
        let view = composed::View {
            view: &view,
            shared: &shared,
            statistic: &statistic,
            parameter: &parameter,
            shape: &shape,
        };
        composed::gradients(at, self.affine, self.activation, view, given, self.eps)
    }

    /// What each plane goes through before the function.
    fn lines<'a, T: Real>(
        &'a self,
        weight: Option<&'a [T]>,
        bias: Option<&'a [T]>,
    ) -> impl Fn(usize) -> Line<T> + 'a {
        move |p| {
            let Statistic { mean, rstd } = self.statistics[self.sharing.of_plane(p)];
            let weight = weight.map_or(1.0, |w| w[p % w.len()].f64());
            let shift = bias.map_or(T::zero(), |b| b[p % b.len()]);
            Line { mean: T::of(mean), scale: T::of(weight * rstd), shift }
        }
    }

    fn gradients<T: Real>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        // the operands there are, and x in place of those that are not
        let x = &at.args[0];
        let (w, b) = (self.affine.weight(&at.args), self.affine.bias(&at.args));
        let operands = [x, &at.grad, w.unwrap_or(x), b.unwrap_or(x)];
        with_slices(self.name, operands, |[xs, grads, weight, bias]: [&[T]; 4]| {
            let weight = w.map(|_| weight);
            let lines = self.lines(weight, b.map(|_| bias));
            let shape = w.or(b).map_or(Shape::from(self.sharing.channels), |t| t.shape().clone());
            let mut sums = vec![[0f64; 2]; self.statistics.len()];
            let (mut dw, mut db) = (vec![0f64; shape.elem_count()], vec![0f64; shape.elem_count()]);
            if !self.fixed || at.wanted[1..].contains(&true) {
                for (p, [g, gx]) in self.plane_sums(xs, grads, &lines).into_iter().enumerate() {
                    let (parameter, s) = (p % dw.len(), self.sharing.of_plane(p));
                    dw[parameter] += gx * self.statistics[s].rstd;
                    db[parameter] += g;
                    if !self.fixed {
                        let weight = weight.map_or(1.0, |w| w[parameter].f64());
                        sums[s][0] += g * weight;
                        sums[s][1] += gx * weight;
                    }
                }
            }
            let dx = if at.wanted[0] {
                let dx = self.data_gradient(xs, grads, &sums, &lines)?;
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let parameter = |v: Vec<f64>| {
                let v: Vec<T> = v.into_iter().map(T::of).collect();
                Tensor::from_vec(v, &shape, x.device())
            };
            Ok(self.affine.gradients(dx, parameter(dw)?, parameter(db)?))
        })
    }

    /// For each plane the sums of g and of `g (x - mean)`, where g is the gradient of what goes into
    /// the function.
    fn plane_sums<T: Real>(
        &self,
        x: &[T],
        grads: &[T],
        lines: &(impl Fn(usize) -> Line<T> + Sync),
    ) -> Vec<[f64; 2]> {
        let plane = self.sharing.plane;
        reduce(
            x.len() / plane.max(1),
            plane,
            |at| {
                let p = at.start / plane;
                let mean = self.statistics[self.sharing.of_plane(p)].mean;
                let (x, g) = (&x[at.clone()], &grads[at]);
                self.activation.visit(GradientSums { line: lines(p), mean, x, g })
            },
            |[a, b], [c, d]| [a + c, b + d],
        )
    }

    fn data_gradient<T: Real>(
        &self,
        x: &[T],
        grads: &[T],
        sums: &[[f64; 2]],
        lines: &(impl Fn(usize) -> Line<T> + Sync),
    ) -> Result<Vec<T>> {
        let count = self.sharing.count() as f64;
        let values = |start: usize, out: &mut [MaybeUninit<T>]| {
            for (p, piece) in pieces(start, out.len(), self.sharing.plane) {
                let s = self.sharing.of_plane(p);
                let (rstd, [sum, product]) = (self.statistics[s].rstd, sums[s]);
                let at = start + piece.start..start + piece.end;
                self.activation.visit(Gradient {
                    line: lines(p),
                    slope: T::of(-product * rstd * rstd * rstd / count),
                    level: T::of(-sum * rstd / count),
                    x: &x[at.clone()],
                    g: &grads[at],
                    out: &mut out[piece],
                });
            }
        };
        // SAFETY: the pieces are the whole chunk, and `Gradient` writes all of a piece.
        unsafe { fill_unset(self.name, x.len(), CHUNK, values) }
    }
}

/// `(x - mean) * scale + shift`
#[derive(Clone, Copy)]
struct Line<T> {
    mean: T,
    scale: T,
    shift: T,
}

impl<T: Real> Line<T> {
    #[inline(always)]
    fn of(self, x: T) -> T {
        (x - self.mean) * self.scale + self.shift
    }
}

/// Part of a plane: the function of the line.
struct Value<'a, T> {
    line: Line<T>,
    x: &'a [T],
    out: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Visit for Value<'_, T> {
    type Output = ();

    fn visit<F: Function>(self, f: F) {
        vectorised(
            #[inline(always)]
            || {
                for (o, &x) in self.out.iter_mut().zip(self.x) {
                    o.write(f.value(self.line.of(x)));
                }
            },
        );
    }
}

/// Part of a plane: the sums of g and `g (x - mean)`.
struct GradientSums<'a, T> {
    line: Line<T>,
    mean: f64,
    x: &'a [T],
    g: &'a [T],
}

impl<T: Real> Visit for GradientSums<'_, T> {
    type Output = [f64; 2];

    fn visit<F: Function>(self, f: F) -> [f64; 2] {
        // the function in the type of the data, in vectors as wide as that allows; then the sums
        const RUN: usize = 512;
        vectorised(
            #[inline(always)]
            || {
                let mut sums = Sums::new();
                let mut inner = [T::zero(); RUN];
                for (x, g) in self.x.chunks(RUN).zip(self.g.chunks(RUN)) {
                    let inner = &mut inner[..x.len()];
                    for ((i, &x), &g) in inner.iter_mut().zip(x).zip(g) {
                        *i = g * f.first(self.line.of(x));
                    }
                    sums.add(
                        [x, inner],
                        #[inline(always)]
                        |[x, g]| [g.f64(), g.f64() * (x.f64() - self.mean)],
                    );
                }
                sums.total()
            },
        )
    }
}

/// Part of a plane: the gradient of x, where `slope` and `level` are the parts by way of the
/// statistics.
struct Gradient<'a, T> {
    line: Line<T>,
    slope: T,
    level: T,
    x: &'a [T],
    g: &'a [T],
    out: &'a mut [MaybeUninit<T>],
}

impl<T: Real> Visit for Gradient<'_, T> {
    type Output = ();

    fn visit<F: Function>(self, f: F) {
        let Line { mean, scale, .. } = self.line;
        vectorised(
            #[inline(always)]
            || {
                for ((o, &x), &g) in self.out.iter_mut().zip(self.x).zip(self.g) {
                    let inner = g * f.first(self.line.of(x));
                    o.write(inner * scale + ((x - mean) * self.slope + self.level));
                }
            },
        );
    }
}
