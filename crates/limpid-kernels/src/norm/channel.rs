//! Normalisation with parameters per channel, and a pointwise function of it: by group of channels
//! or over the batch.
//!
//! Nothing but `x` and the statistics is kept for the backward pass, which computes the argument of
//! the function again: that costs less than memory to write it to and read it from. The planes of
//! one statistic are measured and normalised one after the other, while they are in the cache.

#![allow(unsafe_code)] // results are written to memory that is not zeroed first

use super::moments::{Moment, Moments, Statistic, Statistics, on_host};
use super::{Affine, composed};
use crate::activation::{Activation, Function, Visit};
use crate::buffer::{CHUNK, build_all, rows_per_chunk};
use crate::cast::InHalf;
use crate::math::Real;
#[cfg(feature = "cuda")]
use crate::op::gradients_on_gpu;
use crate::op::{Array, Backward, Op, with_arrays};
use crate::order::Order;
use crate::parts::Parts;
use crate::planes::{Sums, reduce};
use crate::simd::vectorised;
use crate::{Error, Result};
use candle_core::{DType, Shape, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Which planes of a tensor share a mean and a variance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    pub batch: usize,
    pub channels: usize,
    /// Elements of a plane.
    pub plane: usize,
    /// Groups of channels per batch item; `None` if a channel shares over the batch.
    pub groups: Option<usize>,
}

impl Sharing {
    pub(super) fn group(op: &'static str, dims: &[usize], groups: usize) -> Result<Self> {
        let sharing = Self { groups: Some(groups), ..Self::batch(op, dims)? };
        if groups == 0 || !sharing.channels.is_multiple_of(groups) {
            let message =
                format!("`groups` is {groups}, but must divide the {} channels", sharing.channels);
            return Err(Error::Argument { op, message });
        }
        Ok(sharing)
    }

    pub(super) fn batch(op: &'static str, dims: &[usize]) -> Result<Self> {
        match dims {
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

/// Normalisation, and a function of what comes of it.
pub(super) struct Normalise {
    pub name: &'static str,
    pub sharing: Sharing,
    /// Set from the beginning if they are constants, else by the forward pass.
    pub statistics: Arc<OnceLock<Statistics>>,
    pub eps: f64,
    /// Whether the statistics are constants, else they depend on `x`.
    pub fixed: bool,
    pub affine: Affine,
    pub activation: Activation,
}

/// One plane of a result.
type Plane<'a, T> = (usize, &'a mut [MaybeUninit<T>]);

impl Op for Normalise {
    const IN_HALF: InHalf = InHalf::Kept;

    fn images(&self) -> usize {
        self.affine.sources
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn order(&self, args: &[&Tensor]) -> Order {
        use Activation::{Gelu, Identity, LeakyRelu, Relu, Silu};
        // there kernels read eight channels at once
        let whole = |t: &&Tensor| t.dims()[1].is_multiple_of(8);
        match self.activation {
            Identity | Relu | LeakyRelu { .. } | Silu | Gelu
                if args[..self.images()].iter().all(whole) =>
            {
                Order::AsGiven
            }
            _ => Order::First,
        }
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let x = Parts::new(self.affine.sources(args));
        let weight = self.affine.weight(args).map(|w| w.data);
        let bias = self.affine.bias(args).map(|b| b.data);
        let known = self.fixed.then(|| on_host(self.name, &self.statistics)).transpose()?;
        let set = |s: usize, planes: Vec<Plane<T>>| {
            let statistic = known.map_or_else(|| self.measured(&x, &planes), |all| all[s]);
            each_piece(planes, |p, at, out| {
                let line = Line::new(statistic, p, weight, bias);
                self.activation.visit(Value { line, x: x.at(at), out });
            });
            statistic
        };
        // SAFETY: the pieces are all of the planes, and `Value` writes all of a piece.
        let (y, statistics) = unsafe { self.by_statistic(&[self.sharing.channels], set) }?;
        self.statistics.get_or_init(|| Statistics::Host(statistics));
        let mut dims = args[0].dims.to_vec();
        dims[1] = self.sharing.channels;
        Ok((y.into_iter().next().unwrap_or_default(), dims.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        super::cuda::channel::forward(self, gpu, args)
    }

    #[cfg(feature = "cuda")]
    fn gradients_cuda<T: crate::gpu::Number>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        super::cuda::channel::gradients::<T>(self, at)
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        if at.is_differentiated() {
            return self.composed(at);
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

impl Normalise {
    /// The statistics, which the forward pass has found.
    fn known(&self) -> Result<&Statistics> {
        let missing = || Error::argument(self.name, "the statistics are not known yet");
        self.statistics.get().ok_or_else(missing)
    }

    fn composed(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (view, shared, statistic) = self.sharing.view();
        let mut parameter = statistic;
        let shape = self.affine.weight(&at.args).or(self.affine.bias(&at.args));
        let shape = shape.map_or(vec![self.sharing.channels], |t| t.dims().to_vec());
        if shape.len() == 2 {
            parameter[0] = self.sharing.batch;
        }
        let given = if self.fixed {
            let known = self.known()?;
            Some((known.vector(Moment::Mean, &at.grad)?, known.vector(Moment::Rstd, &at.grad)?))
        } else {
            None
        };
        let view = composed::View {
            view: &view,
            shared: &shared,
            statistic: &statistic,
            parameter: &parameter,
            shape: &shape,
        };
        composed::gradients(at, self.affine, self.activation, view, given, self.eps)
    }

    /// New tensors that share the channels, and what `f` gives for the planes of each statistic.
    ///
    /// # Errors
    /// As [`build_all`].
    ///
    /// # Safety
    /// `f` writes every element of the planes.
    unsafe fn by_statistic<T: Real, R: Send>(
        &self,
        channels: &[usize],
        f: impl Fn(usize, Vec<Plane<T>>) -> R + Sync,
    ) -> Result<(Vec<Vec<T>>, Vec<R>)> {
        let Sharing { batch, plane, .. } = self.sharing;
        let mut found = Vec::new();
        let fill = |data: Vec<&mut [MaybeUninit<T>]>| {
            let mut sets: Vec<_> = (0..self.sharing.statistics()).map(|_| Vec::new()).collect();
            let mut data: Vec<_> = data.into_iter().map(|d| d.chunks_mut(plane.max(1))).collect();
            let mut p = 0;
            for _ in 0..batch {
                for (data, &count) in data.iter_mut().zip(channels) {
                    for plane in data.take(count) {
                        sets[self.sharing.of_plane(p)].push((p, plane));
                        p += 1;
                    }
                }
            }
            let sets = sets.into_par_iter().enumerate();
            sets.map(|(s, planes)| f(s, planes)).collect_into_vec(&mut found);
        };
        let lens: Vec<usize> = channels.iter().map(|count| batch * count * plane).collect();
        // SAFETY: each plane belongs to a set; the caller vouches for them.
        let data = unsafe { build_all(self.name, &lens, fill) }?;
        Ok((data, found))
    }

    /// The statistic of some planes.
    fn measured<T: Real>(&self, x: &Parts<T>, planes: &[Plane<T>]) -> Statistic {
        let of = |at: Range<usize>| Moments::of(x.at(at));
        let planes = self.reduce(planes, of, Moments::merge);
        planes.into_iter().fold(Moments::default(), Moments::merge).statistic(self.eps)
    }

    /// As [`reduce`], for these planes.
    fn reduce<T: Real, S: Copy + Send>(
        &self,
        planes: &[Plane<T>],
        of: impl Fn(Range<usize>) -> S + Sync,
        merge: impl Fn(S, S) -> S,
    ) -> Vec<S> {
        let plane = self.sharing.plane;
        let indices: Vec<usize> = planes.iter().map(|&(p, _)| p).collect();
        let within = |at: Range<usize>| {
            let start = indices[at.start / plane] * plane + at.start % plane;
            of(start..start + at.len())
        };
        reduce(planes.len(), plane, within, merge)
    }

    fn gradients<T: Real>(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let operands: Vec<&Tensor> = at.args.iter().chain([&at.grad]).collect();
        let statistics = on_host(self.name, &self.statistics)?;
        with_arrays(self.name, &operands, |arrays: &[Array<T>]| {
            let (grads, args) = (arrays[arrays.len() - 1].data, &arrays[..arrays.len() - 1]);
            let sources = self.affine.sources(args);
            let (weight, bias) = (self.affine.weight(args), self.affine.bias(args));
            let gradient = DataGradient {
                statistics,
                weight: weight.map(|w| w.data),
                bias: bias.map(|b| b.data),
                x: Parts::new(sources),
                grads,
            };
            let channels: Vec<usize> = sources.iter().map(|x| x.dims[1]).collect();
            // SAFETY: it writes all planes.
            let (dx, sums) =
                unsafe { self.by_statistic(&channels, |s, p| gradient.of(self, s, p)) }?;
            let shape = weight.or(bias).map_or(vec![self.sharing.channels], |t| t.dims.to_vec());
            let len = shape.iter().product();
            let (mut dw, mut db) = (vec![0f64; len], vec![0f64; len]);
            let mut planes: Vec<_> = sums.into_iter().flatten().collect();
            planes.sort_unstable_by_key(|&(p, _)| p);
            for (p, [g, gx]) in planes {
                let parameter = p % len;
                dw[parameter] += gx * statistics[self.sharing.of_plane(p)].rstd;
                db[parameter] += g;
            }
            let device = at.grad.device();
            let mut gradients = Vec::with_capacity(args.len());
            for ((dx, x), &wanted) in dx.into_iter().zip(sources).zip(&at.wanted) {
                let dx = wanted.then(|| Tensor::from_vec(dx, x.dims, device));
                gradients.push(dx.transpose()?);
            }
            let parameter = |v: Vec<f64>| {
                let v: Vec<T> = v.into_iter().map(T::of).collect();
                Tensor::from_vec(v, shape.as_slice(), device)
            };
            Ok(self.affine.gradients(gradients, parameter(dw)?, parameter(db)?))
        })
    }
}

/// The gradient of x, and on the way those of the parameters.
struct DataGradient<'a, T> {
    statistics: &'a [Statistic],
    weight: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    x: Parts<'a, T>,
    grads: &'a [T],
}

impl<T: Real> DataGradient<'_, T> {
    /// Writes the gradient of the planes of a statistic. Gives for each of them the sums of g and of
    /// `g (x - mean)`, where g is the gradient of what goes into the function.
    fn of(&self, op: &Normalise, s: usize, planes: Vec<Plane<T>>) -> Vec<(usize, [f64; 2])> {
        let Statistic { mean, rstd, .. } = self.statistics[s];
        let line = |p: usize| Line::new(self.statistics[s], p, self.weight, self.bias);
        let plane = op.sharing.plane;
        let sums = op.reduce(
            &planes,
            |at| {
                let (p, x, g) = (at.start / plane, self.x.at(at.clone()), &self.grads[at]);
                op.activation.visit(GradientSums { line: line(p), mean, x, g })
            },
            |[a, b], [c, d]| [a + c, b + d],
        );
        let sums: Vec<_> = planes.iter().map(|&(p, _)| p).zip(sums).collect();
        let mut total = [0f64; 2];
        if !op.fixed {
            for &(p, [g, gx]) in &sums {
                let weight = self.weight.map_or(1.0, |w| w[p % w.len()].f64());
                total[0] += g * weight;
                total[1] += gx * weight;
            }
        }
        let count = op.sharing.count() as f64;
        each_piece(planes, |p, at, out| {
            op.activation.visit(Gradient {
                line: line(p),
                slope: T::of(-total[1] * rstd * rstd * rstd / count),
                level: T::of(-total[0] * rstd / count),
                x: self.x.at(at.clone()),
                g: &self.grads[at],
                out,
            });
        });
        sums
    }
}

/// Calls `f(plane, elements of the tensor, their part of the result)` for pieces of planes.
fn each_piece<T: Real>(
    planes: Vec<Plane<T>>,
    f: impl Fn(usize, Range<usize>, &mut [MaybeUninit<T>]) + Sync,
) {
    let plane = planes.first().map_or(0, |(_, out)| out.len());
    planes.into_par_iter().with_min_len(rows_per_chunk(plane)).for_each(|(p, out)| {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
            let start = p * plane + i * CHUNK;
            f(p, start..start + out.len(), out);
        });
    });
}

/// `(x - mean) * scale + shift`
#[derive(Clone, Copy)]
struct Line<T> {
    mean: T,
    scale: T,
    shift: T,
}

impl<T: Real> Line<T> {
    /// What plane `p` goes through before the function.
    fn new(statistic: Statistic, p: usize, weight: Option<&[T]>, bias: Option<&[T]>) -> Self {
        let weight = weight.map_or(1.0, |w| w[p % w.len()].f64());
        let shift = bias.map_or(T::zero(), |b| b[p % b.len()]);
        Self { mean: T::of(statistic.mean), scale: T::of(weight * statistic.rstd), shift }
    }

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
