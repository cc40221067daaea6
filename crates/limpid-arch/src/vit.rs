//! Vision transformer from image to image: the tokens of a vision transformer (Dosovitskiy et al.
//! 2021, arXiv:2010.11929), each mapped back to the pixels of its patch.
//!
//! Reference: the trunk is timm's `VisionTransformer` (Apache-2.0) without class token, below `vit`;
//! `head` is one linear layer.
//!
//! ```text
//! x [N, in, s…] → tokens [N, L, width] → blocks → norm → head [N, L, p…·out] → [N, out, s…] (+ x)
//! ```

use crate::transformer::{TIMM, TokenSpec, Tokens, Variant, Vit, VitConfig, likely_grid, unpatch};
use crate::{Architecture, ImageArchitecture, Network, Shapes, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_nn::layers::Linear;
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a vision transformer from image to image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Size of the only image it takes; 2 or 3 numbers.
    pub image_size: Vec<usize>,
    /// Size of a patch; divides that of the image.
    pub patch_size: Vec<usize>,
    /// The transformer.
    pub transformer: VitConfig,
    /// Offsets of queries, keys and values.
    pub qkv_bias: bool,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// ViT-B/16 at 224×224 pixels, timm's default, on grey images.
    fn default() -> Self {
        Self {
            in_channels: 1,
            out_channels: 1,
            image_size: vec![224; 2],
            patch_size: vec![16; 2],
            transformer: VitConfig::default(),
            qkv_bias: true,
            residual: true,
        }
    }
}

impl Config {
    /// timm's ViT-Ti/16.
    #[must_use]
    pub fn tiny() -> Self {
        Self::of_width(192)
    }

    /// timm's ViT-S/16.
    #[must_use]
    pub fn small() -> Self {
        Self::of_width(384)
    }

    fn of_width(width: usize) -> Self {
        let transformer =
            VitConfig { width, mlp: 4 * width, heads: width / 64, ..VitConfig::default() };
        Self { transformer, ..Self::default() }
    }

    /// The configuration that a checkpoint's shapes belong to. They tell the number of tokens, which
    /// is taken for that of a square image, and not the heads, of which 64 features each are usual.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let [_, in_channels, patch @ ..] = shapes.get("vit.patch_embed.proj.weight")?.as_slice()
        else {
            return None;
        };
        let pixels: usize = patch.iter().product();
        let out_channels = size_of(shapes, "head.weight", 0)? / pixels.max(1);
        let grid = likely_grid(size_of(shapes, "vit.pos_embed", 1)?, patch.len());
        Some(Self {
            in_channels: *in_channels,
            out_channels,
            image_size: grid.iter().zip(patch).map(|(g, p)| g * p).collect(),
            patch_size: patch.to_vec(),
            transformer: VitConfig::recognise_timm(shapes, "vit.")?,
            qkv_bias: shapes.contains_key("vit.blocks.0.attn.qkv.bias"),
            residual: out_channels == *in_channels,
        })
    }

    fn tokens(&self) -> TokenSpec {
        TokenSpec {
            channels: self.in_channels,
            image: self.image_size.clone(),
            patch: self.patch_size.clone(),
            width: self.transformer.width,
        }
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "vit"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        ImageVit::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(ImageVit::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Size of a patch, though there is only one image size.
    fn divisor(&self) -> Vec<usize> {
        self.patch_size.clone()
    }

    /// The whole image.
    fn receptive_field(&self) -> Vec<usize> {
        self.image_size.clone()
    }

    fn activation_bytes(&self) -> usize {
        let patch: usize = self.patch_size.iter().product();
        self.transformer.token_bytes().div_ceil(patch.max(1)) + 12 * self.out_channels
    }

    fn fixed_size(&self) -> Option<Vec<usize>> {
        Some(self.image_size.clone())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        self.tokens().validate(at);
        at.nested("transformer", &self.transformer);
        if self.in_channels == 0 || self.out_channels == 0 {
            at.problem("in_channels", "and `out_channels` must be at least 1");
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct ImageVit {
    vit: Vit,
    head: Linear,
    spec: TokenSpec,
    residual: bool,
}

impl ImageVit {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (inner, spec) = (scope.pp("vit"), c.tokens());
        let tokens = Tokens::timm(spec.clone(), &inner)?;
        let variant = Variant { style: TIMM, qkv_bias: c.qkv_bias, spare_norm: false };
        let outputs = c.out_channels * c.patch_size.iter().product::<usize>();
        Ok(Self {
            vit: Vit::new(&c.transformer, tokens, variant, &inner)?,
            head: Linear::new(c.transformer.width, outputs, true, &scope.pp("head"))?,
            spec,
            residual: c.residual,
        })
    }
}

impl Network for ImageVit {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let pixels = self.head.forward(&self.vit.forward(x, ctx)?.0)?;
        let y = unpatch(&pixels, &self.spec.grid(), &self.spec.patch)?;
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
        let NetworkConfig::Vit(mut c) = config else { panic!("recognised as {config:?}") };
        c.transformer.heads = 2;
        NetworkConfig::Vit(c)
    }

    #[test]
    fn equals_timm() {
        golden::check_as("net_timm_vit", two_heads);
    }

    #[test]
    fn volumes_work_and_other_sizes_are_refused() {
        let c = Config {
            in_channels: 2,
            image_size: vec![4, 6, 8],
            patch_size: vec![2, 3, 4],
            transformer: VitConfig { width: 8, mlp: 8, layers: 1, heads: 2 },
            residual: false,
            ..Config::default()
        };
        assert!(limpid_config::check(&NetworkConfig::Vit(c.clone())).is_empty());
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, &Device::Cpu);
        let net = c.build(&scope).unwrap();
        let run = |size: [usize; 5]| {
            net.forward(&Tensor::ones(&size, DType::F32, &Device::Cpu).unwrap(), &Ctx::eval())
        };
        assert_eq!(run([1, 2, 4, 6, 8]).unwrap().dims(), [1, 1, 4, 6, 8]);
        let error = run([1, 2, 4, 6, 12]).unwrap_err().to_string();
        assert!(error.contains("only size [4, 6, 8]"), "{error}");
    }
}
