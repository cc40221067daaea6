//! What a filter sees beyond the edge of an image (the modes of scipy.ndimage).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a filter sees beyond the edge of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// Mirrored at the edge of the outermost sample: `c b a | a b c | c b a` (numpy `symmetric`).
    #[default]
    Reflect,
    /// The outermost sample, repeated: `a a a | a b c | c c c` (numpy `edge`).
    Nearest,
    /// Mirrored at the centre of the outermost sample: `c b | a b c | b a` (numpy `reflect`).
    Mirror,
    /// The opposite edge: `a b c | a b c | a b c`.
    Wrap,
    /// This value everywhere.
    Constant(f64),
}

impl Border {
    /// Where in `0..n` the sample at `i` comes from; `None`: from outside, see [`Border::outside`].
    pub(crate) fn index(self, i: isize, n: usize) -> Option<usize> {
        let n = n as isize;
        if (0..n).contains(&i) {
            return Some(i as usize);
        }
        let inside = match self {
            Self::Constant(_) => return None,
            Self::Nearest => i.clamp(0, n - 1),
            Self::Wrap => i.rem_euclid(n),
            Self::Reflect => {
                let i = i.rem_euclid(2 * n);
                i.min(2 * n - 1 - i)
            }
            Self::Mirror if n == 1 => 0,
            Self::Mirror => {
                let i = i.rem_euclid(2 * n - 2);
                i.min(2 * n - 2 - i)
            }
        };
        Some(inside as usize)
    }

    /// The value of samples that come from outside.
    pub(crate) fn outside(self) -> f64 {
        match self {
            Self::Constant(value) => value,
            _ => 0.0,
        }
    }

    /// The index of every sample from `-before` to `n + after`.
    pub(crate) fn extended(self, n: usize, before: usize, after: usize) -> Vec<Option<usize>> {
        (-(before as isize)..(n + after) as isize).map(|i| self.index(i, n)).collect()
    }
}
