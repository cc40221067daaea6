//! Noise as a field: a function of seed, sample, slice, layer, step and absolute pixel.
//!
//! Whatever part of an image is drawn, in whatever order, by however many threads: a pixel has its
//! noise. So neighbouring windows and regions agree before they are blended.

use candle_core::{Device, Tensor};
use limpid_config::{Check, Validate};
use limpid_engine::Result;
use limpid_kernels::rng::Stream;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// Moves columns before 0 into the range of the stream's counters.
const ORIGIN: i64 = 1 << 32;

/// How the noises of layers between the same two slices depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerNoise {
    /// Not at all, as in the reference.
    Independent {},
    /// They share a part that goes from the field of one slice to that of the next, so that layers
    /// cohere along z, across slices too.
    Shared {
        /// Share of the variance, from 0 to 1.
        share: f64,
    },
}

impl Default for LayerNoise {
    /// All shared: on FIB-25 planes across the layers are nearer to the truth, the layers no farther
    /// (docs/src/results.md).
    fn default() -> Self {
        Self::Shared { share: 1.0 }
    }
}

impl Validate for LayerNoise {
    fn validate(&self, at: &mut Check) {
        if let Self::Shared { share } = self
            && !(0.0..=1.0).contains(share)
        {
            at.problem("share", format!("must be from 0 to 1, got {share}"));
        }
    }
}

/// Where a layer lies between two slices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerPlace {
    /// Its number as the network is told it; the first layer after the slice has 0.
    pub index: f64,
    /// Its part of the way to the next slice, from 0 to 1.
    pub fraction: f64,
}

/// What one row of a batch draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Number of the sample.
    pub sample: u64,
    /// Number of the slice, or of the one before the layer.
    pub slice: u64,
    /// The layer, for networks that draw layers between slices.
    pub layer: Option<LayerPlace>,
}

/// The noise of everything that is drawn under a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoiseField {
    seed: u64,
}

impl NoiseField {
    /// The noise of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Standard normal noise of a step, f32 `[rows, 1, size…]` on the CPU, of the pixels from `at` (y, x) on,
    /// which may be below 0.
    ///
    /// # Errors
    /// If the tensor cannot be made.
    pub fn fill(
        &self,
        rows: &[Row],
        step: usize,
        at: [i64; 2],
        size: [usize; 2],
        layers: &LayerNoise,
    ) -> Result<Tensor> {
        let [height, width] = size;
        let parts: Vec<Vec<(f64, Stream)>> =
            rows.iter().map(|row| self.parts(row, step as u64, layers)).collect();
        let mut values = vec![0f32; rows.len() * height * width];
        let first = (ORIGIN + at[1]) as u64;
        values.par_chunks_mut(width.max(1)).enumerate().for_each(|(line, out)| {
            let y = (at[0] + (line % height) as i64) as u64;
            match parts[line / height].as_slice() {
                [(_, stream)] => stream.op(y).fill_normal_from(first, out),
                parts => {
                    let mut part = vec![0f32; width];
                    for (factor, stream) in parts {
                        stream.op(y).fill_normal_from(first, &mut part);
                        out.iter_mut().zip(&part).for_each(|(o, p)| *o += *factor as f32 * p);
                    }
                }
            }
        });
        Ok(Tensor::from_vec(values, (rows.len(), 1, height, width), &Device::Cpu)?)
    }

    /// Fields whose sum, with these factors, is the noise of a row; one field alone has factor 1.
    fn parts(&self, row: &Row, step: u64, layers: &LayerNoise) -> Vec<(f64, Stream)> {
        let own = Stream::new(self.seed, "sampling").at(row.sample, row.slice);
        let Some(layer) = row.layer else { return vec![(1.0, own.op(step))] };
        let own = own.op(layer.index.to_bits()).op(step);
        let LayerNoise::Shared { share } = *layers else { return vec![(1.0, own)] };
        let of_slice = |slice: u64| {
            Stream::new(self.seed, "sampling between slices").at(row.sample, slice).op(step)
        };
        let (next, here) = (FRAC_PI_2 * layer.fraction).sin_cos();
        vec![
            (share.sqrt() * here, of_slice(row.slice)),
            (share.sqrt() * next, of_slice(row.slice + 1)),
            ((1.0 - share).sqrt(), own),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sample: u64, slice: u64, layer: Option<LayerPlace>) -> Row {
        Row { sample, slice, layer }
    }

    fn draw(
        rows: &[Row],
        step: usize,
        at: [i64; 2],
        size: [usize; 2],
        layers: &LayerNoise,
    ) -> Vec<f32> {
        let noise = NoiseField::new(7).fill(rows, step, at, size, layers).unwrap();
        assert_eq!(noise.dims(), [rows.len(), 1, size[0], size[1]]);
        noise.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn product(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn a_pixel_has_its_noise_in_whatever_window() {
        let rows = [row(0, 3, None), row(1, 3, None)];
        let alone = LayerNoise::Independent {};
        let whole = draw(&rows, 2, [-5, -3], [20, 31], &alone);
        for (at, size) in
            [([0, 0], [4, 4]), ([-5, -2], [3, 9]), ([7, 1], [8, 27]), ([2, 3], [1, 1])]
        {
            let window = draw(&rows, 2, at, size, &alone);
            for (i, value) in window.iter().enumerate() {
                let (r, y, x) = (i / (size[0] * size[1]), i / size[1] % size[0], i % size[1]);
                let (y, x) = (y as i64 + at[0] + 5, x as i64 + at[1] + 3);
                assert_eq!(*value, whole[(r as i64 * 20 + y) as usize * 31 + x as usize]);
            }
        }
    }

    #[test]
    fn rows_slices_layers_and_steps_are_independent() {
        let layer = |index| Some(LayerPlace { index, fraction: 0.5 });
        let alone = LayerNoise::Independent {};
        let n = 128;
        let fields: Vec<Vec<f32>> = [
            (row(0, 0, None), 0),
            (row(1, 0, None), 0),
            (row(0, 1, None), 0),
            (row(0, 0, None), 1),
            (row(0, 0, layer(0.0)), 0),
            (row(0, 0, layer(0.5)), 0),
        ]
        .iter()
        .map(|(row, step)| draw(&[*row], *step, [0, 0], [n, n], &alone))
        .collect();
        // 4 standard errors of n² products
        let bound = 4.0 / n as f64;
        for (i, a) in fields.iter().enumerate() {
            assert!((product(a, a) - 1.0).abs() < 2f64.sqrt() * bound);
            for b in &fields[..i] {
                assert!(product(a, b).abs() < bound);
            }
        }
    }

    #[test]
    fn layers_share_what_is_asked_for_and_have_unit_variance() {
        let n = 128;
        let bound = 4.0 * 2f64.sqrt() / n as f64;
        let at = |slice, c: usize| {
            row(0, slice, Some(LayerPlace { index: c as f64, fraction: (c + 1) as f64 / 4.0 }))
        };
        for share in [0.0, 0.6, 1.0] {
            let layers = LayerNoise::Shared { share };
            let one = |row| draw(&[row], 0, [0, 0], [n, n], &layers);
            let all: Vec<Vec<f32>> = (0..3).map(|c| one(at(4, c))).collect();
            for layer in &all {
                assert!((product(layer, layer) - 1.0).abs() < bound, "{share}");
            }
            let expected = share * (FRAC_PI_2 / 4.0).cos();
            assert!((product(&all[0], &all[1]) - expected).abs() < bound, "{share}");
            // the last layer of a gap and the first of the next have one slice in common
            let expected = share * (FRAC_PI_2 * 0.75).sin() * (FRAC_PI_2 * 0.25).cos();
            assert!((product(&all[2], &one(at(5, 0))) - expected).abs() < bound, "{share}");
        }
    }
}
