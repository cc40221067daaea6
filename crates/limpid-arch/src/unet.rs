//! MONAI's UNet: strided convolutions down, transposed ones up, optionally with residual units
//! (Kerfoot et al. 2019, doi:10.1007/978-3-030-12029-0_40).
//!
//! Reference: MONAI `UNet` (Apache-2.0). Its keys nest: level `i` lies in `i` times `1.submodule`
//! below `model`, with its way down in `0` and its way up in `2`.
//!
//! ```text
//! x → level i: 0 (stride, c_i) → … → 1.submodule (c_last) → … → cat with skip
//!   → 2: transposed convolution, [residual unit] → [N, out, s…]
//! ```

use crate::adn::{
    Adn, ConvAdn, activation_of, check_axes, check_image, check_norm, check_strides, norm_of,
    spacings,
};
use crate::{Architecture, ImageArchitecture, Network, Shapes, count_of, rank_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::ConvSpec;
use limpid_nn::layers::{ActivationConfig, Conv, NormConfig, same_padding};
use limpid_nn::{Ctx, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of MONAI's UNet.
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
    /// Stride from each level to the next, per axis; the image enters the first level at the first
    /// stride.
    pub strides: Vec<Vec<usize>>,
    /// Kernel size of the convolutions per axis, odd.
    pub kernel: Vec<usize>,
    /// Kernel size of the transposed convolutions per axis, odd.
    pub up_kernel: Vec<usize>,
    /// Convolutions of a residual unit on the way down; 0 for a single convolution without one.
    pub residual_units: usize,
    /// Normalisation after each convolution.
    pub norm: NormConfig,
    /// Activation after each normalisation.
    pub activation: ActivationConfig,
    /// Offsets in the convolutions.
    pub bias: bool,
    /// Add the input to the output: the network learns the correction.
    pub residual: bool,
}

impl Default for Config {
    /// Five levels with two convolutions per residual unit, as MONAI's tutorials.
    fn default() -> Self {
        Self { residual_units: 2, ..Self::isotropic(2, &[16, 32, 64, 128, 256]) }
    }
}

impl Config {
    /// 3-kernels, strides of 2 on all axes, and MONAI's defaults for the rest.
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
            residual_units: 0,
            norm: NormConfig::Instance { affine: false },
            activation: ActivationConfig::Prelu {},
            bias: true,
            residual: false,
        }
    }

    /// A narrow one for small data and quick tests.
    #[must_use]
    pub fn small() -> Self {
        Self { residual_units: 2, ..Self::isotropic(2, &[16, 32, 64]) }
    }

    /// MONAI's spleen segmentation: 3-D, batch normalisation, two output channels.
    #[must_use]
    pub fn spleen() -> Self {
        Self {
            out_channels: 2,
            residual_units: 2,
            norm: NormConfig::Batch {},
            ..Self::isotropic(3, &[16, 32, 64, 128, 256])
        }
    }

    /// The configuration that a checkpoint's shapes belong to.
    ///
    /// A residual unit tells where the stride is 1, by the kernel of its shortcut; strides are
    /// taken to be 2 otherwise.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let residual_units = count_of(shapes, "model.0.conv.unit", ".conv.weight");
        let unit = if residual_units > 0 { ".conv.unit0" } else { "" };
        let weight = |level: &str, part: &str| shapes.get(&format!("{level}.{part}.conv.weight"));
        let down = |level: &str| weight(level, &format!("0{unit}"));
        let up = |level: &str| weight(level, if residual_units > 0 { "2.0" } else { "2" });
        let first = down("model")?;
        let dims = rank_of(shapes, &format!("model.0{unit}.conv.weight"))?;
        let kernel = first.get(2..)?.to_vec();

        let (mut channels, mut strides) = (Vec::new(), Vec::new());
        let mut level = "model".to_owned();
        while up(&level).is_some() {
            let [outputs, inputs, ..] = down(&level)?[..] else { return None };
            channels.push(outputs);
            // at stride 1 the shortcut is 1×1, or absent where the channels stay the same
            let flat = match shapes.get(&format!("{level}.0.residual.weight")) {
                Some(shortcut) => shortcut.get(2..)?.iter().all(|&k| k == 1),
                None => residual_units > 0 && inputs == outputs,
            };
            let flat = flat && kernel.iter().any(|&k| k > 1);
            strides.push(vec![if flat { 1 } else { 2 }; dims]);
            level += ".1.submodule";
        }
        channels.push(*shapes.get(&format!("{level}{unit}.conv.weight"))?.first()?);
        let adn = format!("model.0{unit}.adn");
        Some(Self {
            in_channels: *first.get(1)?,
            out_channels: *up("model")?.get(1)?,
            strides,
            kernel,
            up_kernel: up("model")?.get(2..)?.to_vec(),
            residual_units,
            norm: norm_of(shapes, &format!("{adn}.N")),
            activation: activation_of(shapes, &format!("{adn}.A")),
            bias: shapes.contains_key(&format!("model.0{unit}.conv.bias")),
            ..Self::isotropic(dims, &channels)
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "unet"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        UNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(UNet::new(self, scope)?))
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
            let units = self.residual_units.max(1);
            let again = if self.residual_units > 0 { k } else { 0 };
            let level = |s: &[usize]| k * s[0] + (units - 1) * k * s[1] + (up + again) * s[0];
            let bottom = units * k * spacings.last().copied().unwrap_or(1);
            1 + spacings.windows(2).map(level).sum::<usize>() + bottom
        };
        (0..self.dims).map(axis).collect()
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        4 * (4 * self.out_channels + 3 * self.channels.first().copied().unwrap_or(1))
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if !(2..=3).contains(&self.dims) {
            at.problem("dims", format!("must be 2 or 3, got {}", self.dims));
        }
        if self.channels.len() < 2 || self.channels.contains(&0) {
            at.problem("channels", "must give at least 2 levels, each above 0");
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
        let mut normalised = self.channels.clone();
        // the first transposed convolution normalises the output channels before its residual unit
        normalised.extend((self.residual_units > 0).then_some(self.out_channels));
        check_norm(self.norm, &normalised, at);
        if self.residual && self.in_channels != self.out_channels {
            at.problem("residual", "needs as many output as input channels");
        }
    }
}

/// Convolutions with a shortcut around them (`ResidualUnit`).
#[derive(Debug)]
struct Unit {
    convs: Vec<ConvAdn>,
    /// Where the shape changes.
    shortcut: Option<Conv>,
}

impl Unit {
    fn new(
        c: &Config,
        [inputs, outputs]: [usize; 2],
        stride: &[usize],
        count: usize,
        last_bare: bool,
        scope: &Scope,
    ) -> Result<Self> {
        let flat = vec![1; c.dims];
        let convs = (0..count)
            .map(|i| {
                let (inputs, stride) = if i == 0 { (inputs, stride) } else { (outputs, &flat[..]) };
                let adn = c.adn(last_bare && i + 1 == count);
                let name = scope.pp("conv").pp(format!("unit{i}"));
                ConvAdn::down([inputs, outputs], &c.kernel, stride, c.bias, adn, &name)
            })
            .collect::<Result<_>>()?;
        let strided = stride.iter().any(|&s| s != 1);
        let kernel = if strided { &c.kernel } else { &flat };
        let spec = ConvSpec {
            stride: stride.to_vec(),
            padding: same_padding(kernel),
            ..ConvSpec::unit(c.dims)
        };
        let name = scope.pp("residual");
        let shortcut = (strided || inputs != outputs)
            .then(|| Conv::new(inputs, outputs, kernel, spec, c.bias, &name))
            .transpose()?;
        Ok(Self { convs, shortcut })
    }
}

/// The way down from, or the bottom of, the network: one convolution or a residual unit.
#[derive(Debug)]
enum Step {
    Single(ConvAdn),
    Residual(Unit),
}

impl Step {
    fn new(c: &Config, io: [usize; 2], stride: &[usize], scope: &Scope) -> Result<Self> {
        Ok(match c.residual_units {
            0 => Self::Single(ConvAdn::down(io, &c.kernel, stride, c.bias, c.adn(false), scope)?),
            count => Self::Residual(Unit::new(c, io, stride, count, false, scope)?),
        })
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let unit = match self {
            Self::Single(conv) => return conv.forward(x, ctx),
            Self::Residual(unit) => unit,
        };
        let mut h = x.clone();
        for conv in &unit.convs {
            h = conv.forward(&h, ctx)?;
        }
        let around = match &unit.shortcut {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        limpid_kernels::add(&h, &around)
    }
}

/// A level: the way down to it, and the way back up.
#[derive(Debug)]
struct Level {
    down: Step,
    up: ConvAdn,
    refine: Option<Step>,
}

impl Level {
    fn new(c: &Config, level: usize, scope: &Scope) -> Result<Self> {
        let (width, stride) = (c.channels[level], &c.strides[level]);
        let top = level == 0;
        let inputs = if top { c.in_channels } else { c.channels[level - 1] };
        let outputs = if top { c.out_channels } else { c.channels[level - 1] };
        let last = level + 2 == c.channels.len();
        let below = if last { c.channels[level + 1] } else { width };
        let residual = c.residual_units > 0;
        let place = scope.pp(2);
        let up = if residual { place.pp(0) } else { place.clone() };
        let io = [width + below, outputs];
        let adn = c.adn(top && !residual);
        let refine = || -> Result<Step> {
            let flat = vec![1; c.dims];
            Ok(Step::Residual(Unit::new(c, [outputs; 2], &flat, 1, top, &place.pp(1))?))
        };
        Ok(Self {
            down: Step::new(c, [inputs, width], stride, &scope.pp(0))?,
            up: ConvAdn::up(io, &c.up_kernel, stride, c.bias, adn, &up)?,
            refine: residual.then(refine).transpose()?,
        })
    }
}

impl Config {
    /// What follows a convolution, unless it stands bare.
    fn adn(&self, bare: bool) -> Option<Adn> {
        (!bare).then_some(Adn { norm: self.norm, activation: self.activation })
    }
}

/// The network.
#[derive(Debug)]
pub struct UNet {
    levels: Vec<Level>,
    bottom: Step,
    in_channels: usize,
    divisor: Vec<usize>,
    residual: bool,
}

impl UNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let mut place = scope.pp("model");
        let mut levels = Vec::new();
        for level in 0..c.channels.len() - 1 {
            levels.push(Level::new(c, level, &place)?);
            place = place.pp(1).pp("submodule");
        }
        let steps = levels.len();
        let io = [c.channels[steps - 1], c.channels[steps]];
        Ok(Self {
            levels,
            bottom: Step::new(c, io, &vec![1; c.dims], &place)?,
            in_channels: c.in_channels,
            divisor: c.divisor(),
            residual: c.residual,
        })
    }
}

impl Network for UNet {
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image("unet", x, self.in_channels, &self.divisor)?;
        let mut h = x.clone();
        let mut skips = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            h = level.down.forward(&h, ctx)?;
            skips.push(h.clone());
        }
        h = self.bottom.forward(&h, ctx)?;
        for (level, skip) in self.levels.iter().zip(&skips).rev() {
            h = level.up.forward_cat(&[skip, &h], ctx)?;
            if let Some(unit) = &level.refine {
                h = unit.forward(&h, ctx)?;
            }
        }
        Ok(if self.residual { limpid_kernels::add(&h, x)? } else { h })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn equals_monai() {
        golden::check("net_monai_unet3d_res");
    }

    #[test]
    fn shapes_tell_the_configuration() {
        golden::round_trip(&Config::isotropic(2, &[4, 6]), Config::recognise);
        golden::round_trip(&Config::spleen(), Config::recognise);
        let mixed = Config {
            strides: vec![vec![2; 3], vec![1; 3], vec![2; 3]],
            kernel: vec![5, 3, 3],
            up_kernel: vec![3, 3, 5],
            residual_units: 1,
            activation: ActivationConfig::Relu {},
            bias: false,
            ..Config::isotropic(3, &[4, 6, 6, 8])
        };
        golden::round_trip(&mixed, Config::recognise);
        golden::keeps_size(&mixed, &[8, 4, 8]);
        golden::keeps_size(&Config { residual_units: 0, ..mixed }, &[4, 4, 8]);
    }

    #[test]
    fn the_published_spleen_network_has_its_size() {
        assert_eq!(golden::parameters(&Config::spleen()), 4_808_917);
    }

    #[test]
    fn an_output_pixel_depends_on_the_receptive_field_at_most() {
        let plain = Config { norm: NormConfig::None {}, ..Config::isotropic(2, &[3, 4, 5]) };
        golden::receptive_field_holds(&plain, 96);
        golden::receptive_field_holds(&Config { residual_units: 2, ..plain }, 96);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        golden::refuses(&Config::small(), &[1, 1, 16, 18]);
        golden::refuses(&Config::small(), &[1, 2, 16, 16]);
    }
}
