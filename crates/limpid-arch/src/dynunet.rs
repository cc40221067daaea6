//! DynUNet: the U-Net that nnU-Net configures for a data set (Isensee et al. 2021,
//! doi:10.1038/s41592-020-01008-z).
//!
//! Reference: MONAI `DynUNet` (Apache-2.0), without deep supervision. Its `state_dict` names every
//! block twice, the second time below `skip_layers`; those doubles are left out here.
//!
//! ```text
//! x → input_block → downsamples.i (stride) → bottleneck (stride)
//!   → upsamples.i: transposed convolution, cat with skip, block → output_block (1×1)
//! ```

use crate::adn::{check_norm, check_strides, norm_of};
use crate::{Architecture, ImageArchitecture, Network, Shapes, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, ConvSpec, ConvTransposeSpec};
use limpid_nn::layers::{Conv, ConvTranspose, Norm, NormConfig};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SLOPE: f64 = 0.01;

/// Settings of a DynUNet.
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
    pub filters: Vec<usize>,
    /// Kernel size of each level and axis (odd); one entry per level.
    pub kernels: Vec<Vec<usize>>,
    /// Stride into each level and axis; the first is 1.
    pub strides: Vec<Vec<usize>>,
    /// Residual blocks on the way down.
    pub residual_blocks: bool,
    /// Normalisation after each convolution.
    pub norm: NormConfig,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// Four levels for small images.
    fn default() -> Self {
        Self::isotropic(2, &[32, 64, 128, 256])
    }
}

impl Config {
    /// 3-kernels and strides of 2 on all axes.
    #[must_use]
    pub fn isotropic(dims: usize, filters: &[usize]) -> Self {
        let strides = |i| vec![if i == 0 { 1 } else { 2 }; dims];
        Self {
            dims,
            in_channels: 1,
            out_channels: 1,
            filters: filters.to_vec(),
            kernels: vec![vec![3; dims]; filters.len()],
            strides: (0..filters.len()).map(strides).collect(),
            residual_blocks: false,
            norm: NormConfig::Instance { affine: true },
            residual: false,
        }
    }

    /// The configuration that a checkpoint's shapes belong to; strides are taken from the
    /// transposed convolutions.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = shapes.get("input_block.conv1.conv.weight")?;
        let dims = first.len().checked_sub(2)?;
        let levels: usize = (0..)
            .take_while(|i| shapes.contains_key(&format!("downsamples.{i}.conv1.conv.weight")))
            .count();
        let blocks: Vec<String> = std::iter::once("input_block".to_owned())
            .chain((0..levels).map(|i| format!("downsamples.{i}")))
            .chain(std::iter::once("bottleneck".to_owned()))
            .collect();
        let weights = blocks
            .iter()
            .map(|b| shapes.get(&format!("{b}.conv1.conv.weight")))
            .collect::<Option<Vec<_>>>()?;
        let mut strides = vec![vec![1; dims]];
        for i in (0..=levels).rev() {
            let up = shapes.get(&format!("upsamples.{i}.transp_conv.conv.weight"))?;
            strides.push(up.get(2..)?.to_vec());
        }
        Some(Self {
            dims,
            in_channels: *first.get(1)?,
            out_channels: size_of(shapes, "output_block.conv.conv.weight", 0)?,
            filters: weights.iter().map(|w| w.first().copied()).collect::<Option<_>>()?,
            kernels: weights
                .iter()
                .map(|w| w.get(2..).map(<[usize]>::to_vec))
                .collect::<Option<_>>()?,
            strides,
            residual_blocks: shapes.contains_key("input_block.conv3.conv.weight"),
            norm: norm_of(shapes, "input_block.norm1"),
            residual: false,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "dynunet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        DynUNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(DynUNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Product of the strides per axis.
    fn divisor(&self) -> Vec<usize> {
        (0..self.dims).map(|a| self.strides.iter().map(|s| s[a]).product()).collect()
    }

    /// Sum over all convolutions of `(k-1)` times the spacing of their level.
    fn receptive_field(&self) -> Vec<usize> {
        let axis = |a: usize| {
            let (mut field, mut spacing) = (1, 1);
            for (level, (k, s)) in self.kernels.iter().zip(&self.strides).enumerate() {
                let down = (k[a] - 1) * spacing + (k[a] - 1) * spacing * s[a];
                spacing *= s[a];
                let up = if level + 1 < self.kernels.len() { 2 * (k[a] - 1) * spacing } else { 0 };
                field += down + up;
            }
            field
        };
        (0..self.dims).map(axis).collect()
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * 6 * self.filters.first().copied().unwrap_or(1)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if self.filters.len() < 3 || self.filters.contains(&0) {
            at.problem("filters", "must give at least 3 levels, each above 0");
        }
        for (key, lists) in [("kernels", &self.kernels), ("strides", &self.strides)] {
            if lists.len() != self.filters.len() {
                at.problem(key, format!("must have {} entries, one per level", self.filters.len()));
            }
            for (i, list) in lists.iter().enumerate() {
                if list.len() != self.dims || list.contains(&0) {
                    at.problem(
                        format!("{key}.{i}"),
                        format!("must have {} numbers above 0", self.dims),
                    );
                }
                if key == "kernels" && list.iter().any(|k| k % 2 == 0) {
                    at.problem(format!("{key}.{i}"), "must be odd");
                }
            }
        }
        check_strides(&self.strides, at);
        check_norm(self.norm, &self.filters, at);
        if self.strides.first().is_some_and(|s| s.iter().any(|&v| v != 1)) {
            at.problem("strides.0", "must be 1").hint("the first level keeps the image size");
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// Two convolutions with normalisation (`UnetBasicBlock`), optionally residual (`UnetResBlock`).
#[derive(Debug)]
pub(crate) struct Block {
    conv1: Conv,
    norm1: Norm,
    conv2: Conv,
    norm2: Norm,
    residual: bool,
    /// 1×1 shortcut where the shape changes.
    shortcut: Option<(Conv, Norm)>,
}

impl Block {
    pub(crate) fn new(
        norm: NormConfig,
        [inputs, outputs]: [usize; 2],
        kernel: &[usize],
        stride: &[usize],
        residual: bool,
        scope: &Scope,
    ) -> Result<Self> {
        let dims = kernel.len();
        let conv = |name: &str, inputs: usize, kernel: &[usize], stride: &[usize]| {
            let padding = kernel.iter().zip(stride).map(|(k, s)| (k + 1).saturating_sub(*s) / 2);
            let spec = ConvSpec {
                stride: stride.to_vec(),
                padding: padding.collect(),
                ..ConvSpec::unit(dims)
            };
            Conv::new(inputs, outputs, kernel, spec, false, &scope.pp(name).pp("conv"))
        };
        let one = vec![1; dims];
        let changes = inputs != outputs || stride.iter().any(|&s| s != 1);
        Ok(Self {
            conv1: conv("conv1", inputs, kernel, stride)?,
            norm1: Norm::new(norm, outputs, &scope.pp("norm1"))?,
            conv2: conv("conv2", outputs, kernel, &one)?,
            norm2: Norm::new(norm, outputs, &scope.pp("norm2"))?,
            residual,
            shortcut: (residual && changes)
                .then(|| {
                    Ok::<_, limpid_nn::Error>((
                        conv("conv3", inputs, &one, stride)?,
                        Norm::new(norm, outputs, &scope.pp("norm3"))?,
                    ))
                })
                .transpose()?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.forward_cat(&[x], ctx)
    }

    /// Of tensors joined along the channels, which need no join.
    pub(crate) fn forward_cat(&self, parts: &[&Tensor], ctx: &Ctx) -> Result<Tensor> {
        let leaky = Activation::LeakyRelu { slope: SLOPE };
        let h = self.norm1.forward_act(&self.conv1.forward_cat(parts)?, leaky, ctx)?;
        let h = self.conv2.forward(&h)?;
        if !self.residual {
            return self.norm2.forward_act(&h, leaky, ctx);
        }
        let skip = match &self.shortcut {
            Some((conv, norm)) => norm.forward(&conv.forward_cat(parts)?, ctx)?,
            None => limpid_kernels::cat(parts, 1)?,
        };
        leaky.apply(&limpid_kernels::add(&self.norm2.forward(&h, ctx)?, &skip)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct DynUNet {
    /// Input block, downsamples and bottleneck.
    down: Vec<Block>,
    up: Vec<(ConvTranspose, Block)>,
    last: Conv,
    residual: bool,
}

impl DynUNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let levels = c.filters.len();
        let down = (0..levels)
            .map(|i| {
                let scope = match i {
                    0 => scope.pp("input_block"),
                    i if i + 1 == levels => scope.pp("bottleneck"),
                    i => scope.pp("downsamples").pp(i - 1),
                };
                let inputs = if i == 0 { c.in_channels } else { c.filters[i - 1] };
                let io = [inputs, c.filters[i]];
                Block::new(c.norm, io, &c.kernels[i], &c.strides[i], c.residual_blocks, &scope)
            })
            .collect::<Result<_>>()?;
        let up = (1..levels)
            .rev()
            .enumerate()
            .map(|(i, level)| {
                let scope = scope.pp("upsamples").pp(i);
                let (inputs, outputs) = (c.filters[level], c.filters[level - 1]);
                let stride = &c.strides[level];
                let spec =
                    ConvTransposeSpec { stride: stride.clone(), ..ConvTransposeSpec::unit(c.dims) };
                let name = scope.pp("transp_conv").pp("conv");
                let one = vec![1; c.dims];
                let io = [2 * outputs, outputs];
                Ok((
                    ConvTranspose::new(inputs, outputs, stride, spec, false, &name)?,
                    Block::new(
                        c.norm,
                        io,
                        &c.kernels[level],
                        &one,
                        false,
                        &scope.pp("conv_block"),
                    )?,
                ))
            })
            .collect::<Result<_>>()?;
        let last = scope.pp("output_block").pp("conv").pp("conv");
        Ok(Self {
            down,
            up,
            last: Conv::same(c.dims, c.filters[0], c.out_channels, 1, true, &last)?,
            residual: c.residual,
        })
    }
}

impl Network for DynUNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut scales = vec![x.clone()];
        for block in &self.down {
            let next = block.forward(&scales[scales.len() - 1], ctx)?;
            scales.push(next);
        }
        let mut h = scales[scales.len() - 1].clone();
        for (i, (up, block)) in self.up.iter().enumerate() {
            let skip = &scales[scales.len() - 2 - i];
            h = block.forward_cat(&[&up.forward(&h)?, skip], ctx)?;
        }
        let y = self.last.forward(&h)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use crate::golden;

    #[test]
    fn equals_monai() {
        golden::check("net_monai_dynunet2d");
        golden::check("net_monai_dynunet3d_res");
    }
}
