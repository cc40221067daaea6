//! Maximum likelihood from counts, by expectation maximisation.
//!
//! Shepp & Vardi, "Maximum likelihood reconstruction for emission tomography", IEEE TMI 1, 1982
//! (MLEM); Hudson & Larkin, "Accelerated image reconstruction using ordered subsets of projection
//! data", IEEE TMI 13, 1994 (OSEM). For each subset in turn, with its projector `A`, counts `y` and
//! background `b`:
//!
//! ```text
//! x <- x / (A' 1) * A' (y / (A x + b))
//! ```

use super::check;
use crate::error::{Error, Result};

/// What maps an image to the measurements of a scanner, linearly and without negative weights.
pub trait Projector: Sized {
    /// Number of pixels of an image.
    fn pixels(&self) -> usize;
    /// Number of measurements.
    fn measurements(&self) -> usize;
    /// Number of views that subsets are made of.
    fn views(&self) -> usize;
    /// The measurements of `image`.
    ///
    /// # Errors
    /// An image of another size, or a value that is not finite.
    fn project(&self, image: &[f64]) -> Result<Vec<f64>>;
    /// The adjoint of [`Projector::project`].
    ///
    /// # Errors
    /// Data of another size, or a value that is not finite.
    fn back_project(&self, data: &[f64]) -> Result<Vec<f64>>;
    /// The projector of the views `first`, `first + step` and so on; `first` is a view.
    #[must_use]
    fn every(&self, first: usize, step: usize) -> Self;
    /// The measurements that belong to [`Projector::every`], out of all.
    fn data_of_every(&self, data: &[f64], first: usize, step: usize) -> Vec<f64>;
}

/// Expectation maximisation with ordered subsets, an iteration at a time; with one subset MLEM.
///
/// A pixel that a subset does not see becomes 0 and stays so: take subsets that each see all of the
/// image.
#[derive(Clone, Debug)]
pub struct Osem<P> {
    subsets: Vec<Subset<P>>,
    image: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Subset<P> {
    projector: P,
    counts: Vec<f64>,
    background: Vec<f64>,
    /// `A' 1`.
    sensitivity: Vec<f64>,
}

impl<P: Projector> Osem<P> {
    /// Starts from an image of ones. `background` is what is expected besides the image: randoms
    /// and scatter. Subset `k` of `n` has the views `k`, `k + n` and so on.
    ///
    /// # Errors
    /// Data that do not fit the projector, negative or not finite ones, and more subsets than
    /// views, or none.
    pub fn new(projector: &P, counts: &[f64], background: &[f64], subsets: usize) -> Result<Self> {
        for (what, data) in [("counts", counts), ("background", background)] {
            check("osem", what, data, projector.measurements())?;
            if let Some(value) = data.iter().find(|v| **v < 0.0) {
                let problem = format!("`{what}` must not be negative, got {value}");
                return Err(Error::parameter("osem", problem));
            }
        }
        let views = projector.views();
        if !(1..=views).contains(&subsets) {
            let problem = format!("`subsets` must be between 1 and {views}, got {subsets}");
            return Err(Error::parameter("osem", problem));
        }
        let subset = |first: usize| {
            let part = projector.every(first, subsets);
            let sensitivity = part.back_project(&vec![1.0; part.measurements()])?;
            let counts = projector.data_of_every(counts, first, subsets);
            let background = projector.data_of_every(background, first, subsets);
            Ok(Subset { projector: part, counts, background, sensitivity })
        };
        let subsets = (0..subsets).map(subset).collect::<Result<_>>()?;
        Ok(Self { subsets, image: vec![1.0; projector.pixels()] })
    }

    /// The image so far.
    pub fn image(&self) -> &[f64] {
        &self.image
    }

    /// Log-likelihood of the image so far, without the part that does not depend on it:
    /// `sum(y ln e - e)` for counts `y` and their expectation `e`.
    ///
    /// # Errors
    /// If the projector fails.
    pub fn log_likelihood(&self) -> Result<f64> {
        let mut sum = 0.0;
        for subset in &self.subsets {
            let expected = subset.expected(&self.image)?;
            let term = |(y, e): (&f64, &f64)| if *y > 0.0 { y * e.ln() - e } else { -e };
            sum += subset.counts.iter().zip(&expected).map(term).sum::<f64>();
        }
        Ok(sum)
    }

    /// Goes through all subsets once.
    ///
    /// # Errors
    /// If the projector fails, or an image has grown beyond all bounds.
    pub fn iterate(&mut self) -> Result<()> {
        for subset in &self.subsets {
            let expected = subset.expected(&self.image)?;
            // where nothing can be seen, counts say nothing about the image
            let ratio = |(y, e): (&f64, &f64)| if *e > 0.0 { y / e } else { 0.0 };
            let ratios: Vec<f64> = subset.counts.iter().zip(&expected).map(ratio).collect();
            let factors = subset.projector.back_project(&ratios)?;
            let pixels = self.image.iter_mut().zip(&subset.sensitivity).zip(factors);
            for ((pixel, sensitivity), factor) in pixels {
                *pixel = if *sensitivity > 0.0 { *pixel / sensitivity * factor } else { 0.0 };
            }
        }
        Ok(())
    }
}

impl<P: Projector> Subset<P> {
    /// The expectation of the counts, `A x + b`.
    fn expected(&self, image: &[f64]) -> Result<Vec<f64>> {
        let mut expected = self.projector.project(image)?;
        for (expected, background) in expected.iter_mut().zip(&self.background) {
            *expected += background;
        }
        Ok(expected)
    }
}

/// The image after some iterations of [`Osem`].
///
/// # Errors
/// As [`Osem::new`].
pub fn osem<P: Projector>(
    projector: &P,
    counts: &[f64],
    background: &[f64],
    subsets: usize,
    iterations: usize,
) -> Result<Vec<f64>> {
    let mut osem = Osem::new(projector, counts, background, subsets)?;
    for _ in 0..iterations {
        osem.iterate()?;
    }
    Ok(osem.image)
}

/// The image after some iterations of MLEM: [`osem`] with a single subset.
///
/// # Errors
/// As [`Osem::new`].
pub fn mlem<P: Projector>(
    projector: &P,
    counts: &[f64],
    background: &[f64],
    iterations: usize,
) -> Result<Vec<f64>> {
    osem(projector, counts, background, 1, iterations)
}
