//! Masks of Noise2Void (Krull et al., CVPR 2019), N2V2 (Höck et al., ECCVW 2022: median) and
//! structN2V (Broaddus et al., ISBI 2020), with the sampling of CAREamics: one pixel in each cell
//! of a grid is hidden, so that masked pixels neither cluster nor leave gaps.

use crate::boxes::{flat, line_starts, unflat};
use limpid_config::{Check, Validate};
use limpid_kernels::rng::Draws;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Which pixels are hidden from the network, and what it sees in their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlindSpotConfig {
    /// Pixels hidden, in percent.
    pub percent: f64,
    /// Width of the neighbourhood that a replacement comes from, in pixels; odd.
    pub roi: usize,
    /// What replaces a hidden pixel.
    pub strategy: Replacement,
    /// Neighbours along a line, hidden too, where noise is correlated along an axis (scan lines).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineMask>,
}

impl Default for BlindSpotConfig {
    fn default() -> Self {
        Self { percent: 0.2, roi: 11, strategy: Replacement::Uniform, line: None }
    }
}

/// What replaces a hidden pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// A random other pixel of the neighbourhood (Noise2Void).
    #[default]
    Uniform,
    /// The median of the other pixels of the neighbourhood (N2V2).
    Median,
}

/// Neighbours of a hidden pixel that are hidden with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineMask {
    /// Axis along which noise is correlated.
    pub axis: LineAxis,
    /// Length of the line, in pixels, the hidden pixel in its middle; odd.
    #[serde(default = "default_span")]
    pub span: usize,
}

fn default_span() -> usize {
    5
}

/// An axis of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineAxis {
    /// Along rows: horizontal lines.
    X,
    /// Along columns: vertical lines.
    Y,
    /// Through slices; 3-D only.
    Z,
}

impl LineAxis {
    /// Its place counted from the last axis.
    pub(crate) fn place_from_last(self) -> usize {
        match self {
            Self::X => 0,
            Self::Y => 1,
            Self::Z => 2,
        }
    }
}

impl Validate for BlindSpotConfig {
    fn validate(&self, at: &mut Check) {
        if !(self.percent > 0.0 && self.percent <= 10.0) {
            at.problem("percent", format!("must be above 0 and at most 10, got {}", self.percent))
                .hint("0.2 is usual; many hidden pixels spoil each other's context");
        }
        if self.roi < 3 || self.roi.is_multiple_of(2) {
            at.problem("roi", format!("must be odd and at least 3, got {}", self.roi));
        }
        if let Some(line) = self.line.filter(|l| l.span < 3 || l.span.is_multiple_of(2)) {
            at.problem("line.span", format!("must be odd and at least 3, got {}", line.span));
        }
    }
}

impl BlindSpotConfig {
    /// Hides pixels of `data`, `[channels, size…]`, in place, the same in all channels, and returns
    /// the mask of the hidden ones, 1 where hidden, of the same shape. At least one is hidden.
    pub(crate) fn hide(&self, data: &mut [f32], size: &[usize], draws: &mut Draws) -> Vec<f32> {
        let source = data.to_vec();
        let voxels: usize = size.iter().product();
        let hidden = self.places(size, draws);
        let mut mask = vec![0.0; data.len()];
        for place in &hidden {
            let at = flat(place, size);
            let other = self.neighbour(place, size, draws);
            for (c, image) in source.chunks_exact(voxels).enumerate() {
                data[c * voxels + at] = match self.strategy {
                    Replacement::Uniform => image[other],
                    Replacement::Median => median(image, size, place, self.roi),
                };
                mask[c * voxels + at] = 1.0;
            }
        }
        if let Some(line) = self.line {
            for (c, image) in source.chunks_exact(voxels).enumerate() {
                let hide = &mut data[c * voxels..(c + 1) * voxels];
                line.hide(hide, image, size, &hidden, draws);
            }
        }
        mask
    }

    /// One place in each cell of a grid; cells that reach beyond the image may have none.
    fn places(&self, size: &[usize], draws: &mut Draws) -> Vec<Vec<usize>> {
        let cell = (100.0 / self.percent).powf(1.0 / size.len() as f64).round().max(1.0) as usize;
        let grid: Vec<usize> = size.iter().map(|s| s.div_ceil(cell)).collect();
        let mut places = Vec::new();
        for index in 0..grid.iter().product() {
            let place: Vec<usize> = unflat(index, &grid)
                .iter()
                .map(|g| g * cell + draws.below(cell as u64) as usize)
                .collect();
            if place.iter().zip(size).all(|(p, s)| p < s) {
                places.push(place);
            }
        }
        if places.is_empty() {
            places.push(size.iter().map(|s| draws.below(*s as u64) as usize).collect());
        }
        places
    }

    /// A random pixel of the neighbourhood, not the middle itself.
    fn neighbour(&self, place: &[usize], size: &[usize], draws: &mut Draws) -> usize {
        let (low, extent) = neighbourhood(place, size, self.roi);
        let count: usize = extent.iter().product();
        let middle: Vec<usize> = place.iter().zip(&low).map(|(p, l)| p - l).collect();
        let middle = flat(&middle, &extent);
        let mut pick = draws.below(count.saturating_sub(1) as u64) as usize;
        if pick >= middle && count > 1 {
            pick += 1;
        }
        let at: Vec<usize> = unflat(pick, &extent).iter().zip(&low).map(|(e, l)| e + l).collect();
        flat(&at, size)
    }
}

impl LineMask {
    /// Replaces the neighbours of hidden pixels along the line by values of the image's range.
    fn hide(
        self,
        data: &mut [f32],
        image: &[f32],
        size: &[usize],
        hidden: &[Vec<usize>],
        draws: &mut Draws,
    ) {
        let (low, high) = image
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
        let Some(axis) = (size.len() - 1).checked_sub(self.axis.place_from_last()) else { return };
        let half = self.span / 2;
        for place in hidden {
            let mut at = place.clone();
            let first = place[axis].saturating_sub(half);
            for i in first..=(place[axis] + half).min(size[axis] - 1) {
                if i != place[axis] {
                    at[axis] = i;
                    data[flat(&at, size)] = draws.range(f64::from(low), f64::from(high)) as f32;
                }
            }
        }
    }
}

/// Replaces the pixels of `image` where `mask` is not zero by the median of the other pixels in a
/// window of `roi` around them, as [`Replacement::Median`] does.
///
/// # Errors
/// An image or a mask that is not of `size`, or an even window.
pub fn median_filled(
    image: &[f32],
    mask: &[f32],
    size: &[usize],
    roi: usize,
) -> crate::Result<Vec<f32>> {
    let pixels = size.iter().product::<usize>();
    if size.is_empty() || image.len() != pixels || mask.len() != pixels {
        let (image, mask) = (image.len(), mask.len());
        let message = format!("an image of {image} and a mask of {mask} pixels for size {size:?}");
        return Err(crate::Error::setting(message, "both have as many pixels as the size says"));
    }
    if roi < 3 || roi.is_multiple_of(2) {
        let message = format!("`roi` must be odd and at least 3, got {roi}");
        return Err(crate::Error::setting(message, "5 or 11 are usual"));
    }
    let filled = |(at, (value, hidden)): (usize, (&f32, &f32))| {
        if *hidden == 0.0 { *value } else { median(image, size, &unflat(at, size), roi) }
    };
    Ok(image.iter().zip(mask).enumerate().map(filled).collect())
}

/// Median of the pixels within a window of `roi` around `place` that lie in the image, without the
/// middle itself; of an even number the mean of the two in the middle.
fn median(image: &[f32], size: &[usize], place: &[usize], roi: usize) -> f32 {
    let (low, extent) = neighbourhood(place, size, roi);
    let width = extent[extent.len() - 1];
    let middle = flat(place, size);
    let mut values = Vec::with_capacity(extent.iter().product());
    for line in line_starts(size, &low, &extent) {
        values.extend_from_slice(&image[line..line + width]);
        if (line..line + width).contains(&middle) {
            values.remove(values.len() - width + middle - line);
        }
    }
    if values.is_empty() {
        return image[middle];
    }
    let half = values.len() / 2;
    let odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(half, f32::total_cmp);
    let lower = below.iter().copied().max_by(f32::total_cmp);
    lower.filter(|_| !odd).map_or(*upper, |lower| (lower + *upper) / 2.0)
}

/// First pixel and size of the window of `roi` around `place`, cut at the border.
fn neighbourhood(place: &[usize], size: &[usize], roi: usize) -> (Vec<usize>, Vec<usize>) {
    let half = roi / 2;
    place
        .iter()
        .zip(size)
        .map(|(p, s)| {
            let low = p.saturating_sub(half);
            (low, (p + half + 1).min(*s) - low)
        })
        .unzip()
}
