//! The grid of an image: its checks, and three dimensions for the inner loops whatever its rank.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A checked image shape, padded on the left with ones to three dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) dims: [usize; 3],
    /// Number of dimensions of the image, 1 to 3: the last ones of `dims`.
    pub(crate) rank: usize,
}

impl Grid {
    /// Checks that `shape` has one to three non-empty axes, fits `image`, and that every value is
    /// finite.
    pub(crate) fn new(filter: &'static str, image: &[f64], shape: &[usize]) -> Result<Self> {
        let grid = Self::of_shape(filter, shape)?;
        let size = shape.iter().try_fold(1usize, |size, n| size.checked_mul(*n));
        if size != Some(image.len()) {
            let got = format!("{} values for shape {shape:?}", image.len());
            return Err(Error::shape(filter, "as many values as the shape says", got));
        }
        if let Some(i) = image.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { filter, at: unravel(i, shape), value: image[i] });
        }
        Ok(grid)
    }

    /// Checks that `shape` has one to three non-empty axes.
    pub(crate) fn of_shape(filter: &'static str, shape: &[usize]) -> Result<Self> {
        if shape.is_empty() || shape.len() > 3 || shape.contains(&0) {
            let got = format!("shape {shape:?}");
            return Err(Error::shape(filter, "one to three axes, none empty", got));
        }
        let mut dims = [1; 3];
        dims[3 - shape.len()..].copy_from_slice(shape);
        Ok(Self { dims, rank: shape.len() })
    }

    /// The axes of `dims` that the image has.
    pub(crate) fn axes(&self) -> std::ops::Range<usize> {
        3 - self.rank..3
    }

    /// `value` on the axes that the image has, `other` on the padded ones.
    pub(crate) fn on_axes<T: Copy>(&self, value: T, other: T) -> [T; 3] {
        let mut all = [other; 3];
        all[3 - self.rank..].fill(value);
        all
    }

    /// One value per axis of `dims` from a parameter; padded axes get `other`.
    pub(crate) fn spread<T: Copy>(
        &self,
        filter: &'static str,
        key: &str,
        value: &PerAxis<T>,
        other: T,
    ) -> Result<[T; 3]> {
        match value {
            PerAxis::All(value) => Ok(self.on_axes(*value, other)),
            PerAxis::Each(values) if values.len() == self.rank => {
                let mut all = [other; 3];
                all[3 - self.rank..].copy_from_slice(values);
                Ok(all)
            }
            PerAxis::Each(values) => Err(Error::parameter(
                filter,
                format!("`{key}` has {} values for {} axes", values.len(), self.rank),
            )),
        }
    }
}

/// One value for all axes of an image, or one for each, in the order of its shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerAxis<T> {
    /// The same on every axis.
    All(T),
    /// One per axis.
    Each(Vec<T>),
}

impl<T> PerAxis<T> {
    /// The values, one or several.
    pub(crate) fn values(&self) -> &[T] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }
}

impl<T> From<T> for PerAxis<T> {
    fn from(value: T) -> Self {
        Self::All(value)
    }
}

/// The index of flat position `i`, one number per axis.
fn unravel(mut i: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (axis, n) in shape.iter().enumerate().rev() {
        at[axis] = i % n;
        i /= n;
    }
    at
}

/// `image` with `pad` samples more on both sides of each axis.
pub(crate) fn pad(
    image: &[f64],
    dims: [usize; 3],
    pad: [usize; 3],
    border: crate::Border,
) -> (Vec<f64>, [usize; 3]) {
    let maps = [0, 1, 2].map(|a| border.extended(dims[a], pad[a], pad[a]));
    let padded = [0, 1, 2].map(|a| maps[a].len());
    let mut out = Vec::with_capacity(padded.iter().product());
    for z in &maps[0] {
        for y in &maps[1] {
            let row = z.zip(*y).map(|(z, y)| (z * dims[1] + y) * dims[2]);
            for x in &maps[2] {
                out.push(row.zip(*x).map_or(border.outside(), |(row, x)| image[row + x]));
            }
        }
    }
    (out, padded)
}
