//! How much a window counts at each of its positions.

/// MONAI's Gaussian importance of a window: a product of `exp(-x²/2σ²)` with `σ = scale·size`
/// centred on the window, not below `max(minimum, 1e-3)`.
#[must_use]
pub fn monai_gaussian(size: &[usize], scale: f64) -> Vec<f64> {
    let axes: Vec<Vec<f64>> = size
        .iter()
        .map(|&n| {
            let (sigma, centre) = (scale * n as f64, (n as f64 - 1.0) / 2.0);
            (0..n).map(|i| (-(i as f64 - centre).powi(2) / (2.0 * sigma * sigma)).exp()).collect()
        })
        .collect();
    let mut map = outer(&axes);
    let floor = map.iter().copied().fold(f64::INFINITY, f64::min).max(1e-3);
    map.iter_mut().for_each(|w| *w = w.max(floor));
    map
}

/// nnU-Net's Gaussian importance: an impulse at `size/2` filtered with `σ = size/8` (truncated at
/// 4σ, zero outside), scaled to a maximum of 1; zeros become the smallest positive weight.
#[must_use]
pub fn nnunet_gaussian(size: &[usize]) -> Vec<f64> {
    let axes: Vec<Vec<f64>> = size
        .iter()
        .map(|&n| {
            let sigma = n as f64 / 8.0;
            let radius = (4.0 * sigma + 0.5) as usize;
            let kernel = |d: usize| (-0.5 * (d as f64 / sigma).powi(2)).exp();
            let sum: f64 = kernel(0) + 2.0 * (1..=radius).map(kernel).sum::<f64>();
            (0..n)
                .map(|i| {
                    let d = i.abs_diff(n / 2);
                    if d <= radius { kernel(d) / sum } else { 0.0 }
                })
                .collect()
        })
        .collect();
    let mut map = outer(&axes);
    let max = map.iter().copied().fold(0.0, f64::max);
    map.iter_mut().for_each(|w| *w /= max);
    let least = map.iter().copied().filter(|w| *w > 0.0).fold(f64::INFINITY, f64::min);
    map.iter_mut().filter(|w| **w == 0.0).for_each(|w| *w = least);
    map
}

/// Our weight along one axis: nothing counts within `halo` of a cut (a window edge that is not an
/// image border), then it rises as a raised cosine over `ramp` positions.
///
/// Values within the halo lack context that the network would have seen in the whole image; leaving
/// them out and fading the rest is what makes a tiled result seamless.
#[must_use]
pub fn cosine_axis(start: usize, size: usize, image: usize, halo: usize, ramp: usize) -> Vec<f64> {
    let side = |distance: usize, cut: bool| {
        if !cut {
            return 1.0;
        }
        let t = (distance as f64 + 0.5 - halo as f64) / ramp.max(1) as f64;
        let t = t.clamp(0.0, 1.0);
        0.5 - 0.5 * (std::f64::consts::PI * t).cos()
    };
    (0..size).map(|i| side(i, start > 0) * side(size - 1 - i, start + size < image)).collect()
}

/// Outer product of one weight per axis, row-major.
#[must_use]
pub fn outer(axes: &[Vec<f64>]) -> Vec<f64> {
    axes.iter().fold(vec![1.0], |map, axis| {
        map.iter().flat_map(|m| axis.iter().map(move |a| m * a)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_weights_ignore_the_halo_only_at_cuts() {
        let inner = cosine_axis(10, 20, 100, 3, 4);
        assert!(inner[..3].iter().chain(&inner[17..]).all(|&w| w == 0.0));
        assert!(inner[7..13].iter().all(|&w| w == 1.0));
        let first = cosine_axis(0, 20, 100, 3, 4);
        assert!(first[..13].iter().all(|&w| w == 1.0) && first[19] == 0.0);
        assert!(cosine_axis(0, 20, 20, 3, 4).iter().all(|&w| w == 1.0));
    }

    #[test]
    fn gaussians_are_positive_and_peak_in_the_middle() {
        for map in [monai_gaussian(&[8, 12], 0.125), nnunet_gaussian(&[8, 12])] {
            assert!(map.iter().all(|w| *w > 0.0 && *w <= 1.0));
            let peak = map.iter().copied().fold(0.0, f64::max);
            assert!(map[4 * 12 + 6] == peak);
        }
    }
}
