//! FFDNet: denoising at half resolution by a network that is told the noise level (Zhang et al.
//! 2018, arXiv:1710.04026).
//!
//! Reference: KAIR `network_ffdnet.py` (MIT). Keys `model.N` count every layer of its `Sequential`,
//! activations included.
//!
//! ```text
//! x [N, in, h, w] → repeat the border to even sizes → unshuffle by 2 [N, 4·in, h/2, w/2]
//!   → cat with the noise level → conv, act → (conv, [norm], act) × depth-2 → conv [N, 4·out, …]
//!   → shuffle by 2, cut [N, out, h, w]
//! ```

use crate::blocks::{check_image, crop, missing, numbered};
use crate::{Architecture, ImageArchitecture, Network, Shapes, dncnn};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{Pad, pad, pixel_shuffle, pixel_unshuffle};
use limpid_nn::{Ctx, Error, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const NAME: &str = "ffdnet";

/// Settings of an FFDNet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels inside.
    pub width: usize,
    /// Convolutions in all.
    pub depth: usize,
    /// Batch normalisation in the middle layers.
    pub batch_norm: bool,
    /// Standard deviation of the noise in the intensities that the network is given, where none
    /// comes with the image.
    pub sigma: f64,
}

impl Default for Config {
    /// [`Config::gray`].
    fn default() -> Self {
        Self::gray()
    }
}

impl Config {
    /// KAIR's network for gray images, for intensities from 0 to 1 and noise of 25/255.
    #[must_use]
    pub fn gray() -> Self {
        Self {
            in_channels: 1,
            out_channels: 1,
            width: 64,
            depth: 15,
            batch_norm: false,
            sigma: 25.0 / 255.0,
        }
    }

    /// KAIR's network for colour images.
    #[must_use]
    pub fn colour() -> Self {
        Self { in_channels: 3, out_channels: 3, width: 96, depth: 12, ..Self::gray() }
    }

    /// The configuration that a checkpoint's shapes belong to. Four channels per image channel and
    /// one more tell it from a DnCNN.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        let convs = || {
            let all = numbered(shapes, "model.", ".weight").into_values();
            all.filter(|s| s.len() == 4)
        };
        let (first, last) = (convs().next()?, convs().next_back()?);
        let (inputs, outputs) = (first[1].checked_sub(1)?, last[0]);
        if inputs == 0 || inputs % 4 > 0 || outputs % 4 > 0 {
            return None;
        }
        Some(Self {
            in_channels: inputs / 4,
            out_channels: outputs / 4,
            width: first[0],
            depth: convs().count(),
            batch_norm: shapes.contains_key("model.3.running_mean"),
            ..Self::gray()
        })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        FfdNet::new(self, scope).map(drop)
    }
}

impl ImageArchitecture for Config {
    fn build(&self, scope: &Scope) -> Result<Box<dyn Network>> {
        Ok(Box::new(FfdNet::new(self, scope)?))
    }

    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// 2. (Odd sizes work too: the border is repeated.)
    fn divisor(&self) -> Vec<usize> {
        vec![2; 2]
    }

    /// The last row and column of odd sizes are repeated.
    fn any_size_from(&self) -> Option<usize> {
        Some(1)
    }

    /// `2·(2·depth + 1)` per axis: the convolutions work at half resolution.
    fn receptive_field(&self) -> Vec<usize> {
        vec![2 * (2 * self.depth + 1); 2]
    }

    /// Bytes of activations per pixel in a forward pass, roughly.
    fn activation_bytes(&self) -> usize {
        3 * self.width + 8 * (self.in_channels + self.out_channels)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        let sizes = [
            ("in_channels", self.in_channels, 1),
            ("out_channels", self.out_channels, 1),
            ("width", self.width, 1),
            ("depth", self.depth, 2),
        ];
        for (key, value, least) in sizes {
            if value < least {
                at.problem(key, format!("must be at least {least}, got {value}"));
            }
        }
        if !(self.sigma.is_finite() && self.sigma >= 0.0) {
            at.problem("sigma", format!("must be 0 or more, got {}", self.sigma));
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct FfdNet {
    trunk: dncnn::Trunk,
    in_channels: usize,
    sigma: f64,
}

impl FfdNet {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let layers = dncnn::Config {
            dims: 2,
            channels: c.in_channels,
            width: c.width,
            depth: c.depth,
            batch_norm: c.batch_norm,
        };
        let channels = [4 * c.in_channels + 1, 4 * c.out_channels];
        Ok(Self {
            trunk: dncnn::Trunk::new(&layers, channels, &scope.pp("model"))?,
            in_channels: c.in_channels,
            sigma: c.sigma,
        })
    }

    /// Denoises images of given noise levels.
    ///
    /// # Shapes
    /// `x [N, in, h, w]`, `sigma [N, 1, 1, 1]` or `[1, 1, 1, 1]` → `[N, out, h, w]`
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` or `sigma` does not fit.
    pub fn forward(&self, x: &Tensor, sigma: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        check_image(NAME, x, self.in_channels, 1)?;
        let images = x.dims()[0];
        if ![[1; 4], [images, 1, 1, 1]].iter().any(|fit| sigma.dims() == fit) {
            let expected = format!("noise levels [{images}, 1, 1, 1] or [1, 1, 1, 1]");
            return Err(Error::shape(NAME, expected, sigma.dims()));
        }
        let even = pad(x, &missing(x, 2), Pad::Replicate)?;
        let parts = pixel_unshuffle(&even, 2)?;
        let (_, _, h, w) = parts.dims4()?;
        let level = sigma.to_dtype(x.dtype())?.broadcast_as((images, 1, h, w))?;
        let y = self.trunk.forward(&limpid_kernels::cat(&[&parts, &level], 1)?, ctx)?;
        crop(&pixel_shuffle(&y, 2)?, x)
    }
}

impl Network for FfdNet {
    /// Denoises images of the configured noise level.
    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let sigma = Tensor::full(self.sigma, (1, 1, 1, 1), x.device())?;
        self.forward(x, &sigma, ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetworkConfig;
    use crate::golden::{self, Golden};
    use candle_core::Device;

    #[test]
    fn equals_kair() {
        let Some(golden) = Golden::open("engine/net_ffdnet") else { return };
        let level = golden.tensor("input.1").flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        golden::check_as("net_ffdnet", |config| match config {
            NetworkConfig::Ffdnet(c) => {
                NetworkConfig::Ffdnet(Config { sigma: f64::from(level), ..c })
            }
            other => other,
        });
    }

    #[test]
    fn has_the_published_number_of_parameters() {
        assert_eq!(golden::count(&Config::gray()), 485_316);
        assert_eq!(golden::count(&Config::colour()), 852_108);
    }

    #[test]
    fn odd_images_continue_with_their_border_and_each_has_its_level() {
        let config = Config { width: 6, depth: 3, ..Config::default() };
        let (_, net) = golden::drawn(|scope| FfdNet::new(&config, scope));
        let x = golden::noise(&[2, 1, 7, 6]);
        let levels = Tensor::new(&[0.1f32, 0.4], &Device::Cpu).unwrap();
        let levels = levels.reshape((2, 1, 1, 1)).unwrap();
        let y = net.forward(&x, &levels, &Ctx::eval()).unwrap();
        assert_eq!(y.dims(), x.dims());
        let even = pad(&x, &[(0, 1), (0, 0)], Pad::Replicate).unwrap();
        let second = |t: &Tensor| t.narrow(0, 1, 1).unwrap();
        let alone = net.forward(&second(&even), &second(&levels), &Ctx::eval()).unwrap();
        golden::assert_close(&second(&y), &alone.narrow(2, 0, 7).unwrap(), 1e-6);
        let other = Network::forward(&net, &x, &Ctx::eval()).unwrap();
        assert!(golden::max_error(&y, &other) > 1e-4, "the level has no effect");
    }

    #[test]
    fn other_settings_are_recognised() {
        for (depth, batch_norm) in [(2, false), (5, false), (5, true)] {
            let config = Config { width: 3, depth, batch_norm, ..Config::colour() };
            let shapes = config.shapes().unwrap();
            assert_eq!(Config::recognise(&shapes), Some(config.clone()));
            let best = &crate::recognise(&shapes)[0];
            assert_eq!((best.config.settings().kind(), best.mismatches), (NAME, 0));
        }
        let other = dncnn::Config { channels: 5, width: 4, ..dncnn::Config::small() };
        assert_eq!(Config::recognise(&other.shapes().unwrap()), None);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (_, net) = golden::drawn(|scope| FfdNet::new(&Config::default(), scope));
        let three = golden::noise(&[1, 3, 8, 8]);
        assert!(Network::forward(&net, &three, &Ctx::eval()).is_err());
        let one = golden::noise(&[1, 1, 8, 8]);
        assert!(net.forward(&one, &golden::noise(&[1, 1, 4, 4]), &Ctx::eval()).is_err());
    }
}
