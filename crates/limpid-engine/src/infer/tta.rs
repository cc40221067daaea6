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

/// Predictions of `x` in every orientation, turned back, all held at once: for statistics other
/// than those of [`averaged`].
///
/// # Errors
/// Those of `predict`.
pub fn predictions(
    x: &Tensor,
    tta: Tta,
    mut predict: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    tta.orientations(x.rank() - 2).iter().map(|o| o.invert(&predict(&o.apply(x)?)?)).collect()
}

/// Mean of the predictions of `x` over all orientations, and if asked their population standard
/// deviation. No more than one prediction is held beside these (Welford's running moments).
///
/// # Errors
/// Those of `predict`.
pub fn averaged(
    x: &Tensor,
    tta: Tta,
    deviation: bool,
    mut predict: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    let orientations = tta.orientations(x.rank() - 2);
    let mut mean = orientations[0].invert(&predict(&orientations[0].apply(x)?)?)?;
    let mut squares = if deviation { Some(mean.zeros_like()?) } else { None };
    for (i, orientation) in orientations.iter().enumerate().skip(1) {
        let view = orientation.invert(&predict(&orientation.apply(x)?)?)?;
        let before = (&view - &mean)?;
        mean = (&mean + (&before / (i + 1) as f64)?)?;
        if let Some(sum) = &mut squares {
            *sum = (&*sum + (before * (view - &mean)?)?)?;
        }
    }
    let deviation = match squares {
        Some(sum) => Some((sum / orientations.len() as f64)?.relu()?.sqrt()?),
        None => None,
    };
    Ok((mean, deviation))
}
