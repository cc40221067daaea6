//! Maximum and average over windows, as `torch.nn.functional.max_pool*d` and `avg_pool*d`.
//!
//! An average is a sparse matrix per dimension (see [`crate::separable`]). The gradient of a maximum
//! goes to the pixel of each window that is the largest. Both can be differentiated twice.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
pub(crate) use cuda::cases;
mod max;
#[cfg(test)]
mod tests;

pub use max::max_pool;

use crate::check::{image, one_per_dim};
use crate::separable::{AxisMap, LONGEST, apply_maps};
use crate::{Error, Result};
use candle_core::Tensor;

/// Windows of a pooling operation; one entry per spatial dimension, in the order of the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Pixels of a window, at least 1.
    pub kernel: Vec<usize>,
    /// Pixels from one window to the next, at least 1.
    pub stride: Vec<usize>,
    /// Pixels added to both ends of a dimension, at most half the kernel: zeros for the average,
    /// minus infinity for the maximum.
    pub padding: Vec<usize>,
}

impl PoolSpec {
    /// Windows of `size` pixels in each of `rank` dimensions, side by side, without padding.
    #[must_use]
    pub fn cubic(rank: usize, size: usize) -> Self {
        Self { kernel: vec![size; rank], stride: vec![size; rank], padding: vec![0; rank] }
    }

    /// Checks the windows against the spatial sizes and returns how many there are of them.
    fn outputs(&self, op: &'static str, x: &Tensor) -> Result<Vec<usize>> {
        let (_, _, spatial) = image(op, x)?;
        one_per_dim(op, "kernel", self.kernel.len(), spatial.len())?;
        one_per_dim(op, "stride", self.stride.len(), spatial.len())?;
        one_per_dim(op, "padding", self.padding.len(), spatial.len())?;
        let mut steps = self.kernel.iter().chain(&self.stride);
        if steps.any(|n| !(1..=LONGEST).contains(n)) {
            let message = format!("`kernel` and `stride` must be 1 to {LONGEST}");
            return Err(Error::Argument { op, message });
        }
        (0..spatial.len())
            .map(|d| {
                let (kernel, padding) = (self.kernel[d], self.padding[d]);
                if padding > kernel / 2 {
                    let message = format!(
                        "`padding` {padding} in spatial dimension {d} must be at most half the \
                         kernel of {kernel}"
                    );
                    return Err(Error::Argument { op, message });
                }
                let padded = spatial[d] + 2 * padding;
                if padded < kernel || spatial[d] == 0 {
                    let expected =
                        format!("at least {kernel} pixels with padding in spatial dimension {d}");
                    return Err(Error::shape(op, expected, x.dims()));
                }
                Ok((padded - kernel) / self.stride[d] + 1)
            })
            .collect()
    }
}

/// Average over windows.
///
/// # Shapes
/// `x [N, C, s..]` → `[N, C, s'..]` with `s' = (s + 2 * padding - kernel) / stride + 1`, rounded
/// down; one to three spatial dimensions.
///
/// # Errors
/// [`Error::Shape`] for another rank or dtype or if no window fits; [`Error::Argument`] if `spec` is
/// out of range.
pub fn avg_pool(x: &Tensor, spec: &PoolSpec, count_include_pad: bool) -> Result<Tensor> {
    let op = "avg_pool";
    let outputs = spec.outputs(op, x)?;
    let maps = x.dims()[2..]
        .iter()
        .enumerate()
        .map(|(d, &n)| {
            let (kernel, stride, padding) = (spec.kernel[d], spec.stride[d], spec.padding[d]);
            AxisMap::new(n, outputs[d], |i| {
                let start = (i * stride).saturating_sub(padding);
                let end = (i * stride + kernel - padding).min(n);
                let count = if count_include_pad { kernel } else { end - start };
                (start..end).map(move |j| (j, 1.0 / count as f64))
            })
        })
        .collect();
    apply_maps(op, x, maps, 0.0)
}

/// Average over as many windows as there shall be pixels, as `adaptive_avg_pool*d`: window `i` goes
/// from `floor(i * s / size)` to `ceil((i + 1) * s / size)`.
///
/// # Shapes
/// `x [N, C, s..]` → `[N, C, size..]`
///
/// # Errors
/// [`Error::Shape`] for another rank or dtype or an empty image; [`Error::Argument`] if `size` has a
/// zero or not one entry per dimension.
pub fn adaptive_avg_pool(x: &Tensor, size: &[usize]) -> Result<Tensor> {
    let op = "adaptive_avg_pool";
    let (_, _, spatial) = image(op, x)?;
    one_per_dim(op, "size", size.len(), spatial.len())?;
    if spatial.contains(&0) {
        return Err(Error::shape(op, "an image with at least one pixel", x.dims()));
    }
    if size.iter().any(|n| !(1..=LONGEST).contains(n)) {
        let message = format!("cannot pool {spatial:?} to {size:?}: sizes must be 1 to {LONGEST}");
        return Err(Error::Argument { op, message });
    }
    let maps = spatial
        .iter()
        .zip(size)
        .map(|(&n, &m)| {
            AxisMap::new(n, m, |i| {
                let (start, end) = (i * n / m, ((i + 1) * n).div_ceil(m));
                (start..end).map(move |j| (j, 1.0 / (end - start) as f64))
            })
        })
        .collect();
    apply_maps(op, x, maps, 0.0)
}
