//! Encoders, update and the network itself.

use super::ops::{Correlation, grid, upsample_convex, upsample_linear};
use super::{Config, Model};
use candle_core::Tensor;
use limpid_kernels::{Activation, ConvSpec, relu, sigmoid, tanh};
use limpid_nn::layers::{Conv, Norm, NormConfig, same_padding};
use limpid_nn::{Ctx, Error, Init, Result, Scope};

const OP: &str = "RAFT";
/// Coarser versions of the correlation.
const LEVELS: usize = 4;

/// A convolution of an encoder, drawn by the number of its outputs (He et al. 2015).
fn encoder_conv(
    inputs: usize,
    outputs: usize,
    size: usize,
    stride: usize,
    scope: &Scope,
) -> Result<Conv> {
    let kernel = [size; 2];
    let padding = same_padding(&kernel);
    let spec = ConvSpec { stride: vec![stride; 2], padding, ..ConvSpec::unit(2) };
    let std = (2.0 / (outputs * size * size) as f64).sqrt();
    let init = Init::Normal { mean: 0.0, std };
    Conv::with_init(inputs, outputs, &kernel, spec, true, init, scope)
}

/// Convolutions with their normalisations, added to the input.
#[derive(Debug)]
struct Residual {
    layers: Vec<(Conv, Norm)>,
    shortcut: Option<(Conv, Norm)>,
}

impl Residual {
    fn new(
        model: Model,
        (inputs, outputs): (usize, usize),
        norm: NormConfig,
        stride: usize,
        scope: &Scope,
    ) -> Result<Self> {
        let narrow = outputs / 4;
        // inputs, outputs, kernel, stride
        let sizes = match model {
            Model::Basic => vec![(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)],
            Model::Small => {
                vec![(inputs, narrow, 1, 1), (narrow, narrow, 3, stride), (narrow, outputs, 1, 1)]
            }
        };
        let conv = |i: usize| scope.pp(format!("conv{}", i + 1));
        let normalise =
            |i: usize, n: usize| Norm::new(norm, n, &scope.pp(format!("norm{}", i + 1)));
        let count = sizes.len();
        let layer = |(i, (inputs, outputs, kernel, stride))| {
            let conv = encoder_conv(inputs, outputs, kernel, stride, &conv(i))?;
            Ok((conv, normalise(i, outputs)?))
        };
        let shortcut = || -> Result<(Conv, Norm)> {
            let conv = encoder_conv(inputs, outputs, 1, stride, &scope.pp("downsample").pp(0))?;
            Ok((conv, normalise(count, outputs)?))
        };
        Ok(Self {
            layers: sizes.into_iter().enumerate().map(layer).collect::<Result<_>>()?,
            shortcut: (stride > 1).then(shortcut).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = x.clone();
        for (conv, norm) in &self.layers {
            h = norm.forward_act(&conv.forward(&h)?, Activation::Relu, ctx)?;
        }
        let x = match &self.shortcut {
            Some((conv, norm)) => norm.forward(&conv.forward(x)?, ctx)?,
            None => x.clone(),
        };
        relu(&(x + h)?)
    }
}

/// An image at an eighth of its size.
#[derive(Debug)]
struct Encoder {
    first: Conv,
    norm: Norm,
    blocks: Vec<Residual>,
    last: Conv,
}

impl Encoder {
    fn new(model: Model, outputs: usize, norm: NormConfig, scope: &Scope) -> Result<Self> {
        let widths = model.widths();
        let mut inputs = widths[0];
        let mut blocks = Vec::new();
        for (i, outputs) in widths.into_iter().enumerate() {
            let scope = scope.pp(format!("layer{}", i + 1));
            let stride = if i == 0 { 1 } else { 2 };
            blocks.push(Residual::new(model, (inputs, outputs), norm, stride, &scope.pp(0))?);
            blocks.push(Residual::new(model, (outputs, outputs), norm, 1, &scope.pp(1))?);
            inputs = outputs;
        }
        Ok(Self {
            first: encoder_conv(3, widths[0], 7, 2, &scope.pp("conv1"))?,
            norm: Norm::new(norm, widths[0], &scope.pp("norm1"))?,
            blocks,
            last: encoder_conv(inputs, outputs, 1, 1, &scope.pp("conv2"))?,
        })
    }

    fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let mut h = self.norm.forward_act(&self.first.forward(x)?, Activation::Relu, ctx)?;
        for block in &self.blocks {
            h = block.forward(&h, ctx)?;
        }
        self.last.forward(&h)
    }
}

/// One gated recurrent step.
#[derive(Debug)]
struct Gru {
    update: Conv,
    reset: Conv,
    candidate: Conv,
}

impl Gru {
    fn new(
        hidden: usize,
        inputs: usize,
        kernel: [usize; 2],
        suffix: &str,
        scope: &Scope,
    ) -> Result<Self> {
        let conv = |name: &str| {
            let spec = ConvSpec { padding: same_padding(&kernel), ..ConvSpec::unit(2) };
            let scope = scope.pp(format!("{name}{suffix}"));
            Conv::new(hidden + inputs, hidden, &kernel, spec, true, &scope)
        };
        Ok(Self { update: conv("convz")?, reset: conv("convr")?, candidate: conv("convq")? })
    }

    fn forward(&self, h: &Tensor, x: &Tensor) -> Result<Tensor> {
        let both = Tensor::cat(&[h, x], 1)?;
        let update = sigmoid(&self.update.forward(&both)?)?;
        let reset = (sigmoid(&self.reset.forward(&both)?)? * h)?;
        let candidate = tanh(&self.candidate.forward(&Tensor::cat(&[&reset, x], 1)?)?)?;
        Ok((h + (update * (candidate - h)?)?)?)
    }
}

/// What turns correlations and the flow so far into a better flow.
#[derive(Debug)]
struct Update {
    correlation: Vec<Conv>,
    flow: [Conv; 2],
    motion: Conv,
    gru: Vec<Gru>,
    head: [Conv; 2],
    mask: Option<[Conv; 2]>,
}

impl Update {
    fn new(model: Model, scope: &Scope) -> Result<Self> {
        let conv = |inputs, outputs, kernel, scope: Scope| {
            Conv::same(2, inputs, outputs, kernel, true, &scope)
        };
        let (encoder, gru, head) = (scope.pp("encoder"), scope.pp("gru"), scope.pp("flow_head"));
        let side = 2 * model.radius() + 1;
        let planes = LEVELS * side * side;
        let (hidden, context) = (model.hidden(), model.context());
        Ok(match model {
            Model::Basic => {
                let (mask, inputs) = (scope.pp("mask"), context + 128);
                Self {
                    correlation: vec![
                        conv(planes, 256, 1, encoder.pp("convc1"))?,
                        conv(256, 192, 3, encoder.pp("convc2"))?,
                    ],
                    flow: [
                        conv(2, 128, 7, encoder.pp("convf1"))?,
                        conv(128, 64, 3, encoder.pp("convf2"))?,
                    ],
                    motion: conv(256, 126, 3, encoder.pp("conv"))?,
                    gru: vec![
                        Gru::new(hidden, inputs, [1, 5], "1", &gru)?,
                        Gru::new(hidden, inputs, [5, 1], "2", &gru)?,
                    ],
                    head: [
                        conv(hidden, 256, 3, head.pp("conv1"))?,
                        conv(256, 2, 3, head.pp("conv2"))?,
                    ],
                    mask: Some([conv(hidden, 256, 3, mask.pp(0))?, conv(256, 576, 1, mask.pp(2))?]),
                }
            }
            Model::Small => Self {
                correlation: vec![conv(planes, 96, 1, encoder.pp("convc1"))?],
                flow: [
                    conv(2, 64, 7, encoder.pp("convf1"))?,
                    conv(64, 32, 3, encoder.pp("convf2"))?,
                ],
                motion: conv(128, 80, 3, encoder.pp("conv"))?,
                gru: vec![Gru::new(hidden, context + 82, [3, 3], "", &gru)?],
                head: [conv(hidden, 128, 3, head.pp("conv1"))?, conv(128, 2, 3, head.pp("conv2"))?],
                mask: None,
            },
        })
    }

    /// The new state and the change of the flow.
    fn forward(
        &self,
        state: &Tensor,
        context: &Tensor,
        correlation: Tensor,
        flow: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let active = |h: Tensor, conv: &Conv| relu(&conv.forward(&h)?);
        let correlation = self.correlation.iter().try_fold(correlation, active)?;
        let motion = self.flow.iter().try_fold(flow.clone(), active)?;
        let motion = active(Tensor::cat(&[correlation, motion], 1)?, &self.motion)?;
        let inputs = Tensor::cat(&[context, &motion, flow], 1)?;
        let state = self.gru.iter().try_fold(state.clone(), |h, gru| gru.forward(&h, &inputs))?;
        let change = two(&self.head, &state)?;
        Ok((state, change))
    }

    /// The flow at the size of the image.
    fn upsample(&self, state: &Tensor, flow: &Tensor) -> Result<Tensor> {
        match &self.mask {
            Some(mask) => upsample_convex(flow, &(two(mask, state)? * 0.25)?),
            None => upsample_linear(flow),
        }
    }
}

/// Two convolutions with a rectifier between them.
fn two([first, second]: &[Conv; 2], x: &Tensor) -> Result<Tensor> {
    second.forward(&relu(&first.forward(x)?)?)
}

/// How pixels moved, right and down, in pixels.
#[derive(Clone, Debug)]
pub struct Flow {
    /// At an eighth of the size, in its pixels `[N, 2, H/8, W/8]`.
    pub coarse: Tensor,
    /// At full size `[N, 2, H, W]`, after the last iteration; in training after each.
    pub fine: Vec<Tensor>,
}

/// The network.
#[derive(Debug)]
pub struct Raft {
    features: Encoder,
    context: Encoder,
    update: Update,
    model: Model,
}

impl Raft {
    /// Defines the parameters.
    ///
    /// # Errors
    /// If a parameter name is taken.
    pub fn new(c: &Config, scope: &Scope) -> Result<Self> {
        let (outputs, norm) = match c.model {
            Model::Basic => (256, NormConfig::Batch {}),
            Model::Small => (128, NormConfig::None {}),
        };
        let instance = NormConfig::Instance { affine: false };
        let context = c.model.hidden() + c.model.context();
        Ok(Self {
            features: Encoder::new(c.model, outputs, instance, &scope.pp("fnet"))?,
            context: Encoder::new(c.model, context, norm, &scope.pp("cnet"))?,
            update: Update::new(c.model, &scope.pp("update_block"))?,
            model: c.model,
        })
    }

    /// Where the pixels of the first image are in the second, improved `iterations` times from
    /// `start`, a coarse flow, or from rest.
    ///
    /// # Shapes
    /// Both images `[N, 3, H, W]` with values up to 255, H and W multiples of 8 from 64 on.
    ///
    /// # Errors
    /// [`Error::Shape`] if something does not fit; [`Error::Argument`] for no iterations.
    pub fn forward(
        &self,
        first: &Tensor,
        second: &Tensor,
        iterations: usize,
        start: Option<&Tensor>,
        ctx: &Ctx,
    ) -> Result<Flow> {
        let [n, h, w] = match *first.dims() {
            [n, 3, h, w] if h % 8 == 0 && w % 8 == 0 && h.min(w) >= 64 => [n, h / 8, w / 8],
            _ => {
                let expected = "[N, 3, H, W] with multiples of 8 from 64 on";
                return Err(Error::shape(OP, expected, first.dims()));
            }
        };
        if second.dims() != first.dims() {
            return Err(Error::shape(OP, format!("{:?}", first.dims()), second.dims()));
        }
        if iterations == 0 {
            return Err(Error::argument(OP, "needs at least one iteration"));
        }
        let signed = |image: &Tensor| (image * (2.0 / 255.0))? - 1.0;
        let (first, second) = (signed(first)?, signed(second)?);
        let both = self.features.forward(&Tensor::cat(&[&first, &second], 0)?, ctx)?;
        let correlation = Correlation::new(&both.narrow(0, 0, n)?, &both.narrow(0, n, n)?, LEVELS)?;
        let context = self.context.forward(&first, ctx)?;
        let hidden = self.model.hidden();
        let mut state = tanh(&context.narrow(1, 0, hidden)?)?;
        let context = relu(&context.narrow(1, hidden, self.model.context())?)?;
        let rest = grid(&first, h, w)?.broadcast_as((n, 2, h, w))?.contiguous()?;
        let mut flow = match start {
            Some(start) if start.dims() == rest.dims() => start.clone(),
            Some(start) => {
                return Err(Error::shape(OP, format!("{:?}", rest.dims()), start.dims()));
            }
            None => rest.zeros_like()?,
        };
        let mut fine = Vec::new();
        for i in 0..iterations {
            flow = flow.detach();
            let seen = correlation.lookup(&(&rest + &flow)?, self.model.radius())?;
            let (next, change) = self.update.forward(&state, &context, seen, &flow)?;
            state = next;
            flow = (flow + change)?;
            if ctx.is_train() || i + 1 == iterations {
                fine.push(self.update.upsample(&state, &flow)?);
            }
        }
        Ok(Flow { coarse: flow, fine })
    }
}
