//! What RAFT does with flows and with registered images, without parameters.

use candle_core::{D, DType, Tensor};
use limpid_kernels::{Pad, PoolSpec, Resize};
use limpid_nn::{Error, Result};

/// Values between pixels by bilinear interpolation; outside of the image there are zeros.
///
/// # Shapes
/// `image [N, C, H, W]`, `x` and `y` `[N, P]` in pixels → `[N, C, P]`
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn sample(image: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let [n, c, h, w] = *image.dims() else {
        return Err(Error::shape("sample", "[N, C, H, W]", image.dims()));
    };
    let points = match *x.dims() {
        [m, points] if m == n && y.dims() == x.dims() && h * w > 0 => points,
        _ => {
            let expected = format!("positions [{n}, P] twice");
            return Err(Error::shape("sample", expected, (x.dims(), y.dims())));
        }
    };
    let flat = image.flatten_from(2)?.contiguous()?;
    let axis = |at: &Tensor, step: f64, size: usize| -> Result<(Tensor, Tensor)> {
        let floor = at.detach().floor()?;
        let fraction = (at - &floor)?;
        let weight = if step == 0.0 { (1.0 - fraction)? } else { fraction };
        let pixel = (floor + step)?;
        let last = size as f64 - 1.0;
        let inside =
            (pixel.ge(0.0)?.to_dtype(at.dtype())? * pixel.le(last)?.to_dtype(at.dtype())?)?;
        Ok(((weight * inside)?, pixel.clamp(0.0, last)?.to_dtype(DType::I64)?))
    };
    let mut sum: Option<Tensor> = None;
    for (right, below) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let (x_weight, column) = axis(x, right, w)?;
        let (y_weight, row) = axis(y, below, h)?;
        let index = ((row * w as f64)? + column)?.unsqueeze(1)?;
        let index = index.broadcast_as((n, c, points))?.contiguous()?;
        let weight = (x_weight * y_weight)?.unsqueeze(1)?;
        let part = flat.gather(&index, 2)?.broadcast_mul(&weight)?;
        sum = Some(match sum {
            Some(sum) => (sum + part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::argument("sample", "no neighbours"))
}

/// Column and row of every pixel.
///
/// # Errors
/// Those of the operation.
pub fn grid(like: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let count = |n: usize| Tensor::arange(0f32, n as f32, like.device())?.to_dtype(like.dtype());
    let columns = count(w)?.unsqueeze(0)?.broadcast_as((h, w))?;
    let rows = count(h)?.unsqueeze(1)?.broadcast_as((h, w))?;
    Ok(Tensor::stack(&[columns, rows], 0)?.unsqueeze(0)?)
}

/// Where an image is looked up when it is warped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarpGrid {
    /// Where the flow points: without flow the image stays.
    Pixels,
    /// As EMDiffuse's registration: its mapping to `grid_sample` stretches the image by half a pixel
    /// at each border.
    Stretched,
}

/// The image as seen through a flow: each pixel from where its flow points.
///
/// # Shapes
/// `image [N, C, H, W]`, `flow [N, 2, H, W]` in pixels, right and down → `[N, C, H, W]`
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn warp(image: &Tensor, flow: &Tensor, mode: WarpGrid) -> Result<Tensor> {
    let [n, c, h, w] = *image.dims() else {
        return Err(Error::shape("warp", "[N, C, H, W]", image.dims()));
    };
    if flow.dims() != [n, 2, h, w] {
        return Err(Error::shape("warp", format!("a flow [{n}, 2, {h}, {w}]"), flow.dims()));
    }
    let at = flow.broadcast_add(&grid(flow, h, w)?)?.flatten_from(2)?;
    let axis = |i: usize, size: usize| -> Result<Tensor> {
        let at = at.narrow(1, i, 1)?.squeeze(1)?;
        Ok(match mode {
            WarpGrid::Pixels => at,
            WarpGrid::Stretched => ((at * (size as f64 / (size.max(2) - 1) as f64))? - 0.5)?,
        })
    };
    Ok(sample(image, &axis(0, w)?, &axis(1, h)?)?.reshape((n, c, h, w))?)
}

/// Scalar products of all pixels of two feature maps, with coarser versions of the second.
#[derive(Debug)]
pub struct Correlation {
    levels: Vec<Tensor>,
    size: [usize; 3],
}

impl Correlation {
    /// # Shapes
    /// Both `[N, D, H, W]`, at least `2^(levels - 1)` pixels high and wide.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ or are too small.
    pub fn new(first: &Tensor, second: &Tensor, levels: usize) -> Result<Self> {
        let [n, d, h, w] = *first.dims() else {
            return Err(Error::shape("correlation", "[N, D, H, W]", first.dims()));
        };
        if second.dims() != first.dims() {
            return Err(Error::shape("correlation", format!("{:?}", first.dims()), second.dims()));
        }
        let (first, second) = (first.flatten_from(2)?, second.flatten_from(2)?);
        let products = limpid_kernels::matmul(&first.transpose(1, 2)?, &second)?;
        let products = (products * (1.0 / (d as f64).sqrt()))?;
        let mut level = products.reshape((n * h * w, 1, h, w))?;
        let mut all = Vec::with_capacity(levels);
        for i in 0..levels {
            if i > 0 {
                level = limpid_kernels::avg_pool(&level, &PoolSpec::cubic(2, 2), true)?;
            }
            all.push(level.clone());
        }
        Ok(Self { levels: all, size: [n, h, w] })
    }

    /// The products around a position, for every pixel of the first map.
    ///
    /// # Shapes
    /// `position [N, 2, H, W]` in pixels of the second map → `[N, levels·(2·radius + 1)², H, W]`
    ///
    /// # Errors
    /// [`Error::Shape`] if the positions do not fit.
    pub fn lookup(&self, position: &Tensor, radius: usize) -> Result<Tensor> {
        let [n, h, w] = self.size;
        if position.dims() != [n, 2, h, w] {
            let expected = format!("positions [{n}, 2, {h}, {w}]");
            return Err(Error::shape("correlation lookup", expected, position.dims()));
        }
        let side = 2 * radius + 1;
        let offset = |i: usize| i as f64 - radius as f64;
        // the reference's grid has its axes swapped: the first index moves along x
        let right: Vec<f64> = (0..side * side).map(|i| offset(i / side)).collect();
        let down: Vec<f64> = (0..side * side).map(|i| offset(i % side)).collect();
        let axis = |i: usize, offsets: &[f64], scale: f64| {
            let centre = (position.narrow(1, i, 1)?.reshape((n * h * w, 1))? * scale)?;
            let offsets = Tensor::new(offsets, position.device())?.to_dtype(position.dtype())?;
            centre.broadcast_add(&offsets.unsqueeze(0)?)
        };
        let mut found = Vec::with_capacity(self.levels.len());
        for (i, level) in self.levels.iter().enumerate() {
            let scale = 0.5f64.powi(i as i32);
            let values = sample(level, &axis(0, &right, scale)?, &axis(1, &down, scale)?)?;
            found.push(values.reshape((n, h, w, side * side))?);
        }
        Ok(Tensor::cat(&found, D::Minus1)?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}

/// Eight times the size: each pixel a weighted mean of the 3×3 coarse flows around it.
///
/// # Shapes
/// `flow [N, 2, H, W]`, `weights [N, 9·64, H, W]` before their softmax → `[N, 2, 8·H, 8·W]`
///
/// # Errors
/// [`Error::Shape`] if they do not fit.
pub fn upsample_convex(flow: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let [n, 2, h, w] = *flow.dims() else {
        return Err(Error::shape("upsample_convex", "a flow [N, 2, H, W]", flow.dims()));
    };
    if weights.dims() != [n, 576, h, w] {
        let expected = format!("weights [{n}, 576, {h}, {w}]");
        return Err(Error::shape("upsample_convex", expected, weights.dims()));
    }
    let weights = limpid_kernels::softmax(&weights.reshape((n, 9, 64 * h * w))?, 1)?;
    let weights = weights.reshape((n, 9, 64, h, w))?;
    let padded = limpid_kernels::pad(&(flow * 8.0)?, &[(1, 1), (1, 1)], Pad::Zero)?;
    let mut sum = Tensor::zeros((n, 2, 64, h, w), flow.dtype(), flow.device())?;
    for i in 0..9 {
        let moved = padded.narrow(2, i / 3, h)?.narrow(3, i % 3, w)?.unsqueeze(2)?;
        sum = (sum + moved.broadcast_mul(&weights.narrow(1, i, 1)?)?)?;
    }
    let sum = sum.reshape(&[n, 2, 8, 8, h, w])?.permute([0, 1, 4, 2, 5, 3].as_slice())?;
    Ok(sum.reshape((n, 2, 8 * h, 8 * w))?)
}

/// Eight times the size, bilinear between the corner pixels.
///
/// # Shapes
/// `flow [N, 2, H, W]` → `[N, 2, 8·H, 8·W]`
///
/// # Errors
/// [`Error::Shape`] for another rank.
pub fn upsample_linear(flow: &Tensor) -> Result<Tensor> {
    let size: Vec<usize> = flow.dims().iter().skip(2).map(|n| 8 * n).collect();
    let larger = limpid_kernels::resize(flow, &size, Resize::Linear { align_corners: true })?;
    Ok((larger * 8.0)?)
}

/// The image with repeated border pixels on both sides, so that sizes are multiples of 8.
///
/// # Errors
/// [`Error::Shape`] if it is no image.
pub fn pad_to_eight(image: &Tensor) -> Result<Tensor> {
    let both = |n: &usize| {
        let missing = n.next_multiple_of(8) - n;
        (missing / 2, missing - missing / 2)
    };
    let amounts: Vec<(usize, usize)> = image.dims().iter().skip(2).map(both).collect();
    limpid_kernels::pad(image, &amounts, Pad::Replicate)
}

/// Which pairs of points agree with the others on where they moved, and by how much on the mean:
/// those that are neither among the share `outliers` of the most deviating directions nor of the
/// longest ways.
///
/// # Errors
/// [`Error::Argument`] if there are not as many of each, or a coordinate or the share is out of
/// range.
pub fn consistent_matches(
    from: &[[f64; 2]],
    to: &[[f64; 2]],
    outliers: f64,
) -> Result<(Vec<usize>, f64)> {
    const OP: &str = "consistent_matches";
    if from.len() != to.len() || !(0.0..=1.0).contains(&outliers) {
        let (n, m) = (from.len(), to.len());
        return Err(Error::argument(OP, format!("{n} points, {m} points, a share of {outliers}")));
    }
    if from.iter().chain(to).flatten().any(|v| !v.is_finite()) {
        return Err(Error::argument(OP, "a coordinate is not finite"));
    }
    let ways: Vec<[f64; 2]> =
        from.iter().zip(to).map(|(a, b)| [b[0] - a[0], b[1] - a[1]]).collect();
    let lengths: Vec<f64> = ways.iter().map(|[x, y]| x.hypot(*y)).collect();
    let directions: Vec<[f64; 2]> =
        ways.iter().zip(&lengths).map(|(w, l)| w.map(|v| v / (l + 1e-6))).collect();
    let n = ways.len();
    let mean = |i: usize| directions.iter().map(|d| d[i]).sum::<f64>() / n as f64;
    let mean = [mean(0), mean(1)];
    let deviation = |d: &[f64; 2]| -(d[0] * mean[0] + d[1] * mean[1]);
    let deviations: Vec<f64> = directions.iter().map(deviation).collect();
    let kept = (n as f64 * (1.0 - outliers)) as usize;
    let least = |values: &[f64]| {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
        order.truncate(kept);
        order
    };
    let near = least(&lengths);
    let mut found: Vec<usize> =
        least(&deviations).into_iter().filter(|i| near.contains(i)).collect();
    found.sort_unstable();
    let length = found.iter().map(|i| lengths[*i]).sum::<f64>() / found.len() as f64;
    Ok((found, length))
}
