//! The Radon transform: an image summed up along lines.

use rayon::prelude::*;

use super::check;
use super::em::Projector;
use crate::error::{Error, Result};

/// Views that are added up before they join the others.
const VIEWS: usize = 8;

/// The Radon transform of `skimage.transform.radon`: the image, turned about the pixel in its
/// middle by bilinear interpolation, is summed up along its columns. Sinograms are row-major with
/// the detector along the first axis and the view along the second.
#[derive(Clone, Debug, PartialEq)]
pub struct Radon {
    /// Shape of the image.
    pub(super) shape: [usize; 2],
    /// Number of detectors, which is the side of the square that is turned.
    pub(super) detectors: usize,
    /// Whether only the disk that fits into the image counts.
    pub(super) circle: bool,
    /// Sine and cosine of each view.
    pub(super) turns: Vec<(f64, f64)>,
}

impl Radon {
    /// Views at `angles`, in degrees. With `circle` the image is a square that is zero outside of
    /// the disk that fits into it, and there are as many detectors as it is wide; without, there
    /// are enough to see its corners.
    ///
    /// # Errors
    /// An empty image, one that is not square although `circle` is set, no angle, or one that is
    /// not finite.
    pub fn new(shape: [usize; 2], angles: &[f64], circle: bool) -> Result<Self> {
        if shape.contains(&0) || (circle && shape[0] != shape[1]) {
            let expected = if circle { "a square image" } else { "an image that is not empty" };
            return Err(Error::shape("radon", expected, format!("shape {shape:?}")));
        }
        if angles.is_empty() {
            return Err(Error::parameter("radon", "`angles` must hold at least one"));
        }
        if let Some(angle) = angles.iter().find(|angle| !angle.is_finite()) {
            let problem = format!("`angles` must be finite numbers, got {angle}");
            return Err(Error::parameter("radon", problem));
        }
        let longest = shape[0].max(shape[1]);
        Ok(Self {
            shape,
            detectors: if circle { longest } else { diagonal(longest) },
            circle,
            turns: angles.iter().map(|angle| angle.to_radians().sin_cos()).collect(),
        })
    }

    /// Number of detectors and of views.
    pub fn sinogram_shape(&self) -> [usize; 2] {
        [self.detectors, self.turns.len()]
    }

    /// Calls `visit` with the pixels that `detector` sees at `view`, and their weights.
    #[inline]
    fn ray(&self, view: usize, detector: usize, mut visit: impl FnMut(usize, f64)) {
        let (sin, cos) = self.turns[view];
        let [rows, columns] = self.shape;
        let middle = self.detectors / 2;
        // the middle of the image, which stays where it is
        let (row0, column0) = ((rows / 2) as f64, (columns / 2) as f64);
        let u = detector as f64 - middle as f64;
        for step in 0..self.detectors {
            let v = step as f64 - middle as f64;
            let column = cos * u + sin * v + column0;
            let row = cos * v - sin * u + row0;
            if row <= -1.0 || column <= -1.0 || row >= rows as f64 || column >= columns as f64 {
                continue;
            }
            let (top, left) = (row.floor(), column.floor());
            let (down, right) = (row - top, column - left);
            let (top, left) = (top as isize, left as isize);
            for (r, weight) in [(top, 1.0 - down), (top + 1, down)] {
                if !(0..rows as isize).contains(&r) {
                    continue;
                }
                for (c, part) in [(left, 1.0 - right), (left + 1, right)] {
                    if (0..columns as isize).contains(&c) {
                        visit(r as usize * columns + c as usize, weight * part);
                    }
                }
            }
        }
    }
}

impl Projector for Radon {
    fn pixels(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn measurements(&self) -> usize {
        self.detectors * self.turns.len()
    }

    fn views(&self) -> usize {
        self.turns.len()
    }

    fn project(&self, image: &[f64]) -> Result<Vec<f64>> {
        check("radon", "an image", image, self.pixels())?;
        let views = self.turns.len().max(1);
        let mut sinogram = vec![0.0; self.measurements()];
        sinogram.par_chunks_mut(views).enumerate().for_each(|(detector, sums)| {
            for (view, sum) in sums.iter_mut().enumerate() {
                self.ray(view, detector, |pixel, weight| *sum += weight * image[pixel]);
            }
        });
        Ok(sinogram)
    }

    fn back_project(&self, data: &[f64]) -> Result<Vec<f64>> {
        check("radon", "a sinogram", data, self.measurements())?;
        let views = self.turns.len();
        let groups: Vec<usize> = (0..views).step_by(VIEWS).collect();
        let mut image = vec![0.0; self.pixels()];
        // rays cross: each group of views has its own image, and the images are added up in order
        for some in groups.chunks(rayon::current_num_threads()) {
            let parts: Vec<Vec<f64>> = some
                .par_iter()
                .map(|first| {
                    let mut part = vec![0.0; self.pixels()];
                    for view in *first..(first + VIEWS).min(views) {
                        for detector in 0..self.detectors {
                            let value = data[detector * views + view];
                            self.ray(view, detector, |pixel, weight| part[pixel] += weight * value);
                        }
                    }
                    part
                })
                .collect();
            for part in parts {
                for (pixel, value) in image.iter_mut().zip(part) {
                    *pixel += value;
                }
            }
        }
        Ok(image)
    }

    fn every(&self, first: usize, step: usize) -> Self {
        let turns = self.turns.iter().skip(first).step_by(step.max(1)).copied().collect();
        Self { turns, ..self.clone() }
    }

    fn data_of_every(&self, data: &[f64], first: usize, step: usize) -> Vec<f64> {
        let rows = data.chunks_exact(self.turns.len().max(1));
        rows.flat_map(|row| row.iter().skip(first).step_by(step.max(1))).copied().collect()
    }
}

/// The diagonal of a square, in whole samples.
pub(super) fn diagonal(side: usize) -> usize {
    (std::f64::consts::SQRT_2 * side as f64).ceil() as usize
}
