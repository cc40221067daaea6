//! The residual generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593; Johnson et al. 2016,
//! arXiv:1603.08155).
//!
//! Reference: junyanz/pytorch-CycleGAN-and-pix2pix `ResnetGenerator` (BSD); keys `model.N` count
//! every layer of its `Sequential`.
//!
//! ```text
//! x [N, in, s…] → conv 7 (f) → conv 3, stride 2 (2f) → conv 3, stride 2 (4f)
//!   → (x + conv 3, norm, relu, conv 3, norm) × blocks
//!   → transposed conv 3, stride 2 (2f) → the same (f) → conv 7 → tanh → [N, out, s…]
//! ```
//! All convolutions but the last are normalised, and ReLUs follow. The 7-convolutions mirror the
//! border.

use crate::cubic::{Cubic, bordered};
use crate::cyclegan::{self, Normalisation};
use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Activation, Pad, dropout, tanh};
use limpid_nn::layers::{Conv, ConvTranspose, Norm};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What lies beyond the border for the residual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// The image mirrored about its border pixels.
    Reflect,
    /// The border pixels.
    Replicate,
    /// Zeros.
    Zero,
}

/// Settings of the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Spatial dimensions, 2 or 3.
    pub dims: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the first convolution.
    pub features: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Normalisation after the convolutions.
    pub norm: Normalisation,
    /// What lies beyond the border for the residual blocks.
    pub border: Border,
    /// Drop half of the values inside the residual blocks in training.
    pub dropout: bool,
}

impl Default for Config {
    /// `resnet_9blocks` as CycleGAN trains it.
    fn default() -> Self {
        Self {
            dims: 2,
            in_channels: 3,
            out_channels: 3,
            features: 64,
            blocks: 9,
            norm: Normalisation::Instance,
            border: Border::Reflect,
            dropout: false,
        }
    }
}

impl Config {
    /// `resnet_6blocks`, for images of 128 pixels.
    #[must_use]
    pub fn six_blocks() -> Self {
        Self { blocks: 6, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to. Mirrored and repeated border pixels
    /// look the same.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        const FIRST: &str = "model.1.weight";
        let has = |key: &str| shapes.contains_key(key);
        let padded = |i: usize| has(&format!("model.{i}.conv_block.1.weight"));
        let bare = |i: usize| has(&format!("model.{i}.conv_block.0.weight"));
        let blocks = (10..).take_while(|i| padded(*i) || bare(*i)).count();
        let zero = blocks > 0 && bare(10);
        // a dropout moves the second convolution back by one
        let second = if zero { 3 } else { 5 };
        let (plain, moved) = (second, second + 1);
        let weight = |at: usize| size_of(shapes, &format!("model.10.conv_block.{at}.weight"), 2);
        let dropout = weight(plain).is_none() && weight(moved).is_some();
        let last = format!("model.{}.weight", 17 + blocks);
        if size_of(shapes, FIRST, 2) != Some(7) || size_of(shapes, &last, 2) != Some(7) {
            return None;
        }
        Some(Self {
            dims: rank_of(shapes, FIRST)?,
            in_channels: size_of(shapes, FIRST, 1)?,
            out_channels: size_of(shapes, &last, 0)?,
            features: size_of(shapes, FIRST, 0)?,
            blocks,
            norm: Normalisation::recognise(shapes, "model.1", "model.2"),
            border: if zero { Border::Zero } else { Border::Reflect },
            dropout,
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "resnet_generator"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        ResnetGenerator::new(self, scope).map(drop)
    }

    fn own_key(&self, key: &str) -> Option<String> {
        self.norm.own_key(key)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(ResnetGenerator::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 4: the image is halved twice. (The output for another size is rounded up to it.)
    fn divisor(&self) -> Vec<usize> {
        vec![4; self.dims]
    }

    /// The 7-convolutions see 12 pixels around, the strided ones 6, those that double the image 6,
    /// each residual block 16.
    fn receptive_field(&self) -> Vec<usize> {
        vec![1 + 12 + 6 + 6 + 16 * self.blocks; self.dims]
    }

    fn activation_bytes(&self) -> usize {
        let shrink = 1 << self.dims;
        let inner = 4 * 4 * self.features / (shrink * shrink);
        4 * (6 * self.features + 12 * self.features / shrink + (self.blocks + 3) * inner)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("features", self.features),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1");
            }
        }
    }
}

/// Two convolutions, added to their input.
#[derive(Debug)]
struct Block {
    convs: [(Conv, Norm); 2],
    border: Border,
    dropout: bool,
}

impl Block {
    fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = scope.pp("conv_block");
        let width = 4 * c.features;
        let (zero, dropout) = (c.border == Border::Zero, usize::from(c.dropout));
        let padding = usize::from(zero);
        let cubic = Cubic { dims: c.dims, kernel: 3, stride: 1, padding };
        let conv = |at: usize| -> Result<_> {
            let conv = cubic.conv(width, width, c.norm.bias(), &scope.pp(at))?;
            Ok((conv, c.norm.layer(width, &scope.pp(at + 1))?))
        };
        // each border that is not made of zeros is a layer of its own
        let (first, second) = if zero { (0, 3 + dropout) } else { (1, 5 + dropout) };
        Ok(Self { convs: [conv(first)?, conv(second)?], border: c.border, dropout: c.dropout })
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let conv = |x: &Tensor, (conv, norm): &(Conv, Norm), f: Activation| {
            let padded = match self.border {
                Border::Reflect => bordered(x, 1, Pad::Reflect)?,
                Border::Replicate => bordered(x, 1, Pad::Replicate)?,
                Border::Zero => x.clone(),
            };
            norm.forward_act(&conv.forward(&padded)?, f, ctx)
        };
        let mut h = conv(x, &self.convs[0], Activation::Relu)?;
        if self.dropout && ctx.is_train() {
            h = dropout(&h, 0.5, ctx.next_stream())?;
        }
        limpid_kernels::add(x, &conv(&h, &self.convs[1], Activation::Identity)?)
    }
}

/// The network.
#[derive(Debug)]
pub struct ResnetGenerator {
    down: Vec<(Conv, Norm)>,
    blocks: Vec<Block>,
    up: Vec<(ConvTranspose, Norm)>,
    last: Conv,
}

impl ResnetGenerator {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let scope = cyclegan::initialised(scope).pp("model");
        let (f, bias) = (c.features, c.norm.bias());
        let wide = Cubic { dims: c.dims, kernel: 7, stride: 1, padding: 0 };
        let strided = Cubic { dims: c.dims, kernel: 3, stride: 2, padding: 1 };
        let mut down = vec![(
            wide.conv(c.in_channels, f, bias, &scope.pp(1))?,
            c.norm.layer(f, &scope.pp(2))?,
        )];
        for (at, inputs) in [(4, f), (7, 2 * f)] {
            let conv = strided.conv(inputs, 2 * inputs, bias, &scope.pp(at))?;
            down.push((conv, c.norm.layer(2 * inputs, &scope.pp(at + 1))?));
        }
        let blocks =
            (0..c.blocks).map(|i| Block::new(c, &scope.pp(10 + i))).collect::<Result<_>>()?;
        let next = 10 + c.blocks;
        let mut up = Vec::new();
        for (at, outputs) in [(next, 2 * f), (next + 3, f)] {
            let conv = strided.transposed(2 * outputs, outputs, 1, bias, &scope.pp(at))?;
            up.push((conv, c.norm.layer(outputs, &scope.pp(at + 1))?));
        }
        let last = wide.conv(f, c.out_channels, true, &scope.pp(next + 7))?;
        Ok(Self { down, blocks, up, last })
    }
}

impl Network for ResnetGenerator {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = bordered(x, 3, Pad::Reflect)?;
        for (conv, norm) in &self.down {
            h = norm.forward_act(&conv.forward(&h)?, Activation::Relu, ctx)?;
        }
        for block in &self.blocks {
            h = block.forward(&h, ctx)?;
        }
        for (conv, norm) in &self.up {
            h = norm.forward_act(&conv.forward(&h)?, Activation::Relu, ctx)?;
        }
        tanh(&self.last.forward(&bordered(&h, 3, Pad::Reflect)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, gan};
    use crate::{AnyConfig, NetworkConfig};
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    #[test]
    fn equals_the_cyclegan_code() {
        gan::check_image("cg_resnet6_batch");
        gan::check_image("cg_resnet6_instance");
    }

    #[test]
    fn sizes_are_those_of_the_reference() {
        assert_eq!(golden::parameters(&Config::default()), 11_378_179);
        assert_eq!(golden::parameters(&Config::six_blocks()), 7_837_699);
    }

    #[test]
    fn every_layout_of_the_blocks_is_recognised_and_runs() {
        for border in [Border::Reflect, Border::Zero] {
            for dropout in [false, true] {
                for norm in [Normalisation::Batch, Normalisation::Instance, Normalisation::None] {
                    let config = Config {
                        in_channels: 1,
                        out_channels: 2,
                        features: 2,
                        blocks: 2,
                        norm,
                        border,
                        dropout,
                        ..Config::default()
                    };
                    let best = crate::recognise(&config.shapes().unwrap()).remove(0);
                    assert_eq!(best.mismatches, 0);
                    let AnyConfig::Image(NetworkConfig::ResnetGenerator(found)) = best.config
                    else {
                        panic!("{:?}", best.config)
                    };
                    assert_eq!(found, config);
                    let stream = Stream::new(0, "test");
                    let scope = Params::new().scope(stream, DType::F32, &Device::Cpu);
                    let net = ResnetGenerator::new(&config, &scope).unwrap();
                    let x = Tensor::ones((2, 1, 8, 12), DType::F32, &Device::Cpu).unwrap();
                    let y = net.forward(&x, &Ctx::train(stream)).unwrap();
                    assert_eq!(y.dims(), [2, 2, 8, 12]);
                }
            }
        }
    }
}
