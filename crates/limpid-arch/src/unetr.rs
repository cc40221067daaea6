//! UNETR: the decoder of a U-Net on the states of a vision transformer (Hatamizadeh et al. 2022,
//! arXiv:2103.10504).
//!
//! Reference: MONAI `UNETR` (Apache-2.0). Skip connections start from the states after the fourth,
//! seventh and tenth block.
//!
//! ```text
//! x → patches of 16 → transformer → states z4, z7, z10, last [N, width, s/16…]
//!   last → decoder5 (+ encoder4 z10) → decoder4 (+ encoder3 z7) → decoder3 (+ encoder2 z4)
//!   → decoder2 (+ encoder1 x) → out [N, out, s…] (+ x)
//! ```

use crate::adn::{check_norm, norm_of};
use crate::dynunet::Block;
use crate::transformer::{MONAI_VIT, TokenSpec, Tokens, Variant, Vit, VitConfig, likely_grid};
use crate::{Architecture, ImageArchitecture, Network, Shapes, rank_of, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvTransposeSpec;
use limpid_nn::layers::{Conv, ConvTranspose, NormConfig};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Side of a patch: four times the factor 2 of the decoder.
const PATCH: usize = 16;

/// Blocks after which the skip connections of encoders 2, 3 and 4 start, counted from 0.
const STATES: [usize; 3] = [3, 6, 9];

/// Settings of a UNETR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Size of the only image it takes; 2 or 3 multiples of 16.
    pub image_size: Vec<usize>,
    /// Features at full resolution; they double four times.
    pub features: usize,
    /// The transformer, of at least 10 blocks; the reference has 12.
    pub transformer: VitConfig,
    /// Offsets of queries, keys and values.
    pub qkv_bias: bool,
    /// Make tokens by a linear layer instead of a convolution.
    pub perceptron: bool,
    /// Keep the normalisation that MONAI's blocks have since version 1.4 and never run.
    pub spare_norm: bool,
    /// Normalisation after each convolution.
    pub norm: NormConfig,
    /// Convolutions after each step of upsampling of the states.
    pub conv_blocks: bool,
    /// Residual blocks.
    pub residual_blocks: bool,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// MONAI's defaults, at the size of the published network.
    fn default() -> Self {
        Self {
            in_channels: 1,
            out_channels: 1,
            image_size: vec![96; 3],
            features: 16,
            transformer: VitConfig::default(),
            qkv_bias: false,
            perceptron: false,
            spare_norm: true,
            norm: NormConfig::Instance { affine: false },
            conv_blocks: true,
            residual_blocks: true,
            residual: false,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to. They tell the number of tokens, which
    /// is taken for that of a cubic image, and not the heads, of which 12 are usual.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let first = "encoder1.layer.conv1.conv.weight";
        let dims = rank_of(shapes, first)?;
        let embedding = "vit.patch_embedding";
        let tokens = size_of(shapes, &format!("{embedding}.position_embeddings"), 1)?;
        let has = |key: &str| shapes.contains_key(key);
        Some(Self {
            in_channels: size_of(shapes, first, 1)?,
            out_channels: size_of(shapes, "out.conv.conv.weight", 0)?,
            image_size: likely_grid(tokens, dims).iter().map(|g| g * PATCH).collect(),
            features: size_of(shapes, first, 0)?,
            transformer: VitConfig::recognise_monai(shapes, "vit.")?,
            qkv_bias: has("vit.blocks.0.attn.qkv.bias"),
            perceptron: has(&format!("{embedding}.patch_embeddings.1.weight")),
            spare_norm: has("vit.blocks.0.norm_cross_attn.weight"),
            norm: norm_of(shapes, "encoder1.layer.norm1"),
            conv_blocks: has("encoder2.blocks.0.1.conv1.conv.weight"),
            residual_blocks: has("decoder5.conv_block.conv3.conv.weight"),
            residual: false,
        })
    }

    fn tokens(&self) -> TokenSpec {
        TokenSpec {
            channels: self.in_channels,
            image: self.image_size.clone(),
            patch: vec![PATCH; self.image_size.len()],
            width: self.transformer.width,
        }
    }

    fn blocks(&self) -> Blocks {
        let dims = self.image_size.len();
        Blocks { dims, norm: self.norm, residual: self.residual_blocks }
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "unetr"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        Unetr::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(Unetr::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 16, though there is only one image size.
    fn divisor(&self) -> Vec<usize> {
        vec![PATCH; self.image_size.len()]
    }

    /// The whole image.
    fn receptive_field(&self) -> Vec<usize> {
        self.image_size.clone()
    }

    fn activation_bytes(&self) -> usize {
        let patch = PATCH.pow(self.image_size.len() as u32);
        self.transformer.token_bytes().div_ceil(patch) + 4 * 8 * self.features
    }

    fn fixed_size(&self) -> Option<Vec<usize>> {
        Some(self.image_size.clone())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        self.tokens().validate(at);
        at.nested("transformer", &self.transformer);
        let least = STATES[2] + 1;
        if self.transformer.layers < least {
            let message = format!("must be at least {least}, got {}", self.transformer.layers);
            at.problem("transformer.layers", message);
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("features", self.features),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1, got 0");
            }
        }
        check_norm(self.norm, &[self.features], at);
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// What the convolutional blocks of a network have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) dims: usize,
    pub(crate) norm: NormConfig,
    pub(crate) residual: bool,
}

impl Blocks {
    /// Two convolutions at the same resolution.
    pub(crate) fn block(self, io: [usize; 2], scope: &Scope) -> Result<Block> {
        let one = vec![1; self.dims];
        Block::new(self.norm, io, &vec![3; self.dims], &one, self.residual, scope)
    }

    /// Transposed convolution to twice the size.
    fn double(self, [inputs, outputs]: [usize; 2], scope: &Scope) -> Result<ConvTranspose> {
        let two = vec![2; self.dims];
        let spec = ConvTransposeSpec { stride: two.clone(), ..ConvTransposeSpec::unit(self.dims) };
        ConvTranspose::new(inputs, outputs, &two, spec, false, &scope.pp("conv"))
    }
}

/// Upsampling, concatenation with the skip connection, two convolutions (`UnetrUpBlock`).
#[derive(Debug)]
pub(crate) struct UpBlock {
    up: ConvTranspose,
    block: Block,
}

impl UpBlock {
    pub(crate) fn new(
        blocks: Blocks,
        [inputs, outputs]: [usize; 2],
        scope: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            up: blocks.double([inputs, outputs], &scope.pp("transp_conv"))?,
            block: blocks.block([2 * outputs, outputs], &scope.pp("conv_block"))?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, skip: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.block.forward_cat(&[&self.up.forward(x)?, skip], ctx)
    }
}

/// Repeated upsampling of a state (`UnetrPrUpBlock`).
#[derive(Debug)]
struct StateUp {
    first: ConvTranspose,
    steps: Vec<(ConvTranspose, Option<Block>)>,
}

impl StateUp {
    fn new(c: &Config, outputs: usize, steps: usize, scope: &Scope) -> Result<Self> {
        let (blocks, io) = (c.blocks(), [outputs; 2]);
        let step = |i| {
            let scope = scope.pp("blocks").pp(i);
            if !c.conv_blocks {
                return Ok((blocks.double(io, &scope)?, None));
            }
            Ok((blocks.double(io, &scope.pp(0))?, Some(blocks.block(io, &scope.pp(1))?)))
        };
        let first = scope.pp("transp_conv_init");
        Ok(Self {
            first: blocks.double([c.transformer.width, outputs], &first)?,
            steps: (0..steps).map(step).collect::<Result<_>>()?,
        })
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = self.first.forward(x)?;
        for (up, block) in &self.steps {
            h = up.forward(&h)?;
            if let Some(block) = block {
                h = block.forward(&h, ctx)?;
            }
        }
        Ok(h)
    }
}

/// The network.
#[derive(Debug)]
pub struct Unetr {
    vit: Vit,
    full: Block,
    states: Vec<StateUp>,
    /// The coarsest first.
    decoder: Vec<UpBlock>,
    out: Conv,
    residual: bool,
}

impl Unetr {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (inner, blocks, f) = (scope.pp("vit"), c.blocks(), c.features);
        let tokens = Tokens::monai(c.tokens(), c.perceptron, &inner)?;
        let (qkv_bias, spare_norm) = (c.qkv_bias, c.spare_norm);
        let variant = Variant { style: MONAI_VIT, qkv_bias, spare_norm };
        let state =
            |i: usize| StateUp::new(c, f << i, 3 - i, &scope.pp(format!("encoder{}", i + 1)));
        let decoder = |level: usize| {
            let inputs = if level == 3 { c.transformer.width } else { f << (level + 1) };
            UpBlock::new(blocks, [inputs, f << level], &scope.pp(format!("decoder{}", level + 2)))
        };
        let out = scope.pp("out").pp("conv").pp("conv");
        Ok(Self {
            vit: Vit::new(&c.transformer, tokens, variant, &inner)?,
            full: blocks.block([c.in_channels, f], &scope.pp("encoder1").pp("layer"))?,
            states: (1..=3).map(state).collect::<Result<_>>()?,
            decoder: (0..=3).rev().map(decoder).collect::<Result<_>>()?,
            out: Conv::same(blocks.dims, f, c.out_channels, 1, true, &out)?,
            residual: c.residual,
        })
    }
}

impl Network for Unetr {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let (last, states) = self.vit.forward(x, ctx)?;
        let mut skips = vec![self.full.forward(x, ctx)?];
        for (up, i) in self.states.iter().zip(STATES) {
            let state = states.get(i).ok_or_else(|| {
                Error::argument("unetr", format!("the transformer has no block {i}"))
            })?;
            skips.push(up.forward(&self.vit.image(state)?, ctx)?);
        }
        let mut h = self.vit.image(&last)?;
        for (up, skip) in self.decoder.iter().zip(skips.iter().rev()) {
            h = up.forward(&h, skip, ctx)?;
        }
        let y = self.out.forward(&h)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, golden};
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;
    use limpid_nn::Params;

    /// Shapes do not tell the heads.
    fn two_heads(config: NetworkConfig) -> NetworkConfig {
        let NetworkConfig::Unetr(mut c) = config else { panic!("recognised as {config:?}") };
        c.transformer.heads = 2;
        NetworkConfig::Unetr(c)
    }

    #[test]
    fn equals_monai() {
        golden::check_as("net_monai_unetr2d", two_heads);
    }

    #[test]
    fn other_blocks_are_recognised_and_run_on_volumes() {
        let c = Config {
            in_channels: 2,
            out_channels: 3,
            image_size: vec![16, 32, 16],
            features: 2,
            transformer: VitConfig { width: 6, mlp: 5, layers: 10, heads: 6 },
            qkv_bias: true,
            perceptron: true,
            spare_norm: false,
            norm: NormConfig::Batch {},
            conv_blocks: false,
            residual_blocks: false,
            residual: false,
        };
        assert!(limpid_config::check(&c).is_empty());
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, &Device::Cpu);
        let net = c.build(&scope).unwrap();
        let found = Config::recognise(&params.shapes()).unwrap();
        assert_eq!(found, Config { image_size: vec![16, 16, 32], ..c });
        let x = Tensor::ones((1, 2, 16, 32, 16), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(net.forward(&x, &Ctx::eval()).unwrap().dims(), [1, 3, 16, 32, 16]);
        assert!(net.forward(&x.transpose(2, 3).unwrap(), &Ctx::eval()).is_err());
    }
}
