//! An image on a finer grid, for networks that sharpen what has been enlarged.

use crate::Result;
use limpid_engine::BoxError;
use limpid_engine::infer::Source;
use limpid_io::{Axis, VolumeInfo};

/// A source with `factor` times as many pixels along every spatial axis, interpolated linearly; pixels
/// keep their centres, and edges are continued. On bytes it is Pillow's bilinear resize before
/// rounding.
pub struct Enlarged<S> {
    source: S,
    factor: usize,
    shape: Vec<usize>,
}

impl<S: Source> Enlarged<S> {
    /// `source` with `factor` times (at least once) as many pixels along every spatial axis.
    #[must_use]
    pub fn new(source: S, factor: usize) -> Self {
        let factor = factor.max(1);
        let mut shape = source.shape().to_vec();
        shape[1..].iter_mut().for_each(|n| *n *= factor);
        Self { source, factor, shape }
    }

    /// The two pixels on either side of pixel `i` along an axis of `n`, and the weight of the second.
    fn neighbours(&self, i: usize, n: usize) -> (usize, usize, f32) {
        let at = ((i as f64 + 0.5) / self.factor as f64 - 0.5).clamp(0.0, (n - 1) as f64);
        let below = at as usize;
        (below, (below + 1).min(n - 1), (at - below as f64) as f32)
    }
}

impl<S: Source> Source for Enlarged<S> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read(&self, start: &[usize], size: &[usize]) -> Result<Vec<f32>, BoxError> {
        let shape = self.source.shape();
        let axes: Vec<Vec<(usize, usize, f32)>> = (0..size.len())
            .map(|a| {
                let pixels = start[a]..start[a] + size[a];
                pixels.map(|i| self.neighbours(i, shape[a + 1])).collect()
            })
            .collect();
        let from: Vec<usize> = axes.iter().map(|axis| axis.first().map_or(0, |t| t.0)).collect();
        let len: Vec<usize> = axes
            .iter()
            .zip(&from)
            .map(|(axis, from)| axis.last().map_or(0, |t| t.1 + 1 - from))
            .collect();
        let mut values = self.source.read(&from, &len)?;
        let mut shape = [&shape[..1], &len].concat();
        for (a, axis) in axes.iter().enumerate() {
            let step: usize = shape[a + 2..].iter().product();
            let mut out = Vec::with_capacity(values.len() / shape[a + 1] * axis.len());
            for block in values.chunks_exact(shape[a + 1] * step) {
                for &(below, above, part) in axis {
                    let line = |i: usize| &block[(i - from[a]) * step..][..step];
                    let between = |(a, b): (&f32, &f32)| a + (b - a) * part;
                    out.extend(line(below).iter().zip(line(above)).map(between));
                }
            }
            values = out;
            shape[a + 1] = axis.len();
        }
        Ok(values)
    }
}

/// The geometry of an image with `factor` times as many rows and columns in the same field.
///
/// # Errors
/// The image would be too large.
pub fn enlarged_info(info: &VolumeInfo, factor: usize) -> Result<VolumeInfo> {
    let mut shape = info.shape.clone();
    for axis in [Axis::Y, Axis::X] {
        if let Some(i) = info.axes.position(axis) {
            shape[i] = shape[i].saturating_mul(factor.max(1));
        }
    }
    Ok(info.resampled(&shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use limpid_engine::infer::InMemory;

    #[test]
    fn a_ramp_stays_a_ramp_and_regions_are_parts_of_the_whole() {
        // two channels of 4×5: 10·y + x, and its negative
        let ramp = |c: usize, y: f32, x: f32| (10.0 * y + x) * if c == 0 { 1.0 } else { -1.0 };
        let data = (0..40).map(|i| ramp(i / 20, (i / 5 % 4) as f32, (i % 5) as f32)).collect();
        let image = InMemory { shape: vec![2, 4, 5], data };
        let large = Enlarged::new(image.clone(), 3);
        assert_eq!(large.shape(), [2, 12, 15]);
        let whole = large.read(&[0, 0], &[12, 15]).unwrap();
        for (i, v) in whole.iter().enumerate() {
            let (y, x) = ((i / 15 % 12) as f32, (i % 15) as f32);
            let place = |p: f32, last: f32| ((p + 0.5) / 3.0 - 0.5).clamp(0.0, last);
            assert!((v - ramp(i / 180, place(y, 3.0), place(x, 4.0))).abs() < 1e-5, "{i}: {v}");
        }
        let part = large.read(&[5, 7], &[4, 3]).unwrap();
        for (i, v) in part.iter().enumerate() {
            let (c, y, x) = (i / 12, 5 + i / 3 % 4, 7 + i % 3);
            assert_eq!(*v, whole[(c * 12 + y) * 15 + x]);
        }
        // and once as large is the image itself
        assert_eq!(Enlarged::new(image.clone(), 1).read(&[0, 0], &[4, 5]).unwrap(), image.data);
    }

    #[test]
    fn bytes_become_those_of_pillow_but_for_its_rounding() {
        let Some(t) = fixture::tensors_in(&fixture::emdiffuse(), "image_ops") else { return };
        for name in ["em", "noise"] {
            let data = t[&format!("in.resize.{name}.128x128")].clone();
            let image = InMemory { shape: vec![1, 128, 128], data };
            let got = Enlarged::new(image, 2).read(&[0, 0], &[256, 256]).unwrap();
            let expected = &t[&format!("out.resize.{name}.128x128_256x256")];
            assert_eq!(got.len(), expected.len());
            // Pillow rounds after each of its two passes
            for (a, b) in got.iter().zip(expected) {
                assert!((a - b).abs() <= 1.0, "{name}: {a} and {b}");
            }
        }
    }
}
