//! Objectives that need no clean image.

use super::linear::{correlate_same, spatial_rank};
use super::operand::{on_gpu, prepare, values};
use super::pixel::{l2, positive};
use super::reduce::{Kernel, mean_of3, sample_means, sample_means3};
use candle_core::Tensor;
use limpid_kernels::{Error, Result};

/// Squared error at the masked elements only: `Σ m d² / Σ m` over the whole batch (Noise2Void,
/// Krull et al. 2019; Noise2Self).
///
/// `mask` has the shape of the images and is 1 where the input was hidden from the network.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Argument`] if the mask is zero everywhere.
pub fn masked_l2(pred: &Tensor, target: &Tensor, mask: &Tensor) -> Result<Tensor> {
    const OP: &str = "masked_l2";
    let mask = mask.detach();
    let error =
        sample_means3(OP, [pred, target, &mask], Kernel::plain("weighted_l2"), |[x, y, m]| {
            let d = x - y;
            (m * d * d, [2.0 * m * d, -2.0 * m * d, d * d])
        })?;
    let weight = sample_means(OP, &mask, Kernel::plain("identity"), |[m]| (m, [1.0]))?;
    if on_gpu(&weight) {
        // a mask without elements is not looked for: the loss is NaN then
        return Ok((error.sum_all()? / weight.sum_all()?)?);
    }
    let total: f64 = values(&weight.to_device(&candle_core::Device::Cpu)?)?.iter().sum();
    if total == 0.0 {
        return Err(Error::argument(OP, "the mask is zero everywhere: nothing to compare"));
    }
    Ok((error.sum_all()? / total)?)
}

/// The masked elements of `noisy` replaced by a weighted mean of their neighbours: what the network
/// sees (Noise2Self, Batson and Royer 2019; zeros outside the image).
///
/// The weights are `[½ 1 ½] ⊗ [½ 1 ½]` without the centre, in any rank.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or there is no spatial axis.
pub fn noise2self_input(noisy: &Tensor, mask: &Tensor) -> Result<Tensor> {
    const OP: &str = "noise2self_input";
    let [x, m] = prepare(OP, [noisy, mask])?;
    let rank = spatial_rank(OP, &x)?;
    let box_sum = correlate_same(OP, &x, vec![vec![0.5, 1.0, 0.5]; rank])?;
    let neighbours = ((box_sum - &x)? / (2f64.powi(rank as i32) - 1.0))?;
    let replaced = (&x + (neighbours - &x)?.mul(&m)?)?;
    Ok(replaced.to_device(noisy.device())?)
}

/// The ordered pairs of cell corners that Neighbor2Neighbor draws from; corners count
/// `0 = (0, 0), 1 = (0, 1), 2 = (1, 0), 3 = (1, 1)`.
const PAIRS: [[u32; 2]; 8] = [[0, 1], [0, 2], [1, 3], [2, 3], [1, 0], [2, 0], [3, 1], [3, 2]];

/// Two half-size images made of neighbouring pixels (Neighbor2Neighbor, Huang et al. 2021).
///
/// `x` is `[N, C, H, W]` with even sides; `choice` holds, for each 2 by 2 cell in order `[N, H/2,
/// W/2]`, which of the eight ordered pairs of adjacent corners to take (`0..8`). All channels share
/// a choice. Differentiable.
///
/// # Errors
/// [`Error::Shape`] if the sides are odd or the number of choices is not that of the cells;
/// [`Error::Argument`] if a choice is 8 or more.
pub fn neighbor_pair(x: &Tensor, choice: &[usize]) -> Result<(Tensor, Tensor)> {
    const OP: &str = "neighbor_pair";
    let (n, c, h, w) = match *x.dims() {
        [n, c, h, w] if h % 2 == 0 && w % 2 == 0 => (n, c, h / 2, w / 2),
        _ => return Err(Error::shape(OP, "[N, C, H, W] with even sides", x.dims())),
    };
    if choice.len() != n * h * w {
        return Err(Error::shape(OP, format!("{} choices, one per cell", n * h * w), choice.len()));
    }
    if let Some(bad) = choice.iter().find(|&&i| i >= PAIRS.len()) {
        return Err(Error::argument(OP, format!("choices must be below 8, got {bad}")));
    }
    let cells = x.reshape((n, c, h, 2, w, 2))?.permute((0, 1, 2, 4, 3, 5))?.contiguous()?;
    let cells = cells.reshape((n, c, h, w, 4))?;
    let side = |which: usize| -> Result<Tensor> {
        let corners: Vec<u32> = choice.iter().map(|&i| PAIRS[i][which]).collect();
        let corners = Tensor::from_vec(corners, (n, 1, h, w, 1), x.device())?;
        let corners = corners.broadcast_as((n, c, h, w, 1))?.contiguous()?;
        Ok(cells.gather(&corners, 4)?.reshape((n, c, h, w))?)
    };
    Ok((side(0)?, side(1)?))
}

/// The two terms of Neighbor2Neighbor, to be added: reconstruction and `gamma` times the
/// regularisation `mean(((pred - second) - (whole_first - whole_second))²)`.
///
/// `pred` is the network on the first sub-image, `second` the other sub-image; `whole_*` are the
/// sub-images of the network on the whole image, computed without gradient. The paper's `gamma` is
/// 2 for most noise.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn neighbor2neighbor(
    pred: &Tensor,
    second: &Tensor,
    whole_first: &Tensor,
    whole_second: &Tensor,
    gamma: f64,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "neighbor2neighbor";
    prepare(OP, [pred, second, whole_first, whole_second])?;
    let gap = (whole_first - whole_second)?.detach();
    let regularisation = l2(&(pred - second)?, &gap)?;
    Ok((l2(pred, second)?, (regularisation * gamma)?))
}

/// Monte-Carlo SURE for Gaussian noise of standard deviation `sigma` (Ramani et al. 2008): an
/// unbiased estimate of the mean squared error to the clean image.
///
/// `probe` is the random direction of ±1 or standard normal elements; `moved` is the network on
/// `noisy + eps * probe`.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::Argument`] if `sigma` or `eps` is not above 0.
pub fn mc_sure(
    pred: &Tensor,
    noisy: &Tensor,
    moved: &Tensor,
    probe: &Tensor,
    sigma: f64,
    eps: f64,
) -> Result<Tensor> {
    const OP: &str = "mc_sure";
    let (sigma, eps) = (positive(OP, "sigma", sigma)?, positive(OP, "eps", eps)?);
    prepare(OP, [pred, noisy, moved, probe])?;
    let variance = sigma * sigma;
    let weight = 2.0 * variance / eps;
    let kernel = Kernel("divergence", [weight, 0.0]);
    let divergence = mean_of3(OP, [moved, pred, probe], kernel, move |[m, x, b]| {
        (weight * b * (m - x), [weight * b, -weight * b, weight * (m - x)])
    })?;
    Ok(((l2(pred, noisy)? + divergence)? - variance)?)
}
