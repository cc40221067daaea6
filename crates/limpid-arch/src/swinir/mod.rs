//! SwinIR: image restoration by a Swin transformer (Liang et al. 2021, arXiv:2108.10257), for
//! denoising, compression artefacts and super-resolution.
//!
//! Reference: `network_swinir.py` of KAIR (MIT) and of SwinIR (Apache-2.0). Window masks are computed
//! for the image at hand; the reference stores those of one size.
//!
//! ```text
//! x → (x - mean)·range, pad to windows by reflection → conv_first [N, width, H, W]
//!   → (Swin blocks → conv → + ·) × layers → norm → conv_after_body → + · → upsample, conv_last
//!   → cut, /range + mean
//! ```

mod net;

pub use net::SwinIr;

use crate::swin::{mlp_width, window_of};
use crate::transformer::likely_grid;
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, size_of};
use limpid_config::{Check, Validate};
use limpid_nn::{Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a SwinIR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the image; of three, the mean colour of natural images is subtracted.
    pub channels: usize,
    /// Features of a pixel.
    pub width: usize,
    /// Swin blocks of each layer.
    pub depths: Vec<usize>,
    /// Attention heads of each layer; must divide the width.
    pub heads: Vec<usize>,
    /// Side of a window in pixels.
    pub window: usize,
    /// Features inside the perceptrons, as a multiple of the width.
    pub mlp_ratio: f64,
    /// Offsets of queries, keys and values.
    pub qkv_bias: bool,
    /// Shift the windows of every other block by half their side. The reference does so unless it
    /// was made for images no larger than a window.
    pub shifted: bool,
    /// Normalise the features before the first layer.
    pub patch_norm: bool,
    /// Size of the only image that learnt positions are for (height, width); empty for none.
    pub positions: Vec<usize>,
    /// Convolutions at the end of each layer, 1 or 3.
    pub layer_convs: usize,
    /// How the image becomes larger.
    pub upsampler: Upsampler,
    /// Features while it does, where the upsampler has such.
    pub upsample_width: usize,
    /// Factor on the image inside the network.
    pub image_range: f64,
    /// Probability of leaving out the last block in training; it grows evenly up to that.
    pub drop_path: f64,
}

/// How a SwinIR makes the image larger.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Upsampler {
    /// Not at all: the network learns the correction of the image.
    None {},
    /// Steps of convolution and pixel shuffle, for classical super-resolution.
    PixelShuffle {
        /// Factor: 3 or a power of 2.
        scale: usize,
    },
    /// One convolution and pixel shuffle, for lightweight super-resolution.
    PixelShuffleDirect {
        /// Factor.
        scale: usize,
    },
    /// Repeated pixels and convolutions, for super-resolution of real photographs.
    NearestConv {
        /// Factor: 2 or 4.
        scale: usize,
    },
}

impl Upsampler {
    /// How many times larger.
    fn scale(self) -> usize {
        match self {
            Self::None {} => 1,
            Self::PixelShuffle { scale }
            | Self::PixelShuffleDirect { scale }
            | Self::NearestConv { scale } => scale,
        }
    }
}

impl Default for Config {
    /// The published network for denoising grey images.
    fn default() -> Self {
        Self {
            channels: 1,
            width: 180,
            depths: vec![6; 6],
            heads: vec![6; 6],
            window: 8,
            mlp_ratio: 2.0,
            qkv_bias: true,
            shifted: true,
            patch_norm: true,
            positions: Vec::new(),
            layer_convs: 1,
            upsampler: Upsampler::None {},
            upsample_width: 64,
            image_range: 1.0,
            drop_path: 0.1,
        }
    }
}

impl Config {
    /// The published networks for denoising: images of 1 or 3 channels.
    #[must_use]
    pub fn denoising(channels: usize) -> Self {
        Self { channels, ..Self::default() }
    }

    /// The published networks against JPEG artefacts: images of 1 or 3 channels.
    #[must_use]
    pub fn jpeg(channels: usize) -> Self {
        Self { channels, window: 7, image_range: 255.0, ..Self::default() }
    }

    /// The published networks for classical super-resolution by 2, 3, 4 or 8.
    #[must_use]
    pub fn classical(scale: usize) -> Self {
        Self { channels: 3, upsampler: Upsampler::PixelShuffle { scale }, ..Self::default() }
    }

    /// The published lightweight networks for super-resolution by 2, 3 or 4.
    #[must_use]
    pub fn lightweight(scale: usize) -> Self {
        Self {
            channels: 3,
            width: 60,
            depths: vec![6; 4],
            heads: vec![6; 4],
            upsampler: Upsampler::PixelShuffleDirect { scale },
            ..Self::default()
        }
    }

    /// The published networks for super-resolution of real photographs by 2 or 4.
    #[must_use]
    pub fn real(scale: usize) -> Self {
        Self { channels: 3, upsampler: Upsampler::NearestConv { scale }, ..Self::default() }
    }

    /// The larger published network for super-resolution of real photographs, by 4.
    #[must_use]
    pub fn real_large() -> Self {
        Self { width: 240, depths: vec![6; 9], heads: vec![8; 9], layer_convs: 3, ..Self::real(4) }
    }

    /// The configuration that a checkpoint's shapes belong to.
    ///
    /// The range of the image is 1 but for what looks like the published networks against JPEG
    /// artefacts.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let block = "layers.0.residual_group.blocks.0";
        let [width, channels, _, _] = shapes.get("conv_first.weight")?[..] else { return None };
        let hidden = size_of(shapes, &format!("{block}.mlp.fc1.weight"), 0)?;
        let layers = count_of(shapes, "layers.", ".residual_group.blocks.0.norm1.weight");
        let table = |layer: usize, axis| {
            let key = "residual_group.blocks.0.attn.relative_position_bias_table";
            size_of(shapes, &format!("layers.{layer}.{key}"), axis)
        };
        let depth = |layer| {
            count_of(shapes, &format!("layers.{layer}.residual_group.blocks."), ".norm1.weight")
        };
        let has = |key: &str| shapes.contains_key(key);
        let upsample = |axis| size_of(shapes, "upsample.0.weight", axis);
        let upsampler = if has("conv_up1.weight") {
            Upsampler::NearestConv { scale: if has("conv_up2.weight") { 4 } else { 2 } }
        } else if has("conv_before_upsample.0.weight") {
            let steps = (0..).take_while(|i| has(&format!("upsample.{}.weight", 2 * i))).count();
            let by_three = upsample(0)? == 9 * upsample(1)?;
            Upsampler::PixelShuffle { scale: if by_three { 3 } else { 1 << steps.min(16) } }
        } else if has("upsample.0.weight") {
            Upsampler::PixelShuffleDirect { scale: (upsample(0)? / channels.max(1)).isqrt() }
        } else {
            Upsampler::None {}
        };
        let default = Self::default();
        let found = Self {
            channels,
            width,
            depths: (0..layers).map(depth).collect(),
            heads: (0..layers).map(|l| table(l, 1)).collect::<Option<_>>()?,
            window: window_of(table(0, 0)?, 2)?,
            mlp_ratio: hidden as f64 / width.max(1) as f64,
            qkv_bias: has(&format!("{block}.attn.qkv.bias")),
            patch_norm: has("patch_embed.norm.weight"),
            positions: size_of(shapes, "absolute_pos_embed", 1)
                .map_or_else(Vec::new, |tokens| likely_grid(tokens, 2)),
            layer_convs: if has("conv_after_body.0.weight") { 3 } else { 1 },
            upsampler,
            upsample_width: size_of(shapes, "conv_before_upsample.0.weight", 0)
                .unwrap_or(default.upsample_width),
            ..default
        };
        let jpeg = Self::jpeg(channels);
        let same = Self { image_range: jpeg.image_range, ..found.clone() } == jpeg;
        Some(if same { jpeg } else { found })
    }

    fn hidden(&self) -> usize {
        mlp_width(self.width, self.mlp_ratio)
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "swinir"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        SwinIr::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(SwinIr::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.channels
    }

    fn out_channels(&self) -> usize {
        self.channels
    }

    /// The side of a window. (Other sizes work too: they are padded by reflection.)
    fn divisor(&self) -> Vec<usize> {
        vec![self.window; 2]
    }

    /// The image is mirrored to whole windows.
    fn any_size_from(&self) -> Option<usize> {
        Some(self.window)
    }

    /// A window, and half a window more on both sides with each further block, as shifted windows
    /// overlap the others by that.
    fn receptive_field(&self) -> Vec<usize> {
        let blocks: usize = self.depths.iter().sum();
        let convs = 4 + self.layer_convs * (self.depths.len() + 1);
        vec![self.window * (blocks + 1) + 2 * convs; 2]
    }

    fn activation_bytes(&self) -> usize {
        let scale = self.scale();
        let larger = if scale > 1 { 4 * self.upsample_width * scale * scale } else { 0 };
        4 * (9 * self.width + 2 * self.hidden() + larger)
    }

    fn scale(&self) -> usize {
        self.upsampler.scale()
    }

    fn fixed_size(&self) -> Option<Vec<usize>> {
        (!self.positions.is_empty()).then(|| self.positions.clone())
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        for (key, value) in [
            ("channels", self.channels),
            ("width", self.width),
            ("upsample_width", self.upsample_width),
        ] {
            if value == 0 {
                at.problem(key, "must be at least 1, got 0");
            }
        }
        if self.depths.is_empty() || self.depths.contains(&0) {
            at.problem("depths", "must give at least 1 layer, each of at least 1 block");
        }
        if self.heads.len() != self.depths.len() {
            at.problem("heads", "must have as many numbers as `depths`");
        }
        for (i, &heads) in self.heads.iter().enumerate() {
            if heads == 0 || !self.width.is_multiple_of(heads) {
                let message = format!("must divide `width`, which is {}", self.width);
                at.problem(format!("heads.{i}"), message);
            }
        }
        if !(1..=64).contains(&self.window) {
            at.problem("window", format!("must be from 1 to 64, got {}", self.window));
        }
        if !(self.mlp_ratio.is_finite() && self.mlp_ratio > 0.0 && self.hidden() > 0) {
            at.problem("mlp_ratio", format!("must be above 0, got {}", self.mlp_ratio));
        }
        let whole = |s: &usize| *s > 0 && s.is_multiple_of(self.window.max(1));
        if !matches!(self.positions.len(), 0 | 2) || !self.positions.iter().all(whole) {
            at.problem("positions", "must be empty or two multiples of `window`");
        }
        if !matches!(self.layer_convs, 1 | 3) {
            at.problem("layer_convs", format!("must be 1 or 3, got {}", self.layer_convs));
        } else if self.layer_convs == 3 && self.width < 4 {
            at.problem("layer_convs", "of 3 need a `width` of at least 4");
        }
        let (scales, fits): (_, fn(usize) -> bool) = match self.upsampler {
            Upsampler::None {} => ("", |_| true),
            Upsampler::PixelShuffle { .. } => ("3 or a power of 2 up to 64", |s| {
                s == 3 || (2..=64).contains(&s) && s.is_power_of_two()
            }),
            Upsampler::PixelShuffleDirect { .. } => ("from 1 to 64", |s| (1..=64).contains(&s)),
            Upsampler::NearestConv { .. } => ("2 or 4", |s| matches!(s, 2 | 4)),
        };
        if !fits(self.scale()) {
            at.problem("upsampler.scale", format!("must be {scales}, got {}", self.scale()));
        }
        if !(self.image_range.is_finite() && self.image_range > 0.0) {
            at.problem("image_range", format!("must be above 0, got {}", self.image_range));
        }
        if !(0.0..1.0).contains(&self.drop_path) {
            let message = format!("must be at least 0 and less than 1, got {}", self.drop_path);
            at.problem("drop_path", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use candle_core::{DType, Device, Tensor};
    use limpid_kernels::rng::Stream;
    use limpid_nn::{Ctx, Error, Params};

    fn tiny(upsampler: Upsampler) -> Config {
        Config {
            channels: 2,
            width: 8,
            depths: vec![2, 1],
            heads: vec![2, 4],
            window: 4,
            upsampler,
            upsample_width: 6,
            ..Config::default()
        }
    }

    fn run(c: &Config, size: [usize; 2]) -> Result<Tensor> {
        assert!(limpid_config::check(c).is_empty());
        let params = Params::new();
        let net = c.build(&params.scope(Stream::new(1, "net"), DType::F32, &Device::Cpu))?;
        let shape = [1, c.channels, size[0], size[1]];
        let mut v = vec![0f32; shape.iter().product()];
        Stream::new(2, "x").fill_normal(&mut v);
        net.forward(&Tensor::from_vec(v, &shape, &Device::Cpu)?, &Ctx::eval())
    }

    /// What shapes tell of a configuration.
    fn seen(c: Config) -> Config {
        let unused = Upsampler::None {} == c.upsampler
            || matches!(c.upsampler, Upsampler::PixelShuffleDirect { .. });
        Config { upsample_width: if unused { 64 } else { c.upsample_width }, ..c }
    }

    #[test]
    fn equals_kair() {
        golden::check("net_swinir");
        golden::check("net_swinir_x2");
    }

    #[test]
    fn lightweight_network_has_the_published_size() {
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "init"), DType::F32, &Device::Cpu);
        Config::lightweight(2).define(&scope).unwrap();
        assert_eq!(params.count(), 910_152);
    }

    #[test]
    fn any_size_works_that_can_be_reflected() {
        for (upsampler, scale) in [
            (Upsampler::None {}, 1),
            (Upsampler::PixelShuffle { scale: 3 }, 3),
            (Upsampler::PixelShuffle { scale: 4 }, 4),
            (Upsampler::PixelShuffleDirect { scale: 3 }, 3),
            (Upsampler::NearestConv { scale: 2 }, 2),
            (Upsampler::NearestConv { scale: 4 }, 4),
        ] {
            let c = Config { layer_convs: 3, ..tiny(upsampler) };
            assert_eq!(c.scale(), scale);
            assert_eq!(run(&c, [5, 7]).unwrap().dims(), [1, 2, 5 * scale, 7 * scale]);
            let found = Config::recognise(&c.shapes().unwrap()).unwrap();
            assert_eq!(found, seen(c));
        }
        let error = run(&tiny(Upsampler::None {}), [5, 2]).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "pad", .. }), "{error}");
    }

    #[test]
    fn learnt_positions_fix_the_size() {
        let c = Config { positions: vec![8, 8], ..tiny(Upsampler::None {}) };
        assert_eq!(Config::recognise(&c.shapes().unwrap()).unwrap(), seen(c.clone()));
        assert_eq!(c.fixed_size(), Some(vec![8, 8]));
        assert_eq!(run(&c, [8, 8]).unwrap().dims(), [1, 2, 8, 8]);
        let error = run(&c, [8, 12]).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "swinir", .. }), "{error}");
    }

    #[test]
    fn the_range_of_published_jpeg_networks_is_known() {
        let published = Config::jpeg(1);
        assert_eq!(Config::recognise(&published.shapes().unwrap()).unwrap(), published);
        let narrow = Config { width: 60, depths: vec![1], heads: vec![6], ..Config::jpeg(1) };
        let found = Config::recognise(&narrow.shapes().unwrap()).unwrap();
        assert_eq!(found, Config { image_range: 1.0, ..narrow });
    }

    #[test]
    fn every_bad_setting_is_reported() {
        let bad = Config {
            channels: 0,
            heads: vec![7],
            window: 0,
            mlp_ratio: f64::NAN,
            positions: vec![3],
            layer_convs: 2,
            upsampler: Upsampler::NearestConv { scale: 3 },
            image_range: 0.0,
            drop_path: 1.0,
            ..Config::default()
        };
        assert_eq!(limpid_config::check(&bad).len(), 10);
    }
}
