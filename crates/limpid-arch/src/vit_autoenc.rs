//! ViTAutoEnc: a vision transformer whose tokens two transposed convolutions make an image of.
//!
//! Reference: MONAI `ViTAutoEnc` (Apache-2.0). The names `conv3d_transpose…` are those of both ranks.
//!
//! ```text
//! x [N, in, s…] → tokens → blocks → norm → [N, width, s/p…]
//!   → conv3d_transpose (√p, inner) → conv3d_transpose_1 (√p) → [N, out, s…] (+ x)
//! ```

use crate::transformer::{MONAI_VIT, TokenSpec, Tokens, Variant, Vit, VitConfig, likely_grid};
use crate::{Architecture, ImageArchitecture, Network, Shapes, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvTransposeSpec;
use limpid_nn::layers::ConvTranspose;
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a ViTAutoEnc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Size of the only image it takes; 2 or 3 numbers.
    pub image_size: Vec<usize>,
    /// Size of a patch, each number a square; divides that of the image.
    pub patch_size: Vec<usize>,
    /// The transformer.
    pub transformer: VitConfig,
    /// Channels between the two transposed convolutions.
    pub inner_channels: usize,
    /// Offsets of queries, keys and values.
    pub qkv_bias: bool,
    /// Make tokens by a linear layer instead of a convolution.
    pub perceptron: bool,
    /// Keep the normalisation that MONAI's blocks have since version 1.4 and never run.
    pub spare_norm: bool,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// MONAI's defaults, at the size of its example.
    fn default() -> Self {
        Self {
            in_channels: 1,
            out_channels: 1,
            image_size: vec![96; 3],
            patch_size: vec![16; 3],
            transformer: VitConfig::default(),
            inner_channels: 16,
            qkv_bias: false,
            perceptron: false,
            spare_norm: true,
            residual: false,
        }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to. They tell the number of tokens, which
    /// is taken for that of a cubic image, and not the heads, of which 12 are usual.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let [_, inner_channels, kernel @ ..] = shapes.get("conv3d_transpose.weight")?.as_slice()
        else {
            return None;
        };
        let patch: Vec<usize> = kernel.iter().map(|k| k * k).collect();
        let pixels: usize = patch.iter().product();
        let embedding = "patch_embedding.patch_embeddings";
        let linear = size_of(shapes, &format!("{embedding}.1.weight"), 1);
        let in_channels = match linear {
            Some(inputs) => inputs / pixels.max(1),
            None => size_of(shapes, &format!("{embedding}.weight"), 1)?,
        };
        let tokens = size_of(shapes, "patch_embedding.position_embeddings", 1)?;
        Some(Self {
            in_channels,
            out_channels: size_of(shapes, "conv3d_transpose_1.weight", 1)?,
            image_size: likely_grid(tokens, patch.len())
                .iter()
                .zip(&patch)
                .map(|(g, p)| g * p)
                .collect(),
            patch_size: patch,
            transformer: VitConfig::recognise_monai(shapes, "")?,
            inner_channels: *inner_channels,
            qkv_bias: shapes.contains_key("blocks.0.attn.qkv.bias"),
            perceptron: linear.is_some(),
            spare_norm: shapes.contains_key("blocks.0.norm_cross_attn.weight"),
            residual: false,
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
        "vit_autoenc"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        VitAutoEnc::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(VitAutoEnc::new(self, scope)?))
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
        let inner = self.inner_channels.div_ceil(patch.isqrt().max(1));
        self.transformer.token_bytes().div_ceil(patch.max(1)) + 8 * (self.out_channels + inner)
    }

    fn fixed_size(&self) -> Option<Vec<usize>> {
        Some(self.image_size.clone())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        self.tokens().validate(at);
        at.nested("transformer", &self.transformer);
        for (a, &p) in self.patch_size.iter().enumerate() {
            if p.isqrt().pow(2) != p {
                at.problem(format!("patch_size.{a}"), format!("must be a square, got {p}"));
            }
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("inner_channels", self.inner_channels),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1, got 0");
            }
        }
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct VitAutoEnc {
    vit: Vit,
    up: [ConvTranspose; 2],
    residual: bool,
}

impl VitAutoEnc {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let tokens = Tokens::monai(c.tokens(), c.perceptron, scope)?;
        let (qkv_bias, spare_norm) = (c.qkv_bias, c.spare_norm);
        let variant = Variant { style: MONAI_VIT, qkv_bias, spare_norm };
        let kernel: Vec<usize> = c.patch_size.iter().map(|p| p.isqrt()).collect();
        let up = |name: &str, inputs, outputs| {
            let spec = ConvTransposeSpec {
                stride: kernel.clone(),
                ..ConvTransposeSpec::unit(kernel.len())
            };
            ConvTranspose::new(inputs, outputs, &kernel, spec, true, &scope.pp(name))
        };
        Ok(Self {
            vit: Vit::new(&c.transformer, tokens, variant, scope)?,
            up: [
                up("conv3d_transpose", c.transformer.width, c.inner_channels)?,
                up("conv3d_transpose_1", c.inner_channels, c.out_channels)?,
            ],
            residual: c.residual,
        })
    }
}

impl Network for VitAutoEnc {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let features = self.vit.image(&self.vit.forward(x, ctx)?.0)?;
        let y = self.up[1].forward(&self.up[0].forward(&features)?)?;
        Ok(if self.residual { limpid_kernels::add(&y, x)? } else { y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, golden};

    /// Shapes do not tell the heads.
    fn two_heads(config: NetworkConfig) -> NetworkConfig {
        let NetworkConfig::VitAutoenc(mut c) = config else { panic!("recognised as {config:?}") };
        c.transformer.heads = 2;
        NetworkConfig::VitAutoenc(c)
    }

    #[test]
    fn equals_monai() {
        golden::check_as("net_monai_vitautoenc2d", two_heads);
        golden::check_as("net_monai_vitautoenc3d", two_heads);
    }

    #[test]
    fn linear_tokens_and_patches_of_any_shape_are_recognised() {
        let c = Config {
            in_channels: 2,
            out_channels: 3,
            image_size: vec![4, 9, 8],
            patch_size: vec![1, 9, 4],
            transformer: VitConfig { width: 12, mlp: 7, layers: 2, heads: 12 },
            inner_channels: 5,
            qkv_bias: true,
            perceptron: true,
            spare_norm: false,
            residual: false,
        };
        assert!(limpid_config::check(&c).is_empty());
        let found = Config::recognise(&c.shapes().unwrap()).unwrap();
        // eight tokens may be two by two by two
        assert_eq!(found, Config { image_size: vec![2, 18, 8], ..c });
    }
}
