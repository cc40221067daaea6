//! The blocks of a SwinIR and the network.

use super::{Config, Upsampler};
use crate::blocks::chain;
use crate::swin::{Spec, SwinBlock};
use crate::transformer::{SMALL, SWINIR, channels_first, channels_last, drop_rates};
use crate::{ImageArchitecture, Network};
use candle_core::Tensor;
use limpid_kernels::{Pad, Resize, cast, leaky_relu};
use limpid_nn::layers::{Conv, LayerNorm};
use limpid_nn::{Ctx, Error, Param, Result, Scope};
use std::sync::Arc;

/// Slope of the leaky ReLUs but that before upsampling, which has PyTorch's default.
const SLOPE: f64 = 0.2;
const SLOPE_BEFORE_UPSAMPLING: f64 = 0.01;

/// Mean of the DIV2K images, which is subtracted from images of three channels.
const RGB_MEAN: [f32; 3] = [0.4488, 0.4371, 0.4040];

/// A 3×3 convolution, or a narrower stack of three convolutions.
#[derive(Debug)]
struct Convs(Vec<Conv>);

impl Convs {
    fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (width, narrow) = (c.width, c.width / 4);
        if c.layer_convs == 1 {
            return Ok(Self(vec![Conv::same(2, width, width, 3, true, scope)?]));
        }
        Ok(Self(vec![
            Conv::same(2, width, narrow, 3, true, &scope.pp(0))?,
            Conv::same(2, narrow, narrow, 1, true, &scope.pp(2))?,
            Conv::same(2, narrow, width, 3, true, &scope.pp(4))?,
        ]))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        for (i, conv) in self.0.iter().enumerate() {
            if i > 0 {
                h = leaky_relu(&h, SLOPE)?;
            }
            h = conv.forward(&h)?;
        }
        Ok(h)
    }
}

/// What makes an image of the features.
#[derive(Debug)]
enum Head {
    Residual(Conv),
    Shuffle { before: Conv, steps: Vec<Conv>, factor: usize, last: Conv },
    Direct { conv: Conv, scale: usize },
    Nearest { before: Conv, up: Vec<Conv>, hr: Conv, last: Conv },
}

impl Head {
    fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let conv = |name: &str, i, o| Conv::same(2, i, o, 3, true, &scope.pp(name));
        let (image, inner) = (c.channels, c.upsample_width);
        let before =
            || Conv::same(2, c.width, inner, 3, true, &scope.pp("conv_before_upsample").pp(0));
        let upsample = scope.pp("upsample");
        Ok(match c.upsampler {
            Upsampler::None {} => Self::Residual(conv("conv_last", c.width, image)?),
            Upsampler::PixelShuffle { scale } => {
                let (factor, steps) =
                    if scale == 3 { (3, 1) } else { (2, scale.max(1).ilog2() as usize) };
                let step = |i| {
                    let outputs = factor * factor * inner;
                    Conv::same(2, inner, outputs, 3, true, &upsample.pp(2 * i))
                };
                Self::Shuffle {
                    before: before()?,
                    steps: (0..steps).map(step).collect::<Result<_>>()?,
                    factor,
                    last: conv("conv_last", inner, image)?,
                }
            }
            Upsampler::PixelShuffleDirect { scale } => {
                let outputs = scale * scale * image;
                let conv = Conv::same(2, c.width, outputs, 3, true, &upsample.pp(0))?;
                Self::Direct { conv, scale }
            }
            Upsampler::NearestConv { scale } => {
                let steps = scale.max(1).ilog2() as usize;
                let up = |i| conv(&format!("conv_up{i}"), inner, inner);
                Self::Nearest {
                    before: before()?,
                    up: (1..=steps).map(up).collect::<Result<_>>()?,
                    hr: conv("conv_hr", inner, inner)?,
                    last: conv("conv_last", inner, image)?,
                }
            }
        })
    }

    /// The image from the features, given the network's input.
    fn forward(&self, features: &Tensor, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Residual(last) => limpid_kernels::add(input, &last.forward(features)?),
            Self::Shuffle { before, steps, factor, last } => {
                let mut h = leaky_relu(&before.forward(features)?, SLOPE_BEFORE_UPSAMPLING)?;
                for step in steps {
                    h = limpid_kernels::pixel_shuffle(&step.forward(&h)?, *factor)?;
                }
                last.forward(&h)
            }
            Self::Direct { conv, scale } => {
                limpid_kernels::pixel_shuffle(&conv.forward(features)?, *scale)
            }
            Self::Nearest { before, up, hr, last } => {
                let mut h = leaky_relu(&before.forward(features)?, SLOPE_BEFORE_UPSAMPLING)?;
                for conv in up {
                    let size: Vec<usize> = h.dims()[2..].iter().map(|s| 2 * s).collect();
                    let larger = limpid_kernels::resize(&h, &size, Resize::Nearest)?;
                    h = leaky_relu(&conv.forward(&larger)?, SLOPE)?;
                }
                last.forward(&leaky_relu(&hr.forward(&h)?, SLOPE)?)
            }
        }
    }
}

/// Residual Swin transformer block: blocks and a convolution, added to the input.
#[derive(Debug)]
struct Layer {
    blocks: Vec<Arc<SwinBlock>>,
    convs: Convs,
}

/// The network.
#[derive(Debug)]
pub struct SwinIr {
    config: Config,
    first: Conv,
    patch_norm: Option<LayerNorm>,
    positions: Option<Param>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    after_body: Convs,
    head: Head,
}

impl SwinIr {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let norm = |scope: &Scope| LayerNorm::new(&[c.width], SWINIR.eps, true, scope);
        let mut rates = drop_rates(c.drop_path, c.depths.iter().sum()).into_iter();
        let layers = c
            .depths
            .iter()
            .zip(&c.heads)
            .enumerate()
            .map(|(i, (&depth, &heads))| {
                let scope = scope.pp("layers").pp(i);
                let blocks = (0..depth)
                    .map(|b| {
                        let shift = if c.shifted && b % 2 == 1 { c.window / 2 } else { 0 };
                        let spec = Spec {
                            width: c.width,
                            heads,
                            mlp: c.hidden(),
                            qkv_bias: c.qkv_bias,
                            window: vec![c.window; 2],
                            shift: vec![shift; 2],
                            shrink: false,
                            drop_path: rates.next().unwrap_or(c.drop_path),
                            style: SWINIR,
                        };
                        SwinBlock::new(spec, &scope.pp("residual_group").pp("blocks").pp(b))
                            .map(Arc::new)
                    })
                    .collect::<Result<_>>()?;
                Ok(Layer { blocks, convs: Convs::new(c, &scope.pp("conv"))? })
            })
            .collect::<Result<_>>()?;
        let tokens: usize = c.positions.iter().product();
        let positions = (!c.positions.is_empty())
            .then(|| scope.param("absolute_pos_embed", &[1, tokens, c.width], SMALL))
            .transpose()?;
        let patch_norm = scope.pp("patch_embed").pp("norm");
        Ok(Self {
            config: c.clone(),
            first: Conv::same(2, c.channels, c.width, 3, true, &scope.pp("conv_first"))?,
            patch_norm: c.patch_norm.then(|| norm(&patch_norm)).transpose()?,
            positions,
            layers,
            norm: norm(&scope.pp("norm"))?,
            after_body: Convs::new(c, &scope.pp("conv_after_body"))?,
            head: Head::new(c, scope)?,
        })
    }

    /// The layers on features `[N, width, H, W]`.
    fn body(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = channels_last(x)?;
        if let Some(norm) = &self.patch_norm {
            h = norm.forward(&h)?;
        }
        if let Some(positions) = &self.positions {
            let size = &self.config.positions;
            if h.dims()[1..3] != size[..] {
                let expected = format!("the only size that it has positions for, {size:?}");
                return Err(Error::shape("swinir", expected, &h.dims()[1..3]));
            }
            let (height, width) = (size[0], size[1]);
            let positions = positions.like(&h)?.reshape((1, height, width, self.config.width))?;
            h = h.broadcast_add(&positions)?;
        }
        for layer in &self.layers {
            let inner = chain(&layer.blocks, &h, ctx)?;
            let convs = layer.convs.forward(&channels_first(&inner)?)?;
            h = limpid_kernels::add(&h, &channels_last(&convs)?)?;
        }
        channels_first(&self.norm.forward(&h)?)
    }
}

impl Network for SwinIr {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let c = &self.config;
        let [_, channels, height, width] = x.dims()[..] else {
            return Err(Error::shape("swinir", "x [N, C, H, W]", x.dims()));
        };
        if channels != c.channels || height == 0 || width == 0 {
            let expected = format!("x [N, {}, H, W] of at least one pixel", c.channels);
            return Err(Error::shape("swinir", expected, x.dims()));
        }
        let missing = |s: usize| (0, s.next_multiple_of(c.window) - s);
        let mut h = x.clone();
        if missing(height).1 + missing(width).1 > 0 {
            h = limpid_kernels::pad(&h, &[missing(height), missing(width)], Pad::Reflect)?;
        }
        let mean = (channels == 3)
            .then(|| Tensor::new(&RGB_MEAN, x.device())?.to_dtype(x.dtype())?.reshape((1, 3, 1, 1)))
            .transpose()?;
        if let Some(mean) = &mean {
            h = h.broadcast_sub(mean)?;
        }
        let input = (h * c.image_range)?;
        let first = self.first.forward(&input)?;
        let body = self.after_body.forward(&self.body(&first, ctx)?)?;
        let features = limpid_kernels::add(&body, &first)?;
        let y = cast(&self.head.forward(&features, &input)?, x.dtype())?;
        let mut y = (y / c.image_range)?;
        if let Some(mean) = &mean {
            y = y.broadcast_add(mean)?;
        }
        let scale = c.scale();
        Ok(y.narrow(2, 0, height * scale)?.narrow(3, 0, width * scale)?.contiguous()?)
    }
}
