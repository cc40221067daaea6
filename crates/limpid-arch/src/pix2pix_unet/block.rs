//! The blocks of the generator, each of which halves or doubles the image.

use super::{BlockKind, Upsampling};
use crate::cubic::{Cubic, bordered};
use candle_core::Tensor;
use limpid_kernels::{Activation, Pad, Resize, cast, relu, resize_by};
use limpid_nn::layers::{Conv, ConvTranspose, GroupNorm};
use limpid_nn::{Error, Result, Scope};

/// What a block does with its values in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Leaky ReLU of slope 0.2.
    LeakyRelu,
    /// ReLU.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// Nothing.
    Linear,
}

/// Settings of a block.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Spatial dimensions.
    pub dims: usize,
    /// Whether there is a path around it.
    pub kind: BlockKind,
    /// Channels of its input.
    pub inputs: usize,
    /// Channels of its output.
    pub outputs: usize,
    /// Halves the image, else doubles it.
    pub down: bool,
    /// How it doubles the image.
    pub upsampling: Upsampling,
    /// Instance normalisation before the activation.
    pub normalised: bool,
    /// Activation.
    pub output: Output,
    /// Whether the convolution has a bias; after a bilinear resizing it always has.
    pub bias: bool,
}

/// How a block changes the size.
#[derive(Debug)]
enum Sampling {
    Down(Conv),
    Transposed(ConvTranspose),
    Bilinear(Conv),
}

/// The path around a block.
#[derive(Debug)]
enum Around {
    None,
    Identity,
    Down(Conv),
    Up(ConvTranspose),
}

/// A block: change of size, normalisation, activation, and perhaps a path around them.
#[derive(Debug)]
pub struct UnetBlock {
    sampling: Sampling,
    norm: Option<GroupNorm>,
    output: Output,
    around: Around,
}

impl UnetBlock {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &BlockConfig, scope: &Scope) -> Result<Self> {
        let cubic = |kernel, stride, padding| Cubic { dims: c.dims, kernel, stride, padding };
        let (conv, residual) = (scope.pp("conv"), scope.pp("residual").pp("0"));
        let (first, third) = (conv.pp("0"), conv.pp("2"));
        let (inputs, outputs) = (c.inputs, c.outputs);
        let sampling = match (c.down, c.upsampling) {
            (true, _) => Sampling::Down(cubic(4, 2, 0).conv(inputs, outputs, c.bias, &first)?),
            (false, Upsampling::Transposed) => {
                let conv = cubic(4, 2, 1).transposed(inputs, outputs, 0, c.bias, &first)?;
                Sampling::Transposed(conv)
            }
            (false, Upsampling::Bilinear) => {
                Sampling::Bilinear(cubic(3, 1, 0).conv(inputs, outputs, true, &third)?)
            }
        };
        let around = match c.kind {
            BlockKind::Standard => Around::None,
            _ if c.down => Around::Down(cubic(1, 2, 0).conv(inputs, outputs, true, &residual)?),
            _ if inputs == outputs => Around::Identity,
            BlockKind::Residual => {
                Around::Up(cubic(1, 2, 0).transposed(inputs, outputs, 1, true, &residual)?)
            }
        };
        // without parameters, hence without keys
        let norm = c
            .normalised
            .then(|| GroupNorm::new(outputs, outputs, 1e-5, false, &conv))
            .transpose()?;
        Ok(Self { sampling, norm, output: c.output, around })
    }

    /// # Shapes
    /// `x [N, in, s…]` → `[N, out, s/2…]` or `[N, out, 2s…]`
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` does not fit or is too small; also unless it is one pixel, if the
    /// path around the block has nothing that doubles the image.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_cat(&[x])
    }

    /// As [`UnetBlock::forward`] of tensors joined along the channels; the transposed convolution
    /// of a standard block needs no join.
    ///
    /// # Errors
    /// As [`UnetBlock::forward`], and [`Error::Shape`] if they do not fit each other.
    pub fn forward_cat(&self, parts: &[&Tensor]) -> Result<Tensor> {
        if let (Sampling::Transposed(conv), Around::None) = (&self.sampling, &self.around) {
            return self.activated(&conv.forward_cat(parts)?);
        }
        let x = &limpid_kernels::cat(parts, 1)?;
        let h = match &self.sampling {
            Sampling::Down(conv) => conv.forward(&bordered(x, 1, Pad::Reflect)?)?,
            Sampling::Transposed(conv) => conv.forward(x)?,
            Sampling::Bilinear(conv) => {
                let twice = vec![2.0; x.rank().saturating_sub(2)];
                let x = resize_by(x, &twice, Resize::Linear { align_corners: false })?;
                conv.forward(&bordered(&x, 1, Pad::Reflect)?)?
            }
        };
        let h = self.activated(&h)?;
        match &self.around {
            Around::None => Ok(h),
            Around::Down(conv) => limpid_kernels::add(&h, &relu(&conv.forward(x)?)?),
            Around::Up(conv) => limpid_kernels::add(&h, &relu(&conv.forward(x)?)?),
            Around::Identity if x.dims()[2..].iter().all(|s| *s == 1) => {
                Ok(h.broadcast_add(&cast(x, h.dtype())?)?)
            }
            Around::Identity => {
                let expected =
                    "one pixel per channel, as the network has it at its only image size";
                Err(Error::shape("residual block", expected, x.dims()))
            }
        }
    }

    fn activated(&self, h: &Tensor) -> Result<Tensor> {
        let f = match self.output {
            Output::LeakyRelu => Activation::LeakyRelu { slope: 0.2 },
            Output::Relu => Activation::Relu,
            Output::Tanh => Activation::Tanh,
            Output::Linear => Activation::Identity,
        };
        match &self.norm {
            Some(norm) => norm.forward_act(h, f),
            None => f.apply(h),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, Tolerance, filled};
    use candle_core::Var;
    use std::collections::BTreeMap;

    /// The block of a case of the fixture.
    fn config(case: &serde_json::Value) -> BlockConfig {
        let flag = |key: &str| case[key].as_bool().unwrap();
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        BlockConfig {
            dims: 2,
            kind: match case["block"].as_str().unwrap() {
                "UnetBlock" => BlockKind::Standard,
                _ => BlockKind::Residual,
            },
            inputs: size("in_channels"),
            outputs: size("out_channels"),
            down: flag("down"),
            upsampling: match case["upconv_type"].as_str().unwrap() {
                "Transposed" => Upsampling::Transposed,
                _ => Upsampling::Bilinear,
            },
            normalised: case["norm"] == "instance",
            output: match case["activation"].as_str() {
                Some("leaky") => Output::LeakyRelu,
                Some("relu") => Output::Relu,
                Some("tanh") => Output::Tanh,
                other => {
                    assert!(other.is_none());
                    Output::Linear
                }
            },
            bias: flag("bias"),
        }
    }

    #[test]
    fn equals_nectargan() {
        let Some(golden) = Golden::open("gan/blocks") else { return };
        let json = golden.json("config");
        let cases = json["cases"].as_object().unwrap();
        assert!(cases.len() >= 20);
        for (prefix, case) in cases {
            let mut tensors = golden.part(prefix);
            let noise = &case["f32_vs_f64"]["eval"];
            for key in noise["noise_only_grads"].as_array().unwrap() {
                tensors.remove(&format!("grad.{}", key.as_str().unwrap()));
            }
            let golden = Golden {
                name: format!("blocks {prefix}"),
                tensors: tensors.into_iter().collect(),
                metadata: Default::default(),
            };
            let weights: BTreeMap<_, _> = golden.weights("weights.");
            let config = config(&case["config"]);
            let (params, block) = filled(&weights, |scope| UnetBlock::new(&config, scope));
            let x = Var::from_tensor(golden.tensor("in.x")).unwrap();
            let y = block.forward(x.as_tensor()).unwrap();
            // rounding is ten times that of the reference: a constant map, normalised, is nothing else
            let floor = |key: &str| 10.0 * noise[key].as_f64().unwrap();
            let output = Tolerance { absolute: floor("y").max(2e-5), relative: 1e-5 };
            golden.close("output", &y, golden.tensor("out.y"), output);
            let gradient = floor("grad_in").max(floor("grad_param_maxabs_err")).max(1e-6);
            golden.gradients(
                &params,
                &[("in.x", &x)],
                (&y, golden.tensor("in.target")),
                ("grad.", Tolerance { absolute: gradient, relative: 1e-4 }),
            );
        }
    }
}
