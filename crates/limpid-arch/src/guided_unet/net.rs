//! The network itself.

use super::blocks::{Attention, Head, ResBlock, Resample, down_conv, gamma_embedding};
use super::{Config, Resampling};
use crate::NoisePredictor;
use candle_core::Tensor;
use limpid_kernels::{cast, in_half};
use limpid_nn::layers::{Conv, Linear};
use limpid_nn::{Ctx, Error, Result, Scope};
use std::sync::Arc;

const OP: &str = "guided U-Net";

/// What the network says of an image.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The noise in the last input channels, or whatever it was trained to give.
    pub output: Tensor,
    /// Logarithm of the variance of the output, from a network with that head.
    pub variance: Option<Tensor>,
}

/// One module of a block.
#[derive(Debug)]
enum Stage {
    Conv(Conv),
    Res(ResBlock),
    Attention(Attention),
    Resample(Resample),
    UpConv(Conv),
}

impl Stage {
    /// Of tensors joined along the channels; residual blocks need no join.
    fn forward(&self, parts: &[&Tensor], embedding: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let joined = || limpid_kernels::cat(parts, 1);
        match self {
            Self::Conv(conv) => conv.forward_cat(parts),
            Self::Res(block) => block.forward_cat(parts, embedding, ctx),
            Self::Attention(attention) => attention.forward(&joined()?),
            Self::Resample(resample) => resample.forward(&joined()?),
            Self::UpConv(conv) => conv.forward(&Resample::Up.forward(&joined()?)?),
        }
    }
}

/// Shared, so that a pass which recomputes can keep it.
type Block = Arc<[Stage]>;

/// The stages of a block, the first of which takes tensors joined along the channels.
fn run(block: &Block, parts: &[&Tensor], embedding: &Tensor, ctx: &Ctx) -> Result<Tensor> {
    let block = Arc::clone(block);
    ctx.block(&[&[embedding], parts].concat(), move |inputs, ctx| {
        let (embedding, mut parts) = (&inputs[0], inputs[1..].to_vec());
        for stage in block.iter() {
            let h = stage.forward(&parts.iter().collect::<Vec<_>>(), embedding, ctx)?;
            parts = vec![h];
        }
        limpid_kernels::cat(&parts.iter().collect::<Vec<_>>(), 1)
    })
}

/// Two linear layers on the embedding of a number.
#[derive(Debug)]
struct Embed {
    first: Linear,
    second: Linear,
    width: usize,
}

impl Embed {
    fn new(width: usize, scope: &Scope) -> Result<Self> {
        Ok(Self {
            first: Linear::new(width, 4 * width, true, &scope.pp(0))?,
            second: Linear::new(4 * width, 4 * width, true, &scope.pp(2))?,
            width,
        })
    }

    /// `values` of `n` images, one each or one for all → `[n or 1, 4·width]`.
    fn forward(&self, what: &str, values: &Tensor, n: usize) -> Result<Tensor> {
        let values = values.flatten_all()?;
        if ![1, n].contains(&values.elem_count()) {
            let expected = format!("one {what} or {n}, as many as images");
            return Err(Error::shape(OP, expected, values.dims()));
        }
        let weight = self.first.weight.tensor();
        let values = values.to_dtype(weight.dtype())?.to_device(weight.device())?;
        let h = self.first.forward(&gamma_embedding(&values, self.width)?)?;
        self.second.forward(&limpid_kernels::silu(&h)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct GuidedUnet {
    gamma: Embed,
    index: Option<Embed>,
    input: Vec<Block>,
    middle: Block,
    output: Vec<Block>,
    head: Head,
    variance: Option<Head>,
    in_channels: usize,
    divisor: usize,
}

impl GuidedUnet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let gamma = Embed::new(c.inner_channels, &scope.pp("cond_embed"))?;
        let index = c
            .layer_index
            .then(|| Embed::new(c.inner_channels, &scope.pp("channel_embed")))
            .transpose()?;
        let (groups, settings) = (c.groups(), c.residual());
        let res = |inputs, outputs, resample, scope: &Scope| -> Result<Stage> {
            Ok(Stage::Res(ResBlock::new(&settings, inputs, outputs, resample, scope)?))
        };
        let attention = |channels: usize, up: bool, scope: &Scope| -> Result<Stage> {
            let heads = c.heads.count(channels, up);
            Ok(Stage::Attention(Attention::new(channels, groups, heads, c.attention_order, scope)?))
        };

        let at = |i: usize| scope.pp("input_blocks").pp(i);
        let first = c.channels.first().copied().unwrap_or_default();
        let conv = Conv::same(2, c.in_channels, first, 3, true, &at(0).pp(0))?;
        let mut input: Vec<Block> = vec![Arc::new([Stage::Conv(conv)])];
        let (mut now, mut skips) = (first, vec![first]);
        for (level, &channels) in c.channels.iter().enumerate() {
            for _ in 0..c.res_blocks {
                let at = at(input.len());
                let mut block = vec![res(now, channels, Resample::Keep, &at.pp(0))?];
                now = channels;
                if c.attends(level) {
                    block.push(attention(now, false, &at.pp(1))?);
                }
                input.push(block.into());
                skips.push(now);
            }
            if level + 1 < c.channels.len() {
                let at = at(input.len()).pp(0);
                input.push(Arc::new([match c.resampling {
                    Resampling::Residual => res(now, now, Resample::Down, &at)?,
                    Resampling::Conv => Stage::Conv(down_conv(now, now, &at.pp("op"))?),
                    Resampling::Pooling => Stage::Resample(Resample::Down),
                }]));
                skips.push(now);
            }
        }

        let at = |i: usize| scope.pp("middle_block").pp(i);
        let middle = Arc::new([
            res(now, now, Resample::Keep, &at(0))?,
            attention(now, false, &at(1))?,
            res(now, now, Resample::Keep, &at(2))?,
        ]);

        let mut output: Vec<Block> = Vec::new();
        for (level, &channels) in c.channels.iter().enumerate().rev() {
            for i in 0..=c.res_blocks {
                let at = scope.pp("output_blocks").pp(output.len());
                let skip = skips.pop().unwrap_or_default();
                let mut block = vec![res(now + skip, channels, Resample::Keep, &at.pp(0))?];
                now = channels;
                if c.attends(level) {
                    block.push(attention(now, true, &at.pp(1))?);
                }
                if level > 0 && i == c.res_blocks {
                    let at = at.pp(block.len());
                    block.push(match c.resampling {
                        Resampling::Residual => res(now, now, Resample::Up, &at)?,
                        Resampling::Conv => {
                            Stage::UpConv(Conv::same(2, now, now, 3, true, &at.pp("conv"))?)
                        }
                        Resampling::Pooling => Stage::Resample(Resample::Up),
                    });
                }
                output.push(block.into());
            }
        }
        let head = |name: &str| Head::new(now, c.out_channels, groups, &scope.pp(name));
        Ok(Self {
            gamma,
            index,
            input,
            middle,
            output,
            head: head("out")?,
            variance: c.variance.then(|| head("out_variance")).transpose()?,
            in_channels: c.in_channels,
            divisor: c.divisor(),
        })
    }

    /// `gamma` is the signal's share of the variance, `ᾱ` of diffusion models, in `(0, 1)`;
    /// `channel_index` the number of the layer between two slices, from 0 on, for networks that
    /// take it.
    ///
    /// # Shapes
    /// `x [N, in, H, W]`, `gamma` and `channel_index` with N elements or 1 → `[N, out, H, W]`; H and
    /// W multiples of [`Config::divisor`].
    ///
    /// # Errors
    /// [`Error::Shape`] if something does not fit; [`Error::Argument`] if the layer index is missing
    /// or not wanted.
    pub fn forward(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        channel_index: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Prediction> {
        let said = in_half(x.device(), || self.pass(x, gamma, channel_index, ctx))?;
        Ok(Prediction {
            output: cast(&said.output, x.dtype())?,
            variance: said.variance.map(|variance| cast(&variance, x.dtype())).transpose()?,
        })
    }

    fn pass(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        channel_index: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Prediction> {
        let d = self.divisor;
        let n = match *x.dims() {
            [n, c, h, w] if c == self.in_channels && h % d == 0 && w % d == 0 => n,
            _ => {
                let expected = format!("[N, {}, H, W] with multiples of {d}", self.in_channels);
                return Err(Error::shape(OP, expected, x.dims()));
            }
        };
        let embedding = self.gamma.forward("gamma", gamma, n)?;
        let embedding = match (&self.index, channel_index) {
            (None, None) => embedding,
            (Some(embed), Some(index)) => {
                let index = embed.forward("layer index", index, n)?;
                let rows = embedding.dims()[0].max(index.dims()[0]);
                let wide = |t: &Tensor| t.broadcast_as((rows, t.dims()[1]));
                limpid_kernels::cat(&[&wide(&embedding)?, &wide(&index)?], 1)?
            }
            (Some(_), None) => return Err(Error::argument(OP, "needs a layer index")),
            (None, Some(_)) => return Err(Error::argument(OP, "takes no layer index")),
        };
        let mut h = x.clone();
        let mut skips = Vec::with_capacity(self.input.len());
        for block in &self.input {
            h = run(block, &[&h], &embedding, ctx)?;
            skips.push(h.clone());
        }
        h = run(&self.middle, &[&h], &embedding, ctx)?;
        for (block, skip) in self.output.iter().zip(skips.into_iter().rev()) {
            h = run(block, &[&h, &skip], &embedding, ctx)?;
        }
        Ok(Prediction {
            output: self.head.forward(&h)?,
            variance: self.variance.as_ref().map(|head| head.forward(&h)).transpose()?,
        })
    }
}

impl NoisePredictor for GuidedUnet {
    fn predict(
        &self,
        x: &Tensor,
        condition: &Tensor,
        level: &Tensor,
        layer: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Prediction> {
        self.forward(&limpid_kernels::cat(&[condition, x], 1)?, level, layer, ctx)
    }
}
