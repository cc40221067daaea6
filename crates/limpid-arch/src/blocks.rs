//! What several networks share: residual blocks without normalisation, layer normalisation over
//! channels, the steps of an upscaling factor, checks of their input.

use crate::{Network, Shapes};
use candle_core::Tensor;
use limpid_nn::layers::{Conv, LayerNorm};
use limpid_nn::{Ctx, Error, Result, Scope};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Two convolutions with a ReLU in between, `x + scale·f(x)`.
#[derive(Debug)]
pub(crate) struct ResBlock {
    convs: [Conv; 2],
    scale: f64,
}

impl ResBlock {
    /// 3×3 convolutions of `width` channels; `names` are theirs below `scope`.
    pub(crate) fn new(width: usize, bias: bool, names: [&str; 2], scope: &Scope) -> Result<Self> {
        let conv = |name: &str| Conv::same(2, width, width, 3, bias, &scope.pp(name));
        Ok(Self::of([conv(names[0])?, conv(names[1])?], 1.0))
    }

    /// A block of given convolutions.
    pub(crate) fn of(convs: [Conv; 2], scale: f64) -> Self {
        Self { convs, scale }
    }
}

impl Network for ResBlock {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let [first, second] = &self.convs;
        let h = second.forward(&limpid_kernels::relu(&first.forward(x)?)?)?;
        let h = if self.scale == 1.0 { h } else { limpid_kernels::scale(&h, self.scale)? };
        limpid_kernels::add(x, &h)
    }
}

/// One block after another; training may keep what is between them and compute the rest again.
pub(crate) fn chain<B: Network + 'static>(
    blocks: &[Arc<B>],
    x: &Tensor,
    ctx: &Ctx,
) -> Result<Tensor> {
    blocks.iter().try_fold(x.clone(), |h, block| {
        let block = Arc::clone(block);
        ctx.block(&[&h], move |inputs, ctx| block.forward(&inputs[0], ctx))
    })
}

/// Layer normalisation over the channels of each pixel of an image.
#[derive(Debug)]
pub(crate) struct ChannelNorm(LayerNorm);

impl ChannelNorm {
    pub(crate) fn new(channels: usize, eps: f64, scope: &Scope) -> Result<Self> {
        Ok(Self(LayerNorm::new(&[channels], eps, true, scope)?))
    }

    /// `x [N, C, h, w]` → the same
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.0.forward(&x.permute((0, 2, 3, 1))?)?;
        Ok(y.permute((0, 3, 1, 2))?)
    }
}

/// The factors by which super-resolution networks enlarge an image one after another: 3 at once,
/// powers of two in steps of 2; none if the scale is neither.
pub(crate) fn upscaling_steps(scale: usize) -> Option<Vec<usize>> {
    match scale {
        3 => Some(vec![3]),
        s if s.is_power_of_two() => Some(vec![2; s.ilog2() as usize]),
        _ => None,
    }
}

/// Shapes of the entries `{prefix}N{suffix}` of a checkpoint, by N.
pub(crate) fn numbered<'s>(
    shapes: &'s Shapes,
    prefix: &str,
    suffix: &str,
) -> BTreeMap<usize, &'s [usize]> {
    let number = |key: &str| key.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
    shapes.iter().filter_map(|(k, s)| Some((number(k)?, s.as_slice()))).collect()
}

/// Checks that `x` is a batch of planar images of so many channels, with sizes that are multiples
/// of `divisor`.
pub(crate) fn check_image(
    op: &'static str,
    x: &Tensor,
    channels: usize,
    divisor: usize,
) -> Result<()> {
    let fits = |size: usize| size > 0 && size.is_multiple_of(divisor);
    match *x.dims() {
        [_, c, h, w] if c == channels && fits(h) && fits(w) => Ok(()),
        _ if divisor == 1 => Err(Error::shape(op, format!("[N, {channels}, h, w]"), x.dims())),
        _ => {
            let expected = format!("[N, {channels}, h, w], h and w multiples of {divisor}");
            Err(Error::shape(op, expected, x.dims()))
        }
    }
}

/// How many pixels are missing at the far end of each axis of `x [N, C, h, w]` to a multiple of
/// `divisor`.
pub(crate) fn missing(x: &Tensor, divisor: usize) -> Vec<(usize, usize)> {
    x.dims().iter().skip(2).map(|s| (0, s.next_multiple_of(divisor) - s)).collect()
}

/// The first pixels of `x [N, C, …]`, as many as `like [N, C', …]` has.
pub(crate) fn crop(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut y = x.clone();
    for (axis, &size) in like.dims().iter().enumerate().skip(2) {
        y = y.narrow(axis, 0, size)?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ImageArchitecture, drunet, edsr, golden, nafnet, restormer, swinir, transformer, vit,
    };

    #[test]
    fn a_scale_is_a_product_of_its_steps() {
        assert_eq!(upscaling_steps(1), Some(vec![]));
        assert_eq!(upscaling_steps(3), Some(vec![3]));
        assert_eq!(upscaling_steps(8), Some(vec![2, 2, 2]));
        assert_eq!((upscaling_steps(0), upscaling_steps(6)), (None, None));
    }

    #[test]
    fn chains_can_be_recomputed() {
        let nets: [(&dyn ImageArchitecture, [usize; 4]); 6] = [
            (
                &restormer::Config { width: 4, blocks: [1, 2, 1, 1], ..Default::default() },
                [1, 1, 16, 16],
            ),
            (
                &nafnet::Config {
                    width: 4,
                    encoder: vec![1, 2],
                    middle: 1,
                    decoder: vec![1, 1],
                    ..Default::default()
                },
                [1, 1, 16, 16],
            ),
            (&drunet::Config { widths: [4; 4], blocks: 2, ..Default::default() }, [1, 2, 16, 16]),
            (&edsr::Config { width: 4, blocks: 2, ..edsr::Config::medium(2) }, [1, 3, 8, 8]),
            (
                &swinir::Config {
                    channels: 3,
                    width: 8,
                    depths: vec![2],
                    heads: vec![2],
                    window: 4,
                    drop_path: 0.3,
                    ..swinir::Config::lightweight(2)
                },
                [2, 3, 8, 8],
            ),
            (
                &vit::Config {
                    image_size: vec![8, 8],
                    patch_size: vec![4, 4],
                    transformer: transformer::VitConfig { width: 8, mlp: 8, layers: 2, heads: 2 },
                    ..Default::default()
                },
                [1, 1, 8, 8],
            ),
        ];
        for (config, shape) in nets {
            let (params, net) = golden::drawn(|scope| config.build(scope));
            let x = golden::noise(&shape);
            golden::check_recomputing(&params, |ctx| net.forward(&x, ctx).unwrap());
        }
    }
}
