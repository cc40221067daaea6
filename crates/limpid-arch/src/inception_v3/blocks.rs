//! The blocks: branches of convolutions beside each other, concatenated.

use candle_core::Tensor;
use limpid_kernels::{Activation, ConvSpec, PoolSpec, avg_pool, max_pool};
use limpid_nn::layers::{BatchNorm, Conv};
use limpid_nn::{Ctx, Result, Scope};

/// Kernel, stride and padding of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
}

impl Shape {
    /// Without a border.
    pub(super) fn bare(kernel: usize) -> Self {
        Self { kernel: [kernel; 2], stride: 1, padding: [0; 2] }
    }

    /// Without a border, every second pixel.
    pub(super) fn strided(kernel: usize) -> Self {
        Self { stride: 2, ..Self::bare(kernel) }
    }

    /// Keeps the size.
    pub(super) fn same(height: usize, width: usize) -> Self {
        Self { kernel: [height, width], stride: 1, padding: [height / 2, width / 2] }
    }
}

/// Convolution, batch normalisation, ReLU (`BasicConv2d`).
#[derive(Debug)]
pub(super) struct ConvBlock {
    conv: Conv,
    norm: BatchNorm,
}

impl ConvBlock {
    pub(super) fn new(inputs: usize, outputs: usize, shape: Shape, scope: &Scope) -> Result<Self> {
        let spec = ConvSpec {
            stride: vec![shape.stride; 2],
            padding: shape.padding.to_vec(),
            ..ConvSpec::unit(2)
        };
        Ok(Self {
            conv: Conv::new(inputs, outputs, &shape.kernel, spec, false, &scope.pp("conv"))?,
            norm: BatchNorm::new(outputs, 1e-3, 0.1, true, &scope.pp("bn"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        self.norm.forward_act(&self.conv.forward(x)?, Activation::Relu, ctx)
    }
}

/// The five sorts of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) enum MixedKind {
    /// 1, 5 and twice 3, for 35² pixels.
    A {
        /// Channels of the branch with the pool.
        pooled: usize,
    },
    /// Halves the image.
    B,
    /// 7-convolutions split by axis, for 17² pixels.
    C {
        /// Channels inside the branches.
        inner: usize,
    },
    /// Halves the image again.
    D,
    /// Branches that fork, for 8² pixels.
    E {
        /// Whether the pool takes maxima instead of averages.
        maxima: bool,
    },
}

impl MixedKind {
    /// Channels of the result.
    pub(super) fn outputs(self, inputs: usize) -> usize {
        match self {
            Self::A { pooled } => 64 + 64 + 96 + pooled,
            Self::B => 384 + 96 + inputs,
            Self::C { .. } => 4 * 192,
            Self::D => 320 + 192 + inputs,
            Self::E { .. } => 320 + 768 + 768 + 192,
        }
    }
}

/// What precedes the convolutions of a branch.
#[derive(Clone, Copy, Debug)]
enum Pool {
    None,
    /// Average of 3², size kept.
    Average,
    /// Maximum of 3², size kept.
    Maximum,
    /// Maximum of 3², size halved.
    Halve,
}

/// A pool and convolutions after each other; the last ones may stand beside each other.
#[derive(Debug)]
struct Branch {
    pool: Pool,
    chain: Vec<ConvBlock>,
    fork: Vec<ConvBlock>,
}

/// A block.
#[derive(Debug)]
pub(super) struct Mixed {
    branches: Vec<Branch>,
    /// Whether averages count the zeros beyond the border.
    border: bool,
}

impl Mixed {
    pub(super) fn new(kind: MixedKind, inputs: usize, border: bool, scope: &Scope) -> Result<Self> {
        let one = Shape::same(1, 1);
        let (wide, high) = (Shape::same(1, 7), Shape::same(7, 1));
        // names, channels and shapes of convolutions, each after the one before
        let chain = |layers: &[(&str, usize, Shape)]| -> Result<Vec<ConvBlock>> {
            let mut inputs = inputs;
            let mut convs = Vec::with_capacity(layers.len());
            for (name, outputs, shape) in layers {
                convs.push(ConvBlock::new(inputs, *outputs, *shape, &scope.pp(name))?);
                inputs = *outputs;
            }
            Ok(convs)
        };
        let branch = |layers: &[(&str, usize, Shape)]| -> Result<Branch> {
            Ok(Branch { pool: Pool::None, chain: chain(layers)?, fork: Vec::new() })
        };
        let pooled = |pool: Pool, outputs: usize| -> Result<Branch> {
            let chain = chain(&[("branch_pool", outputs, one)])?;
            Ok(Branch { pool, chain, fork: Vec::new() })
        };
        let forked = |layers: &[(&str, usize, Shape)], stem: &str| -> Result<Branch> {
            let fork = |name: &str, shape| {
                ConvBlock::new(384, 384, shape, &scope.pp(format!("{stem}{name}")))
            };
            let chain = chain(layers)?;
            let fork = vec![fork("a", Shape::same(1, 3))?, fork("b", Shape::same(3, 1))?];
            Ok(Branch { pool: Pool::None, chain, fork })
        };
        let halved = Branch { pool: Pool::Halve, chain: Vec::new(), fork: Vec::new() };
        let branches = match kind {
            MixedKind::A { pooled: outputs } => vec![
                branch(&[("branch1x1", 64, one)])?,
                branch(&[("branch5x5_1", 48, one), ("branch5x5_2", 64, Shape::same(5, 5))])?,
                branch(&[
                    ("branch3x3dbl_1", 64, one),
                    ("branch3x3dbl_2", 96, Shape::same(3, 3)),
                    ("branch3x3dbl_3", 96, Shape::same(3, 3)),
                ])?,
                pooled(Pool::Average, outputs)?,
            ],
            MixedKind::B => vec![
                branch(&[("branch3x3", 384, Shape::strided(3))])?,
                branch(&[
                    ("branch3x3dbl_1", 64, one),
                    ("branch3x3dbl_2", 96, Shape::same(3, 3)),
                    ("branch3x3dbl_3", 96, Shape::strided(3)),
                ])?,
                halved,
            ],
            MixedKind::C { inner } => vec![
                branch(&[("branch1x1", 192, one)])?,
                branch(&[
                    ("branch7x7_1", inner, one),
                    ("branch7x7_2", inner, wide),
                    ("branch7x7_3", 192, high),
                ])?,
                branch(&[
                    ("branch7x7dbl_1", inner, one),
                    ("branch7x7dbl_2", inner, high),
                    ("branch7x7dbl_3", inner, wide),
                    ("branch7x7dbl_4", inner, high),
                    ("branch7x7dbl_5", 192, wide),
                ])?,
                pooled(Pool::Average, 192)?,
            ],
            MixedKind::D => vec![
                branch(&[("branch3x3_1", 192, one), ("branch3x3_2", 320, Shape::strided(3))])?,
                branch(&[
                    ("branch7x7x3_1", 192, one),
                    ("branch7x7x3_2", 192, wide),
                    ("branch7x7x3_3", 192, high),
                    ("branch7x7x3_4", 192, Shape::strided(3)),
                ])?,
                halved,
            ],
            MixedKind::E { maxima } => vec![
                branch(&[("branch1x1", 320, one)])?,
                forked(&[("branch3x3_1", 384, one)], "branch3x3_2")?,
                forked(
                    &[("branch3x3dbl_1", 448, one), ("branch3x3dbl_2", 384, Shape::same(3, 3))],
                    "branch3x3dbl_3",
                )?,
                pooled(if maxima { Pool::Maximum } else { Pool::Average }, 192)?,
            ],
        };
        Ok(Self { branches, border })
    }

    pub(super) fn forward(&self, x: &Tensor, ctx: &Ctx) -> Result<Tensor> {
        let kept = PoolSpec { stride: vec![1; 2], padding: vec![1; 2], ..PoolSpec::cubic(2, 3) };
        let half = PoolSpec { stride: vec![2; 2], ..PoolSpec::cubic(2, 3) };
        let mut results = Vec::new();
        for branch in &self.branches {
            let mut h = match branch.pool {
                Pool::None => x.clone(),
                Pool::Average => avg_pool(x, &kept, self.border)?,
                Pool::Maximum => max_pool(x, &kept)?,
                Pool::Halve => max_pool(x, &half)?,
            };
            for conv in &branch.chain {
                h = conv.forward(&h, ctx)?;
            }
            if branch.fork.is_empty() {
                results.push(h);
            } else {
                for conv in &branch.fork {
                    results.push(conv.forward(&h, ctx)?);
                }
            }
        }
        Ok(Tensor::cat(&results, 1)?)
    }
}
