//! 3D-SR-Unet: makes the axial sampling of a volume as fine as the lateral one (Heinrich et al.
//! 2017, arXiv:1706.03142).
//!
//! Reference: `SRUNet` of EMDiffuse's `3D-SR-Unet/model.py` (MIT). The same weights serve any even
//! factor, which is therefore an argument of the forward pass.
//!
//! ```text
//! x [N, 1, D, H, W] → conv1_{1,2,3} = a → halve H, W → conv2_{1,2,3} = b → halve → conv3_{1,2,3}
//!   → fracconv3 (2, 2, 2), cat with fracconv2(b) (2, 1, 1) → conv2_{4,5,6}
//!   → fracconv4 (s/2, 2, 2), after fracconv1(a) (s, 1, 1) → conv1_{4,5,6} → final_conv
//!   → [N, 1, s·D, H, W]
//! ```

use crate::adn::check_image;
use crate::{Architecture, Shapes, size_of};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_kernels::{ConvTransposeSpec, PoolSpec, conv_transpose, max_pool, relu};
use limpid_nn::layers::{Conv, ConvTranspose};
use limpid_nn::{Ctx, Error, Param, Result, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a 3D-SR-Unet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels of the three levels, the finest first.
    pub channels: [usize; 3],
}

impl Default for Config {
    /// The widths of the reference, which knows no others.
    fn default() -> Self {
        Self { channels: [32, 64, 128] }
    }
}

impl Config {
    /// The configuration that a checkpoint's shapes belong to.
    #[must_use]
    pub fn recognise(shapes: &Shapes) -> Option<Self> {
        shapes.get("fracconv4.weight")?;
        let width = |level: usize| size_of(shapes, &format!("conv{level}_1.weight"), 0);
        Some(Self { channels: [width(1)?, width(2)?, width(3)?] })
    }
}

impl Architecture for Config {
    fn kind(&self) -> &'static str {
        "sr_unet3d"
    }

    fn define(&self, scope: &Scope) -> Result<()> {
        SrUNet3d::new(self, scope).map(drop)
    }
}

impl Validate for Config {
    fn validate(&self, at: &mut Check) {
        if self.channels.contains(&0) {
            at.problem("channels", "must all be at least 1");
        }
    }
}

/// Convolutions with a ReLU after each.
#[derive(Debug)]
struct Chain(Vec<Conv>);

impl Chain {
    /// Convolutions `level_first…`, the first of which takes other channels.
    fn new(inputs: usize, width: usize, level: usize, first: usize, scope: &Scope) -> Result<Self> {
        let conv = |i: usize| {
            let inputs = if i == 0 { inputs } else { width };
            Conv::same(3, inputs, width, 3, true, &scope.pp(format!("conv{level}_{}", first + i)))
        };
        Ok(Self((0..3).map(conv).collect::<Result<_>>()?))
    }

    /// Of tensors joined along the channels, which need no join.
    fn forward(&self, parts: &[&Tensor]) -> Result<Tensor> {
        let [first, others @ ..] = self.0.as_slice() else { return limpid_kernels::cat(parts, 1) };
        let h = relu(&first.forward_cat(parts)?)?;
        others.iter().try_fold(h, |h, conv| relu(&conv.forward(&h)?))
    }
}

/// Transposed 3-convolution to exactly `stride` times the size, the stride given when it runs.
#[derive(Debug)]
struct Grow(ConvTranspose);

impl Grow {
    fn new(inputs: usize, outputs: usize, name: &str, scope: &Scope) -> Result<Self> {
        let spec = ConvTransposeSpec::unit(3);
        Ok(Self(ConvTranspose::new(inputs, outputs, &[3; 3], spec, true, &scope.pp(name))?))
    }

    fn forward(&self, x: &Tensor, stride: [usize; 3]) -> Result<Tensor> {
        let spec = ConvTransposeSpec {
            stride: stride.to_vec(),
            padding: vec![1; 3],
            output_padding: stride.iter().map(|s| s - 1).collect(),
            ..ConvTransposeSpec::unit(3)
        };
        let bias = self.0.bias.as_ref().map(Param::tensor);
        conv_transpose(x, &self.0.weight.tensor(), bias.as_ref(), &spec)
    }
}

/// The network.
#[derive(Debug)]
pub struct SrUNet3d {
    down: [Chain; 3],
    skip: [Grow; 2],
    up: [(Grow, Chain); 2],
    last: Conv,
}

impl SrUNet3d {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let [a, b, d] = c.channels;
        Ok(Self {
            down: [
                Chain::new(1, a, 1, 1, scope)?,
                Chain::new(a, b, 2, 1, scope)?,
                Chain::new(b, d, 3, 1, scope)?,
            ],
            skip: [Grow::new(a, a, "fracconv1", scope)?, Grow::new(b, b, "fracconv2", scope)?],
            up: [
                (Grow::new(d, b, "fracconv3", scope)?, Chain::new(2 * b, b, 2, 4, scope)?),
                (Grow::new(b, a, "fracconv4", scope)?, Chain::new(2 * a, a, 1, 4, scope)?),
            ],
            last: Conv::same(3, a, 1, 3, true, &scope.pp("final_conv"))?,
        })
    }

    /// A volume with `scale` times as many slices.
    ///
    /// # Shapes
    /// `x [N, 1, D, H, W]` → `[N, 1, scale·D, H, W]`, with `H` and `W` multiples of 4
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not fit; [`Error::Argument`] unless `scale` is even and above 0.
    pub fn forward(&self, x: &Tensor, scale: usize, _: &Ctx) -> Result<Tensor> {
        const OP: &str = "sr_unet3d";
        if scale == 0 || scale % 2 == 1 {
            let message =
                format!("the factor between slices must be even and above 0, got {scale}");
            return Err(Error::argument(OP, message));
        }
        check_image(OP, x, 1, &[1, 4, 4])?;
        let flat = vec![1, 2, 2];
        let pool = PoolSpec { kernel: flat.clone(), stride: flat, padding: vec![0; 3] };
        let fine = self.down[0].forward(&[x])?;
        let middle = self.down[1].forward(&[&max_pool(&fine, &pool)?])?;
        let coarse = self.down[2].forward(&[&max_pool(&middle, &pool)?])?;

        let [(to_middle, middle_convs), (to_fine, fine_convs)] = &self.up;
        let skip = self.skip[1].forward(&middle, [2, 1, 1])?;
        let up = to_middle.forward(&coarse, [2, 2, 2])?;
        let h = middle_convs.forward(&[&up, &skip])?;
        // here the skip connection comes first
        let skip = self.skip[0].forward(&fine, [scale, 1, 1])?;
        let up = to_fine.forward(&h, [scale / 2, 2, 2])?;
        let h = fine_convs.forward(&[&skip, &up])?;
        self.last.forward(&h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{self, Golden, Tolerance};
    use candle_core::{DType, Device};
    use std::collections::BTreeMap;

    #[test]
    fn equals_emdiffuse() {
        let Some(golden) = Golden::open("emdiffuse/net_sr_unet3d") else { return };
        let config = golden.json("config");
        let mut weights = BTreeMap::new();
        for file in config["weights_files"].as_array().unwrap() {
            let name = file.as_str().unwrap().strip_suffix(".safetensors").unwrap();
            weights.extend(Golden::open(&format!("emdiffuse/{name}")).unwrap().weights("weights."));
        }
        let crate::AnyConfig::SrUnet3d(found) = golden::recognised(&golden.name, &weights) else {
            panic!("not recognised as a 3D-SR-Unet");
        };
        assert_eq!(found, Config::default());
        let (params, net) = golden::filled(&weights, |scope| SrUNet3d::new(&found, scope));
        for scale in config["up_scales"].as_array().unwrap() {
            let scale = scale.as_u64().unwrap() as usize;
            let y = net.forward(golden.tensor("in.x"), scale, &Ctx::eval()).unwrap();
            let expected = golden.tensor(&format!("out.up{scale}"));
            golden.close("output", &y, expected, Tolerance { absolute: 2e-5, relative: 1e-4 });
            // the loss of the reference: squared distance, weighted by how far interpolation is off
            let target = golden.tensor(&format!("in.target.up{scale}"));
            let upsampled = golden.tensor(&format!("in.upsampled.up{scale}"));
            let error = (upsampled - target).unwrap().sqr().unwrap();
            let largest = error.max_all().unwrap().to_scalar::<f32>().unwrap();
            let weight = error.affine(0.5 / f64::from(largest), 0.5).unwrap();
            let loss = ((y - target).unwrap().sqr().unwrap() * weight).unwrap();
            let loss = loss.mean_all().unwrap();
            let close = Tolerance { absolute: 0.0, relative: 1e-4 };
            golden.close("loss", &loss, golden.tensor(&format!("out.loss.up{scale}")), close);
            let grads = loss.backward().unwrap();
            let expected = golden.part(&format!("grad.up{scale}."));
            assert!(!expected.is_empty());
            for (key, expected) in expected {
                let got = grads.get(params.get(&key).unwrap().var()).unwrap();
                let close = Tolerance { absolute: 1e-6, relative: 1e-3 };
                golden.close(&format!("gradient of {key}"), got, &expected, close);
            }
        }
    }

    #[test]
    fn the_published_network_has_its_size() {
        assert_eq!(golden::parameters(&Config::default()), 2_408_257);
        golden::round_trip(&Config { channels: [3, 5, 4] }, Config::recognise);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let config = Config { channels: [2, 2, 2] };
        let (_, net) = golden::fresh(|scope| SrUNet3d::new(&config, scope));
        let x = |h: usize| Tensor::zeros((1, 1, 3, h, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(net.forward(&x(8), 2, &Ctx::eval()).unwrap().dims(), [1, 1, 6, 8, 4]);
        for scale in [0, 3] {
            let error = net.forward(&x(8), scale, &Ctx::eval()).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
        }
        let error = net.forward(&x(6), 2, &Ctx::eval()).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
}
