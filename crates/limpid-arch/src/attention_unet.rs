//! Attention U-Net: a U-Net whose skip connections are weighted by what the coarser level found
//! (Oktay et al. 2018, arXiv:1804.03999).
//!
//! Reference: MONAI `AttentionUnet` (Apache-2.0). Its keys nest: level `i` lies in `i` times
//! `submodule.1` below `model.1`, the coarsest in a plain `submodule`.
//!
//! ```text
//! x → model.0 (c0) → level i: submodule (stride, c_{i+1}) → … → upconv.up (c_i) = g
//!   → h·ψ(g, h), cat with g, merge (c_i) → … → model.2 (1×1);  ψ = σ(psi(relu(W_g g + W_x h)))
//! ```

use crate::adn::{Adn, ConvAdn, check_axes, check_image, check_strides, spacings};
use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{cast, relu, sigmoid, widened};
use limpid_nn::layers::{ActivationConfig, BatchNorm, Conv, NormConfig};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of an Attention U-Net.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of each level, the finest first.
    pub channels: Vec<usize>,
    /// Stride from each level to the next, per axis.
    pub strides: Vec<Vec<usize>>,
    /// Kernel size of the convolutions per axis, odd.
    pub kernel: Vec<usize>,
    /// Kernel size of the transposed convolutions per axis, odd.
    pub up_kernel: Vec<usize>,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// The five levels of the paper; MONAI publishes no widths.
    fn default() -> Self {
        Self::isotropic(2, &[64, 128, 256, 512, 1024])
    }
}

impl Config {
    /// 3-kernels and strides of 2 on all axes.
    #[must_use]
    pub fn isotropic(dims: usize, channels: &[usize]) -> Self {
        Self {
            dims,
            in_channels: 1,
            out_channels: 1,
            channels: channels.to_vec(),
            strides: vec![vec![2; dims]; channels.len().saturating_sub(1)],
            kernel: vec![3; dims],
            up_kernel: vec![3; dims],
            residual: false,
        }
    }

    /// A narrow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self::isotropic(2, &[16, 32, 64])
    }

    /// The configuration that a checkpoint's shapes belong to. Strides leave no trace in shapes and
    /// are taken to be 2.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "model.0.conv.0.conv.weight";
        let dims = rank_of(shapes, first)?;
        let mut channels = vec![size_of(shapes, first, 0)?];
        let mut level = "model.1".to_owned();
        let up = shapes.get("model.1.upconv.up.conv.weight")?;
        while let Some(next) = size_of(shapes, &format!("{level}.upconv.up.conv.weight"), 0) {
            channels.push(next);
            level += ".submodule.1";
        }
        Some(Self {
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "model.2.conv.weight", 0)?,
            kernel: shapes.get(first)?.get(2..)?.to_vec(),
            up_kernel: up.get(2..)?.to_vec(),
            ..Self::isotropic(dims, &channels)
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "attention_unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        AttentionUNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(AttentionUNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Product of the strides per axis.
    fn divisor(&self) -> Vec<usize> {
        (0..self.dims).map(|a| spacings(&self.strides, a).last().copied().unwrap_or(1)).collect()
    }

    /// Sum over all convolutions of `(k-1)` times the spacing of the finer of their levels.
    fn receptive_field(&self) -> Vec<usize> {
        let axis = |a: usize| {
            let reach = |kernel: &[usize]| kernel.get(a).map_or(0, |k| k.saturating_sub(1));
            let (k, up) = (reach(&self.kernel), reach(&self.up_kernel));
            let spacings = spacings(&self.strides, a);
            let level = |s: &[usize]| k * (s[0] + s[1]) + (up + 2) * s[0];
            1 + 2 * k + spacings.windows(2).map(level).sum::<usize>()
        };
        (0..self.dims).map(axis).collect()
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 12 * self.channels.first().copied().unwrap_or(1)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if self.channels.len() < 2 || self.channels.iter().any(|&c| c < 2) {
            at.problem("channels", "must give at least 2 levels, each of at least 2 channels");
        }
        let steps = self.channels.len().saturating_sub(1);
        if self.strides.len() != steps {
            at.problem("strides", format!("must have {steps} entries, one between two levels"));
        }
        for (i, stride) in self.strides.iter().enumerate() {
            check_axes(&format!("strides.{i}"), stride, self.dims, false, at);
        }
        check_strides(&self.strides, at);
        check_axes("kernel", &self.kernel, self.dims, true, at);
        check_axes("up_kernel", &self.up_kernel, self.dims, true, at);
        if self.in_channels == 0 || self.out_channels == 0 {
            at.problem("in_channels", "and `out_channels` must be at least 1");
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

const BATCH_RELU: Adn = Adn { norm: NormConfig::Batch {}, activation: ActivationConfig::Relu {} };
/// MONAI's default, which the reference leaves the merging convolutions with.
const INSTANCE_PRELU: Adn =
    Adn { norm: NormConfig::Instance { affine: false }, activation: ActivationConfig::Prelu {} };

/// Two convolutions (`ConvBlock`).
#[derive(Debug)]
struct Double([ConvAdn; 2]);

impl Double {
    fn new(c: &Config, io: [usize; 2], stride: &[usize], scope: &Scope) -> Result<Self> {
        let scope = scope.pp("conv");
        let conv = |i: usize, inputs: usize, stride: &[usize]| {
            let io = [inputs, io[1]];
            ConvAdn::down(io, &c.kernel, stride, true, Some(BATCH_RELU), &scope.pp(i))
        };
        Ok(Self([conv(0, io[0], stride)?, conv(1, io[1], &vec![1; c.dims])?]))
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.0[1].forward(&self.0[0].forward(x, ctx)?, ctx)
    }
}

/// 1×1 convolution and batch normalisation.
#[derive(Debug)]
struct Projection(Conv, BatchNorm);

impl Projection {
    fn new(c: &Config, inputs: usize, outputs: usize, scope: &Scope) -> Result<Self> {
        let conv = scope.pp(0).pp("conv");
        Ok(Self(
            Conv::same(c.dims, inputs, outputs, 1, true, &conv)?,
            BatchNorm::new(outputs, 1e-5, 0.1, true, &scope.pp(1))?,
        ))
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.1.forward(&self.0.forward(x)?, ctx)
    }
}

/// A level: the way down from it, and the way back up (`AttentionLayer`).
#[derive(Debug)]
struct Level {
    down: Double,
    up: ConvAdn,
    gate: Projection,
    skip: Projection,
    psi: Projection,
    merge: ConvAdn,
}

impl Level {
    fn new(c: &Config, level: usize, scope: &Scope) -> Result<Self> {
        let (width, below, stride) = (c.channels[level], c.channels[level + 1], &c.strides[level]);
        let last = level + 2 == c.channels.len();
        let submodule = scope.pp("submodule");
        let down = if last { submodule } else { submodule.pp(0) };
        let attention = scope.pp("attention");
        let inside = width / 2;
        let io = [below, width];
        let up = scope.pp("upconv").pp("up");
        let three = vec![3; c.dims];
        let one = vec![1; c.dims];
        Ok(Self {
            down: Double::new(c, [width, below], stride, &down)?,
            up: ConvAdn::up(io, &c.up_kernel, stride, true, Some(BATCH_RELU), &up)?,
            gate: Projection::new(c, width, inside, &attention.pp("W_g"))?,
            skip: Projection::new(c, width, inside, &attention.pp("W_x"))?,
            psi: Projection::new(c, inside, 1, &attention.pp("psi"))?,
            merge: ConvAdn::down(
                [2 * width, width],
                &three,
                &one,
                true,
                Some(INSTANCE_PRELU),
                &scope.pp("merge"),
            )?,
        })
    }

    fn back(&self, skip: &Tensor, below: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let up = self.up.forward(below, ctx)?;
        let sum =
            limpid_kernels::add(&self.gate.forward(&up, ctx)?, &self.skip.forward(skip, ctx)?)?;
        let weight = sigmoid(&self.psi.forward(&relu(&sum)?, ctx)?)?;
        // summed over the channels in its gradient
        let kept = widened(skip)?.broadcast_mul(&widened(&weight)?)?;
        let kept = cast(&kept, skip.dtype())?;
        self.merge.forward_cat(&[&kept, &up], ctx)
    }
}

/// The network.
#[derive(Debug)]
pub struct AttentionUNet {
    first: Double,
    levels: Vec<Level>,
    last: Conv,
    in_channels: usize,
    divisor: Vec<usize>,
    residual: bool,
}

impl AttentionUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("model");
        let mut place = scope.pp(1);
        let mut levels = Vec::new();
        for level in 0..c.channels.len() - 1 {
            levels.push(Level::new(c, level, &place)?);
            place = place.pp("submodule").pp(1);
        }
        let io = [c.in_channels, c.channels[0]];
        let last = scope.pp(2).pp("conv");
        Ok(Self {
            first: Double::new(c, io, &vec![1; c.dims], &scope.pp(0))?,
            levels,
            last: Conv::same(c.dims, c.channels[0], c.out_channels, 1, true, &last)?,
            in_channels: c.in_channels,
            divisor: c.divisor(),
            residual: c.residual,
        })
    }
}

impl Network for AttentionUNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image("attention_unet", x, self.in_channels, &self.divisor)?;
        let mut h = self.first.forward(x, ctx)?;
        let mut skips = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            skips.push(h.clone());
            h = level.down.forward(&h, ctx)?;
        }
        for (level, skip) in self.levels.iter().zip(&skips).rev() {
            h = level.back(skip, &h, ctx)?;
        }
        let y = self.last.forward(&h)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_monai() {
        golden::check("net_monai_attentionunet2d");
    }

    #[test]
    fn shapes_tell_the_configuration() {
        golden::round_trip(&Config::isotropic(3, &[4, 6, 10]), Config::recognise);
        let wide = Config { kernel: vec![5, 3], up_kernel: vec![3, 5], ..Config::small() };
        golden::round_trip(&wide, Config::recognise);
    }

    #[test]
    fn levels_may_have_strides_of_their_own_per_axis() {
        let strides = vec![vec![1, 2, 2], vec![2, 3, 1]];
        let config = Config { strides, ..Config::isotropic(3, &[2, 4, 6]) };
        assert_eq!(config.divisor(), [2, 6, 2]);
        golden::keeps_size(&config, &[4, 12, 6]);
    }

    #[test]
    fn training_moves_the_running_statistics_of_every_level() {
        let config = Config::isotropic(2, &[2, 4, 6]);
        let (params, net) = golden::fresh(|scope| AttentionUNet::new(&config, scope));
        let x = limpid_kernels::gradcheck::test_tensor(1, &[2, 1, 8, 8]).unwrap();
        let x = x.to_dtype(candle_core::DType::F32).unwrap();
        // copies, since the values are replaced in place
        let copy = |(key, value): (String, Tensor)| (key, value.copy().unwrap());
        let before: Vec<_> = params.tensors().into_iter().map(copy).collect();
        let stream = limpid_kernels::rng::Stream::new(0, "test");
        net.forward(&x, &Ctx::train(stream)).unwrap();
        let moved = |key: &String, old: &Tensor| {
            let now = params.get(key).unwrap().tensor();
            let change = (now - old).unwrap().abs().unwrap().max_all().unwrap();
            change.to_scalar::<f32>().unwrap() > 0.0
        };
        for (key, old) in &before {
            assert_eq!(moved(key, old), key.contains("running_"), "{key}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        golden::refuses(&Config::isotropic(2, &[4, 6, 8]), &[1, 1, 16, 18]);
    }
}
