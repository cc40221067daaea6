//! The three maps of a convolution as operations, each differentiated by the other two.

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use super::geometry::Geometry;
use crate::algebra::cat;
use crate::autograd::takes_many;
use crate::cast::InHalf;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply, with_arrays};
use crate::order::Order;
use crate::parts::Parts;
use crate::{Result, simd};
use candle_core::{DType, Shape, Tensor};
use std::sync::Arc;

/// Which of the maps that a weight makes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    /// Image to result.
    Forward,
    /// Result to image, its transpose.
    Back,
}

/// The channels of `sources`, joined, through the weight, plus a bias per channel of what comes out.
pub(super) fn map(
    geometry: &Arc<Geometry>,
    direction: Direction,
    sources: &[&Tensor],
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let operands: Vec<&Tensor> = sources.iter().copied().chain([weight]).chain(bias).collect();
    // channels of two sources do not share a register
    let last = sources.len() - 1;
    let whole = sources[..last].iter().all(|t| t.dims()[1].is_multiple_of(simd::MOST_LANES));
    // cuDNN reads one image
    let together = whole && takes_many(&operands) && !weight.device().is_cuda();
    if last > 0 && !together {
        return map(geometry, direction, &[&cat(sources, 1)?], weight, bias);
    }
    let parts = sources.iter().map(|t| t.dims()[1]).collect();
    apply(Map { geometry: geometry.clone(), direction, parts }, &operands)
}

/// Image and result to weight.
fn weight_grad(
    geometry: &Arc<Geometry>,
    images: &[&Tensor],
    results: &[&Tensor],
) -> Result<Tensor> {
    let op = WeightGrad { geometry: geometry.clone(), images: images.len() };
    apply(op, &[images, results].concat())
}

struct Map {
    geometry: Arc<Geometry>,
    direction: Direction,
    /// Channels of each source.
    parts: Vec<usize>,
}

impl Map {
    /// As many buffers as there are numbers of channels in `to`.
    fn compute<T: Real>(
        &self,
        source: &Parts<T>,
        weight: &[T],
        bias: Option<&[T]>,
        to: &[usize],
    ) -> Result<Vec<Vec<T>>> {
        match self.direction {
            Direction::Forward => cpu::forward(&self.geometry, source, weight, bias, to),
            Direction::Back => cpu::data_grad(&self.geometry, source, weight, bias, to),
        }
    }

    /// The map that gives the gradient of the source.
    fn transposed(&self) -> Direction {
        match self.direction {
            Direction::Forward => Direction::Back,
            Direction::Back => Direction::Forward,
        }
    }

    /// What of the shape of a result or a source is not its channels.
    fn shape(&self, direction: Direction) -> Vec<usize> {
        match direction {
            Direction::Forward => self.geometry.result_shape(),
            Direction::Back => self.geometry.image_shape(),
        }
    }

    /// The gradients of the sources; of several at once, since the channels of one take as long.
    fn source_gradients(&self, grad: &Tensor, weight: &Tensor) -> Result<Vec<Tensor>> {
        let direction = self.transposed();
        if self.parts.len() == 1 {
            return Ok(vec![map(&self.geometry, direction, &[grad], weight, None)?]);
        }
        match grad.dtype() {
            DType::F64 => self.split_gradients::<f64>(grad, weight),
            _ => self.split_gradients::<f32>(grad, weight),
        }
    }

    fn split_gradients<T: Real>(&self, grad: &Tensor, weight: &Tensor) -> Result<Vec<Tensor>> {
        let direction = self.transposed();
        let back = Self { geometry: self.geometry.clone(), direction, parts: Vec::new() };
        let data = with_arrays(self.name(), &[grad, weight], |arrays: &[Array<T>]| {
            back.compute(&Parts::new(&arrays[..1]), arrays[1].data, None, &self.parts)
        })?;
        let mut shape = self.shape(direction);
        let tensors = data.into_iter().zip(&self.parts).map(|(data, &channels)| {
            shape[1] = channels;
            Ok(Tensor::from_vec(data, shape.as_slice(), grad.device())?)
        });
        tensors.collect()
    }
}

impl Op for Map {
    const IN_HALF: InHalf = InHalf::Rounded;
    const ORDER: Order = Order::Last;

    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Forward => "conv",
            Direction::Back => "conv_transpose",
        }
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (sources, rest) = args.split_at(self.parts.len());
        let shape = self.shape(self.direction);
        let bias = rest.get(1).map(|b| b.data);
        let y = self.compute(&Parts::new(sources), rest[0].data, bias, &shape[1..2])?;
        Ok((y.into_iter().next().unwrap_or_default(), shape.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        use crate::gpu::dnn;
        let map = match self.direction {
            Direction::Forward => dnn::Map::Forward,
            Direction::Back => dnn::Map::Data,
        };
        let y = cuda::convolve(gpu, map, &self.geometry, [&args[0], &args[1]], args.get(2))?;
        Ok((y, self.shape(self.direction).into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let count = self.parts.len();
        let (sources, weight) = (at.args[..count].iter().collect::<Vec<_>>(), &at.args[count]);
        let mut found = vec![None; at.wanted.len()];
        if at.wanted[..count].contains(&true) {
            let gradients = self.source_gradients(&at.grad, weight)?;
            for ((found, gradient), &wanted) in found.iter_mut().zip(gradients).zip(&at.wanted) {
                *found = wanted.then_some(gradient);
            }
        }
        if at.wanted[count] {
            found[count] = Some(match self.direction {
                Direction::Forward => weight_grad(&self.geometry, &sources, &[&at.grad])?,
                Direction::Back => weight_grad(&self.geometry, &[&at.grad], &sources)?,
            });
        }
        if at.wanted.get(count + 1) == Some(&true) {
            found[count + 1] = Some(apply(ChannelSum, &[&at.grad])?);
        }
        Ok(found)
    }
}

struct WeightGrad {
    geometry: Arc<Geometry>,
    /// How many of the arguments are parts of the image; the others are parts of the result.
    images: usize,
}

impl Op for WeightGrad {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::Last;

    fn name(&self) -> &'static str {
        "conv_weight_grad"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (images, results) = args.split_at(self.images);
        let (image, result) = (Parts::new(images), Parts::new(results));
        let weight = cpu::weight_grad(&self.geometry, &image, &result)?;
        Ok((weight, self.geometry.weight_shape().into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        let map = crate::gpu::dnn::Map::Filter;
        let weight = cuda::convolve(gpu, map, &self.geometry, [&args[0], &args[1]], None)?;
        Ok((weight, self.geometry.weight_shape().into()))
    }

    /// Of an image and a result of one part each: others are not differentiated twice.
    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let [image, result] = at.args.as_slice() else {
            return Err(candle_core::Error::BackwardNotSupported { op: self.name() }.into());
        };
        let to_image = || map(&self.geometry, Direction::Back, &[result], &at.grad, None);
        let to_result = || map(&self.geometry, Direction::Forward, &[image], &at.grad, None);
        Ok(vec![
            at.wanted[0].then(to_image).transpose()?,
            at.wanted[1].then(to_result).transpose()?,
        ])
    }
}

/// Sum over everything but the second dimension: the gradient of a bias.
struct ChannelSum;

impl Op for ChannelSum {
    const IN_HALF: InHalf = InHalf::Common;
    const ORDER: Order = Order::AsGiven;

    fn name(&self) -> &'static str {
        "conv_bias_grad"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (batch, channels) = (args[0].dims[0], args[0].dims[1]);
        Ok((cpu::channel_sums(args[0].data, batch, channels), channels.into()))
    }

    #[cfg(feature = "cuda")]
    fn forward_cuda<T: crate::gpu::Number>(
        &self,
        gpu: &crate::gpu::Gpu,
        args: &[crate::gpu::Buffer<'_, T>],
    ) -> Result<(crate::gpu::Slice<T>, Shape)> {
        Ok((cuda::channel_sums(gpu, &args[0])?, args[0].dims[1].into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shape = at.args[0].shape();
        let mut dims = vec![1; shape.rank()];
        dims[1] = shape.dims()[1];
        Ok(vec![Some(at.grad.reshape(dims)?.broadcast_as(shape)?)])
    }
}
