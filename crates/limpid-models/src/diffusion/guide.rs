//! Corrections on the way: what the degraded image knows better than the network.

use super::sampler::{Guide, Step};
use candle_core::Tensor;
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_kernels::{Error, Pad, PoolSpec, Resize, add, avg_pool, pad, resize, scale};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Share of the last steps in which [`Adjust`] acts.
const ADJUSTED: f64 = 0.2;

/// How sampling is corrected on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuideConfig {
    /// Not at all.
    None {},
    /// The coarse part of every estimate is drawn to that of the degraded image (as ILVR, Choi et al.
    /// 2021, arXiv:2108.02938, does with states).
    LowFrequency {
        /// How far: 0 not at all, 1 all the way.
        strength: f64,
        /// Side of the squares whose means are the coarse part, in pixels.
        scale: usize,
        /// γ up to which this is done.
        until: f64,
    },
    /// EMDiffuse's `adjust`, which it never switches on: in the last fifth of the steps the mean
    /// intensity is drawn half-way to that of the condition.
    ReferenceAdjust {},
}

impl Validate for GuideConfig {
    fn validate(&self, at: &mut Check) {
        if let Self::LowFrequency { strength, scale, until } = self {
            for (key, value) in [("strength", strength), ("until", until)] {
                if !(0.0..=1.0).contains(value) {
                    at.problem(key, format!("must be from 0 to 1, got {value}"));
                }
            }
            if !(1..=1024).contains(scale) {
                at.problem("scale", format!("must be from 1 to 1024, got {scale}"));
            }
        }
    }
}

impl GuideConfig {
    /// The guide for an image or a part of one, which begins `at` this pixel of the whole.
    ///
    /// # Shapes
    /// `reference [1 or N, C, H, W]`, the degraded image as an estimate of the clean one;
    /// `condition [1 or N, Cc, H, W]`, what the network sees.
    ///
    /// # Errors
    /// If there are no images of two dimensions.
    pub fn guide(
        &self,
        reference: &Tensor,
        condition: &Tensor,
        at: [i64; 2],
    ) -> Result<Box<dyn Guide>> {
        Ok(match *self {
            Self::None {} => Box::new(()),
            Self::LowFrequency { strength, scale, until } => {
                Box::new(LowFrequency::new(reference, at, strength, scale, until)?)
            }
            Self::ReferenceAdjust {} => Box::new(Adjust::new(condition)?),
        })
    }
}

/// Draws the coarse part of estimates to that of a reference.
#[derive(Clone, Debug)]
pub struct LowFrequency {
    coarse: Tensor,
    squares: Squares,
    strength: f64,
    until: f64,
}

/// Squares that begin at multiples of their side in the whole image.
#[derive(Clone, Copy, Debug)]
struct Squares {
    side: usize,
    /// Pixels of the first ones that lie before the part.
    before: [usize; 2],
}

impl LowFrequency {
    /// `scale` and the rest as in [`GuideConfig::LowFrequency`], `at` as in [`GuideConfig::guide`].
    ///
    /// # Shapes
    /// `reference [1 or N, C, H, W]`.
    ///
    /// # Errors
    /// If it has another rank.
    pub fn new(
        reference: &Tensor,
        at: [i64; 2],
        strength: f64,
        scale: usize,
        until: f64,
    ) -> Result<Self> {
        let side = scale.max(1);
        let squares = Squares { side, before: at.map(|at| at.rem_euclid(side as i64) as usize) };
        Ok(Self { coarse: squares.means(reference)?, squares, strength, until })
    }
}

impl Guide for LowFrequency {
    fn estimate(&self, at: &Step, clean: Tensor) -> Result<Tensor> {
        if self.strength == 0.0 || at.level.gamma() > self.until {
            return Ok(clean);
        }
        let missing = rows_like(&self.coarse, &clean)?.sub(&self.squares.means(&clean)?)?;
        let missing = self.squares.spread(&scale(&missing, self.strength)?, &clean)?;
        Ok(add(&clean, &missing)?)
    }
}

impl Squares {
    /// Their means; the first and last ones are filled up with the border pixels.
    fn means(&self, image: &Tensor) -> Result<Tensor> {
        let [_, _, height, width] = *image.dims() else {
            return Err(Error::shape("guide", "[N, C, H, W]", image.dims()).into());
        };
        let fill = |before: usize, n: usize| {
            (before, (before + n).next_multiple_of(self.side) - before - n)
        };
        let [top, left] = self.before;
        let image = pad(image, &[fill(top, height), fill(left, width)], Pad::Replicate)?;
        Ok(avg_pool(&image, &PoolSpec::cubic(2, self.side), false)?)
    }

    /// Their means as an image of the size of `like`.
    fn spread(&self, means: &Tensor, like: &Tensor) -> Result<Tensor> {
        let size: Vec<usize> = means.dims()[2..].iter().map(|n| n * self.side).collect();
        let mut image = resize(means, &size, Resize::Linear { align_corners: false })?;
        for (axis, before) in [2, 3].into_iter().zip(self.before) {
            image = limpid_kernels::narrow(&image, axis, before, like.dims()[axis])?;
        }
        Ok(image)
    }
}

/// A tensor of one row, or as many as `like`, with as many rows as `like`.
fn rows_like(tensor: &Tensor, like: &Tensor) -> Result<Tensor> {
    let mut shape = tensor.dims().to_vec();
    if shape.first() == Some(&1) {
        shape[0] = like.dims()[0];
    }
    Ok(tensor.broadcast_as(shape)?.contiguous()?)
}

/// EMDiffuse's `adjust`.
#[derive(Clone, Debug)]
pub struct Adjust {
    /// Half the mean of each row, `[1 or N, 1, 1, 1]`.
    half_means: Tensor,
}

impl Adjust {
    /// # Shapes
    /// `condition [1 or N, Cc, H, W]`; its mean is that of all channels.
    ///
    /// # Errors
    /// If it has another rank.
    pub fn new(condition: &Tensor) -> Result<Self> {
        Ok(Self { half_means: half_means(condition)? })
    }
}

/// Half the mean of each row.
fn half_means(image: &Tensor) -> Result<Tensor> {
    if image.rank() != 4 {
        return Err(Error::shape("guide", "[N, C, H, W]", image.dims()).into());
    }
    Ok((image.mean_keepdim((1, 2, 3))? * 0.5)?)
}

impl Guide for Adjust {
    fn mean(&self, at: &Step, mean: Tensor) -> Result<Tensor> {
        let left = at.of - 1 - at.index;
        if left as f64 >= ADJUSTED * at.of as f64 {
            return Ok(mean);
        }
        let shift = self.half_means.broadcast_sub(&half_means(&mean)?)?;
        Ok(mean.broadcast_add(&shift)?)
    }
}

/// Keeps the known part of an image, as the reference's `mask`.
#[derive(Clone, Debug)]
pub struct Inpaint {
    kept: Tensor,
    mask: Tensor,
}

impl Inpaint {
    /// `mask` is 1 where the image is to be drawn and 0 where it is `known`.
    ///
    /// # Shapes
    /// Both those of the state.
    ///
    /// # Errors
    /// If they differ.
    pub fn new(known: &Tensor, mask: &Tensor) -> Result<Self> {
        let kept = (known * (1.0 - mask)?)?;
        Ok(Self { kept, mask: mask.clone() })
    }
}

impl Guide for Inpaint {
    fn state(&self, _at: &Step, x: Tensor) -> Result<Tensor> {
        Ok(add(&self.kept, &(x * &self.mask)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Input, Level};
    use candle_core::{DType, Device};
    use limpid_kernels::rng::Stream;

    fn image(n: usize, height: usize, width: usize, purpose: &str) -> Tensor {
        let mut values = vec![0f32; n * height * width];
        Stream::new(2, purpose).fill_normal(&mut values);
        let image = Tensor::from_vec(values, (n, 1, height, width), &Device::Cpu).unwrap();
        image.to_dtype(DType::F64).unwrap()
    }

    fn step(index: usize, gamma: f64) -> Step {
        Step { index, of: 10, level: Level::of_gamma(gamma, Input::Gamma), next: Level::CLEAN }
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        let d = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        d.to_vec1::<f64>().unwrap().into_iter().fold(0.0, f64::max)
    }

    #[test]
    fn an_error_of_brightness_is_taken_away() {
        let clean = image(3, 13, 22, "clean");
        let shifted = (&clean + 0.7).unwrap();
        let guide = LowFrequency::new(&clean, [0, 0], 1.0, 8, 0.5).unwrap();
        let got = guide.estimate(&step(0, 0.3), shifted.clone()).unwrap();
        assert!(distance(&got, &clean) < 1e-12);
        let half = LowFrequency::new(&clean, [-3, 21], 0.5, 8, 0.5).unwrap();
        let got = half.estimate(&step(0, 0.5), shifted.clone()).unwrap();
        assert!(distance(&got, &(&clean + 0.35).unwrap()) < 1e-12);
        // beyond its range it does nothing
        let got = guide.estimate(&step(0, 0.6), shifted.clone()).unwrap();
        assert_eq!(distance(&got, &shifted), 0.0);
        // one reference for all rows
        let flat = Tensor::zeros((1, 1, 13, 22), DType::F64, &Device::Cpu).unwrap();
        let guide = LowFrequency::new(&flat, [0, 0], 1.0, 8, 1.0).unwrap();
        let ones = Tensor::ones((3, 1, 13, 22), DType::F64, &Device::Cpu).unwrap();
        let got = guide.estimate(&step(0, 0.3), ones).unwrap();
        assert!(distance(&got, &got.zeros_like().unwrap()) < 1e-12);
    }

    #[test]
    fn details_stay_as_they_are() {
        // stripes of one pixel have no mean over eight
        let stripes: Vec<f64> = (0..256).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let stripes = Tensor::from_vec(stripes, (1, 1, 16, 16), &Device::Cpu).unwrap();
        let flat = stripes.zeros_like().unwrap();
        let guide = LowFrequency::new(&flat, [0, 0], 1.0, 8, 1.0).unwrap();
        let got = guide.estimate(&step(0, 0.3), stripes.clone()).unwrap();
        assert!(distance(&got, &stripes) < 1e-12);
    }

    #[test]
    fn parts_of_an_image_are_guided_as_the_whole() {
        // inside, a part has the correction of the whole, wherever it is cut
        let (reference, clean) = (image(1, 48, 56, "reference"), image(1, 48, 56, "clean"));
        let guided = |reference: &Tensor, clean: &Tensor, at: [i64; 2]| {
            let guide = LowFrequency::new(reference, at, 0.8, 8, 1.0).unwrap();
            guide.estimate(&step(0, 0.3), clean.clone()).unwrap()
        };
        for [y, x] in [[0, 16], [5, 11]] {
            let cut = |t: &Tensor| {
                t.narrow(2, y, 40).unwrap().narrow(3, x, 40).unwrap().contiguous().unwrap()
            };
            // the whole begins before the image, where it was padded
            let at = [y as i64 - 3, x as i64 - 4];
            let whole = cut(&guided(&reference, &clean, [-3, -4]));
            let part = guided(&cut(&reference), &cut(&clean), at);
            let inner = |t: &Tensor| t.narrow(2, 12, 16).unwrap().narrow(3, 12, 16).unwrap();
            assert!(distance(&inner(&whole), &inner(&part)) < 1e-12);
        }
    }

    #[test]
    fn the_adjustment_goes_half_way_in_the_last_fifth() {
        let mean = image(2, 4, 4, "mean");
        let flat = Tensor::full(2.0f64, (2, 2, 4, 4), &Device::Cpu).unwrap();
        let guide = Adjust::new(&flat).unwrap();
        for (index, acts) in [(0, false), (7, false), (8, true), (9, true)] {
            let got = guide.mean(&step(index, 0.5), mean.clone()).unwrap();
            assert_eq!(distance(&got, &mean) > 0.0, acts, "{index}");
            if acts {
                let middle = |t: &Tensor| t.mean_keepdim((1, 2, 3)).unwrap();
                let expected = ((middle(&mean) + 2.0).unwrap() * 0.5).unwrap();
                assert!(distance(&middle(&got), &expected) < 1e-12);
            }
        }
    }

    #[test]
    fn what_is_known_is_kept() {
        let (known, drawn) = (image(1, 2, 3, "known"), image(1, 2, 3, "drawn"));
        let mask = Tensor::new(&[[[[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]]], &Device::Cpu).unwrap();
        let got = Inpaint::new(&known, &mask).unwrap().state(&step(0, 0.5), drawn.clone()).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let (got, known, drawn, mask) =
            (values(&got), values(&known), values(&drawn), values(&mask));
        for i in 0..6 {
            assert_eq!(got[i], if mask[i] == 1.0 { drawn[i] } else { known[i] });
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let image = Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(LowFrequency::new(&image, [0, 0], 1.0, 8, 1.0).is_err());
        assert!(Adjust::new(&image).is_err());
        for guide in [
            GuideConfig::LowFrequency { strength: 1.5, scale: 8, until: 1.0 },
            GuideConfig::LowFrequency { strength: 1.0, scale: 0, until: 1.0 },
            GuideConfig::LowFrequency { strength: 1.0, scale: 8, until: f64::NAN },
        ] {
            assert_eq!(limpid_config::check(&guide).len(), 1, "{guide:?}");
        }
    }
}
