//! Test-time augmentation: the same image seen in every orientation.

use crate::Result;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Orientations in which an image is predicted; results are turned back and averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tta {
    /// The image as it is.
    #[default]
    None,
    /// Every combination of flips: 4 in 2-D, 8 in 3-D.
    Flips,
    /// Flips and quarter turns of the last two axes: 8 in 2-D, 16 in 3-D. Needs square windows.
    Dihedral,
}

/// One orientation: transpose of the last two axes, then flips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orientation {
    transpose: bool,
    flips: Vec<usize>,
}

impl Tta {
    /// The orientations for `rank` spatial axes, the identity first.
    #[must_use]
    pub fn orientations(self, rank: usize) -> Vec<Orientation> {
        let flips: Vec<Vec<usize>> = match self {
            Self::None => vec![Vec::new()],
            Self::Flips | Self::Dihedral => (0..1usize << rank)
                .map(|bits| (0..rank).filter(|a| bits >> a & 1 == 1).collect())
                .collect(),
        };
        let transposes: &[bool] =
            if self == Self::Dihedral && rank >= 2 { &[false, true] } else { &[false] };
        transposes
            .iter()
            .flat_map(|&transpose| {
                flips.iter().map(move |f| Orientation { transpose, flips: f.clone() })
            })
            .collect()
    }
}

impl Orientation {
    /// Turns `x [N, C, s…]` into this orientation.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        if self.transpose {
            y = y.transpose(x.rank() - 1, x.rank() - 2)?;
        }
        self.flip(&y)
    }

    /// Turns it back.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn invert(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.flip(x)?;
        Ok(if self.transpose { y.transpose(x.rank() - 1, x.rank() - 2)?.contiguous()? } else { y })
    }

    fn flip(&self, x: &Tensor) -> Result<Tensor> {
        // candle reverses one axis at a time, and only contiguous tensors
        self.flips.iter().try_fold(x.contiguous()?, |y, a| Ok(y.flip(&[a + 2])?.contiguous()?))
    }
}

/// Predictions of `x` in every orientation, turned back.
///
/// # Errors
/// Those of `predict`.
pub fn predictions(
    x: &Tensor,
    tta: Tta,
    mut predict: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    tta.orientations(x.rank() - 2)
        .iter()
        .map(|o| o.invert(&predict(&o.apply(x)?)?))
        .collect()
}

/// Mean and population standard deviation over predictions of one shape.
///
/// # Errors
/// Those of the tensor library; an empty list.
pub fn mean_and_std(predictions: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let stack = Tensor::stack(predictions, 0)?;
    let mean = stack.mean(0)?;
    let variance = stack.broadcast_sub(&mean)?.sqr()?.mean(0)?;
    Ok((mean, variance.sqrt()?))
}
