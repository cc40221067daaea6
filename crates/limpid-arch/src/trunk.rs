//! Chains of convolutions, ReLUs and maximum pools, cut where their features are wanted: the nets
//! behind perceptual losses.

use crate::cubic::Cubic;
use candle_core::Tensor;
use limpid_kernels::{PoolSpec, max_pool, relu};
use limpid_nn::layers::Conv;
use limpid_nn::{Result, Scope};

/// One layer of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Conv { outputs: usize, kernel: usize, stride: usize, padding: usize },
    Relu,
    Pool { kernel: usize },
}

/// The layers of a VGG: `widths` of its convolutions in stages of so many, a pool after each stage.
/// It ends with the stage in which the widths do.
pub(crate) fn vgg(stages: &[usize], widths: &[usize]) -> Vec<Step> {
    let mut widths = widths.iter();
    let mut steps = Vec::new();
    for convs in stages {
        for &outputs in widths.by_ref().take(*convs) {
            steps.extend([Step::Conv { outputs, kernel: 3, stride: 1, padding: 1 }, Step::Relu]);
        }
        steps.push(Step::Pool { kernel: 2 });
    }
    steps
}

#[derive(Debug)]
enum Layer {
    Conv(Conv),
    Relu,
    Pool(PoolSpec),
}

/// The chain in slices.
#[derive(Debug)]
pub(crate) struct Trunk(Vec<Vec<Layer>>);

impl Trunk {
    /// The layers below the last of `cuts`, in slices that end there; `scope` is that of a layer in
    /// a slice, both counted from 0.
    pub(crate) fn new(
        mut inputs: usize,
        steps: &[Step],
        cuts: &[usize],
        scope: impl Fn(usize, usize) -> Scope,
    ) -> Result<Self> {
        let mut slices = Vec::with_capacity(cuts.len());
        let mut at = 0;
        for (slice, &cut) in cuts.iter().enumerate() {
            let mut layers = Vec::new();
            for (i, step) in steps.iter().enumerate().take(cut).skip(at) {
                layers.push(match *step {
                    Step::Conv { outputs, kernel, stride, padding } => {
                        let cubic = Cubic { dims: 2, kernel, stride, padding };
                        let conv = cubic.conv(inputs, outputs, true, &scope(slice, i))?;
                        inputs = outputs;
                        Layer::Conv(conv)
                    }
                    Step::Relu => Layer::Relu,
                    Step::Pool { kernel } => {
                        let stride = vec![2; 2];
                        Layer::Pool(PoolSpec { stride, ..PoolSpec::cubic(2, kernel) })
                    }
                });
            }
            slices.push(layers);
            at = cut;
        }
        Ok(Self(slices))
    }

    /// What leaves each slice.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let mut h = x.clone();
        let mut features = Vec::with_capacity(self.0.len());
        for layers in &self.0 {
            for layer in layers {
                h = match layer {
                    Layer::Conv(conv) => conv.forward(&h)?,
                    Layer::Relu => relu(&h)?,
                    Layer::Pool(spec) => max_pool(&h, spec)?,
                };
            }
            features.push(h.clone());
        }
        Ok(features)
    }
}
