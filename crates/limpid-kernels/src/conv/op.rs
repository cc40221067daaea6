//! The three maps of a convolution as operations, each differentiated by the other two.

use super::cpu;
use super::geometry::Geometry;
use crate::Result;
use crate::math::Real;
use crate::op::{Array, Backward, Op, apply};
use candle_core::{Shape, Tensor};
use std::sync::Arc;

/// Image and weight (and a bias per feature) to result.
pub(super) fn forward(
    geometry: &Arc<Geometry>,
    image: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    apply(Forward(geometry.clone()), &with_bias(image, weight, bias))
}

/// Result and weight (and a bias per channel) to image: the transpose of [`forward`].
pub(super) fn data_grad(
    geometry: &Arc<Geometry>,
    result: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    apply(DataGrad(geometry.clone()), &with_bias(result, weight, bias))
}

/// Image and result to weight.
fn weight_grad(geometry: &Arc<Geometry>, image: &Tensor, result: &Tensor) -> Result<Tensor> {
    apply(WeightGrad(geometry.clone()), &[image, result])
}

fn with_bias<'a>(
    data: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
) -> Vec<&'a Tensor> {
    [data, weight].into_iter().chain(bias).collect()
}

struct Forward(Arc<Geometry>);

impl Op for Forward {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let bias = args.get(2).map(|b| b.data);
        let result = cpu::forward(&self.0, args[0].data, args[1].data, bias)?;
        Ok((result, self.0.result_shape().into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (image, weight) = (&at.args[0], &at.args[1]);
        gradients(
            at,
            [
                &|| data_grad(&self.0, &at.grad, weight, None),
                &|| weight_grad(&self.0, image, &at.grad),
                &|| apply(ChannelSum, &[&at.grad]),
            ],
        )
    }
}

struct DataGrad(Arc<Geometry>);

impl Op for DataGrad {
    fn name(&self) -> &'static str {
        "conv_transpose"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let bias = args.get(2).map(|b| b.data);
        let image = cpu::data_grad(&self.0, args[0].data, args[1].data, bias)?;
        Ok((image, self.0.image_shape().into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (result, weight) = (&at.args[0], &at.args[1]);
        gradients(
            at,
            [
                &|| forward(&self.0, &at.grad, weight, None),
                &|| weight_grad(&self.0, &at.grad, result),
                &|| apply(ChannelSum, &[&at.grad]),
            ],
        )
    }
}

struct WeightGrad(Arc<Geometry>);

impl Op for WeightGrad {
    fn name(&self) -> &'static str {
        "conv_weight_grad"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let weight = cpu::weight_grad(&self.0, args[0].data, args[1].data)?;
        Ok((weight, self.0.weight_shape().into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let (image, result) = (&at.args[0], &at.args[1]);
        gradients(
            at,
            [&|| data_grad(&self.0, result, &at.grad, None), &|| {
                forward(&self.0, image, &at.grad, None)
            }],
        )
    }
}

/// Sum over everything but the second dimension: the gradient of a bias.
struct ChannelSum;

impl Op for ChannelSum {
    fn name(&self) -> &'static str {
        "conv_bias_grad"
    }

    fn forward<T: Real>(&self, args: &[Array<T>]) -> Result<(Vec<T>, Shape)> {
        let (batch, channels) = (args[0].dims[0], args[0].dims[1]);
        Ok((cpu::channel_sums(args[0].data, batch, channels), channels.into()))
    }

    fn backward(&self, at: &Backward) -> Result<Vec<Option<Tensor>>> {
        let shape = at.args[0].shape();
        let mut dims = vec![1; shape.rank()];
        dims[1] = shape.dims()[1];
        Ok(vec![Some(at.grad.reshape(dims)?.broadcast_as(shape)?)])
    }
}

/// Computes those gradients that are wanted.
fn gradients<const N: usize>(
    at: &Backward,
    each: [&dyn Fn() -> Result<Tensor>; N],
) -> Result<Vec<Option<Tensor>>> {
    at.wanted.iter().zip(each).map(|(&wanted, f)| wanted.then(f).transpose()).collect()
}
