//! Networks, one file each: header (paper, reference, shapes), `Config` with named presets, blocks,
//! net, tests.
//!
//! Parameter names equal the reference `state_dict`. A network is rank-generic where its reference
//! comes in 2-D and 3-D. [`NetworkConfig`] picks an image-to-image network by `kind`;
//! [`recognise`] finds the configuration of any network that a checkpoint's keys and shapes belong
//! to.
//!
//! Invariants: a network knows no loss, no data and no training loop.

mod adn;
pub mod attention_unet;
pub mod basic_unet;
mod blocks;
mod cubic;
pub mod cyclegan;
pub mod ddpm_unet;
pub mod dncnn;
pub mod drunet;
pub mod dynunet;
pub mod edsr;
pub mod em_unet;
pub mod ffdnet;
pub mod grog_mlp;
pub mod guided_unet;
pub mod inception_v3;
pub mod lpips;
pub mod monai_discriminator;
pub mod nafnet;
pub mod nlayer_discriminator;
pub mod nucli_unet;
pub mod patch_gan;
pub mod pix2pix_unet;
pub mod pixel_discriminator;
pub mod raft;
mod recognise;
mod registry;
pub mod resnet_generator;
pub mod restormer;
pub mod segresnet;
pub mod sr_unet3d;
pub mod srresnet;
mod swin;
pub mod swin_unetr;
pub mod swinir;
mod transformer;
mod trunk;
pub mod unet;
pub mod unet_generator;
pub mod unetr;
pub mod vgg19;
pub mod vit;
pub mod vit_autoenc;

pub use recognise::{AnyConfig, Recognised, recognise, reference_entries, reference_key};
pub use registry::{KINDS, NetworkConfig};
pub use transformer::VitConfig;

use candle_core::Tensor;
use limpid_nn::{Ctx, Params, Result, Scope};
use std::collections::BTreeMap;

/// A network that maps a tensor to a tensor.
pub trait Network: Send + Sync {
    /// # Shapes
    /// Of an image-to-image network: `x [N, in, s…]` → `[N, out, scale·s…]`; each spatial size a
    /// multiple of the configuration's divisor.
    ///
    /// # Errors
    /// [`limpid_nn::Error::Shape`] if `x` does not fit.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor>;
}

impl Network for Box<dyn Network> {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        (**self).forward(x, ctx)
    }
}

/// A network whose layers pass on numbers of 16 bits where [`limpid_kernels::in_half`] has them do so; what it takes
/// and gives, and its weights, stay as they are.
#[derive(Debug)]
pub struct Mixed<N>(pub N);

impl<N: Network> Network for Mixed<N> {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        mixed(x, || self.0.forward(x, ctx))
    }
}

/// The pass `f` of a network over `x` as in [`Mixed`].
///
/// # Errors
/// Those of `f`.
pub fn mixed(x: &Tensor, f: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let y = limpid_kernels::in_half(x.device(), f)?;
    limpid_kernels::cast(&y, x.dtype())
}

/// A network that a diffusion restores with: it answers what is asked for at a level of noise, and
/// knows no schedule.
pub trait NoisePredictor: Send + Sync {
    /// The network sees the condition's channels, then those of the state.
    ///
    /// # Shapes
    /// State `x [N, C, H, W]`, `condition [N, Cc, H, W]`; `level`, and `layer` for networks that
    /// take it, with N elements or 1, of any float type → `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`limpid_nn::Error::Shape`] if something does not fit; [`limpid_nn::Error::Argument`] if the
    /// layer is missing or not wanted.
    fn predict(
        &self,
        x: &Tensor,
        condition: &Tensor,
        level: &Tensor,
        layer: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<guided_unet::Prediction>;
}

impl<N: NoisePredictor + ?Sized> NoisePredictor for &N {
    fn predict(
        &self,
        x: &Tensor,
        condition: &Tensor,
        level: &Tensor,
        layer: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<guided_unet::Prediction> {
        (**self).predict(x, condition, level, layer, ctx)
    }
}

/// The configuration of a network: what is known before there are weights.
pub trait Architecture: std::fmt::Debug {
    /// Name of the network: that of its module.
    fn kind(&self) -> &'static str;

    /// Defines the parameters, which tells their names and shapes.
    ///
    /// # Errors
    /// If a parameter name is taken.
    fn define(&self, scope: &Scope) -> Result<()>;

    /// The name under which it holds a key of a reference checkpoint; none for what it leaves out.
    fn own_key(&self, key: &str) -> Option<String> {
        reference_key(key).map(str::to_owned)
    }

    /// Names and shapes of the parameters and buffers.
    ///
    /// # Errors
    /// If the network cannot be built.
    fn shapes(&self) -> Result<Shapes> {
        Ok(self.initial()?.shapes())
    }

    /// Parameters and buffers with initial values.
    ///
    /// # Errors
    /// If the network cannot be built.
    fn initial(&self) -> Result<Params> {
        let params = Params::new();
        let stream = limpid_kernels::rng::Stream::new(0, "initial");
        self.define(&params.scope(stream, candle_core::DType::F32, &candle_core::Device::Cpu))?;
        Ok(params)
    }
}

/// The configuration of an image-to-image network.
pub trait ImageArchitecture: Architecture {
    /// Defines the parameters and returns the network.
    ///
    /// # Errors
    /// If a parameter name is taken.
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>>;

    /// Channels of the image it takes.
    fn in_channels(&self) -> usize;

    /// Channels of the image it gives.
    fn out_channels(&self) -> usize;

    /// Image sizes must be multiples of this, per spatial axis.
    fn divisor(&self) -> Vec<usize>;

    /// Pixels that an output pixel depends on, per spatial axis; where means over the whole image
    /// come in, what the convolutions see.
    fn receptive_field(&self) -> Vec<usize>;

    /// Bytes of activations per input pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize;

    /// The least size, on every axis, from which an image in one piece is taken as it is: the network
    /// itself pads what is no multiple of the divisor.
    fn any_size_from(&self) -> Option<usize> {
        self.divisor().iter().all(|&d| d == 1).then_some(1)
    }

    /// How many times larger the output is, along every axis.
    fn scale(&self) -> usize {
        1
    }

    /// The only spatial size it takes, if there is but one (learnt positions).
    fn fixed_size(&self) -> Option<Vec<usize>> {
        None
    }

    /// Spatial dimensions.
    fn dims(&self) -> usize {
        self.divisor().len()
    }
}

/// Shapes of a checkpoint by key.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Spatial rank of a convolution weight `[out, in, k…]` in a checkpoint.
fn rank_of(shapes: &Shapes, key: &str) -> Option<usize> {
    shapes.get(key).map(|s| s.len().saturating_sub(2)).filter(|r| (1..=3).contains(r))
}

/// The `axis`-th size of an entry of a checkpoint.
fn size_of(shapes: &Shapes, key: &str, axis: usize) -> Option<usize> {
    shapes.get(key)?.get(axis).copied()
}

/// How many of `prefix.0…`, `prefix.1…` have a key that ends in `suffix`, counted from 0 without a
/// gap.
fn count_of(shapes: &Shapes, prefix: &str, suffix: &str) -> usize {
    (0..).take_while(|i| shapes.contains_key(&format!("{prefix}{i}{suffix}"))).count()
}

#[cfg(test)]
mod golden;
