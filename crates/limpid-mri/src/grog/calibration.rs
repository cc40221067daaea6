//! What kernels learn the coils from.

use crate::error::expect_len;
use crate::{CentredFft, Complex, Error, Real, Result};

/// Images of all coils over the field of view: coil maps, or images from the middle of k-space.
///
/// Maps weight all voxels alike, images weight them by their signal. Images of a small part of k-space ring;
/// mask them, or prefer maps.
#[derive(Clone, Debug)]
pub struct Calibration<T: Real> {
    coils: usize,
    dims: Vec<usize>,
    /// `[coils, dims…]`
    images: Vec<Complex<T>>,
}

impl<T: Real> Calibration<T> {
    /// Images `[coils, dims…]`.
    ///
    /// # Errors
    /// If they are not of two or three dimensions, none of them empty, have another number of values, or
    /// one is not finite, or all are zero.
    pub fn new(coils: usize, dims: &[usize], images: Vec<Complex<T>>) -> Result<Self> {
        const OP: &str = "calibration";
        if !(2..=3).contains(&dims.len()) || coils == 0 || dims.contains(&0) {
            let expected = "one coil or more, and images of two or three sizes above zero";
            return Err(Error::shape(OP, expected, format!("{coils} coils, images {dims:?}")));
        }
        let shape: Vec<usize> = std::iter::once(coils).chain(dims.iter().copied()).collect();
        expect_len(OP, "images", &shape, images.len())?;
        let power: f64 = images.iter().map(|v| v.norm_sqr().f64()).sum();
        if !(power > 0.0 && power.is_finite()) {
            let problem = format!(
                "the images must be finite and not all zero, the sum of their squares is {power}"
            );
            return Err(Error::value(OP, problem));
        }
        Ok(Self { coils, dims: dims.to_vec(), images })
    }

    /// Images of a fully sampled middle of k-space, `[coils, dims…]`.
    ///
    /// # Errors
    /// As [`Calibration::new`].
    pub fn from_kspace(coils: usize, dims: &[usize], kspace: Vec<Complex<T>>) -> Result<Self> {
        let mut calibration = Self::new(coils, dims, kspace)?;
        CentredFft::new(dims).inverse(&mut calibration.images);
        Ok(calibration)
    }

    /// The same with a largest magnitude of one: what networks are trained on.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let scale = T::of(self.largest().recip());
        for value in &mut self.images {
            *value = value.scale(scale);
        }
        self
    }

    /// The voxels where a coil has at least `threshold` of the largest magnitude of all.
    pub fn support(&self, threshold: f64) -> Vec<usize> {
        let least = (threshold * self.largest()).powi(2);
        let seen = |&v: &usize| (0..self.coils).any(|c| self.image(c)[v].norm_sqr().f64() >= least);
        (0..self.voxels()).filter(seen).collect()
    }

    /// Number of coils.
    pub fn coils(&self) -> usize {
        self.coils
    }

    /// The sizes of an image.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Voxels of an image.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// The images, `[coils, dims…]`.
    pub fn images(&self) -> &[Complex<T>] {
        &self.images
    }

    /// The image of one coil.
    pub(super) fn image(&self, coil: usize) -> &[Complex<T>] {
        &self.images[coil * self.voxels()..][..self.voxels()]
    }

    /// The sum of the squares of all images.
    pub(super) fn power(&self) -> f64 {
        self.images.iter().map(|v| v.norm_sqr().f64()).sum()
    }

    /// Positions `r` of a voxel, in units of the field of view.
    pub(super) fn position(&self, voxel: usize) -> [f64; 3] {
        let (mut rest, mut position) = (voxel, [0.0; 3]);
        for (d, &size) in self.dims.iter().enumerate().rev() {
            position[d] = ((rest % size) as f64 - (size / 2) as f64) / size as f64;
            rest /= size;
        }
        position
    }

    fn largest(&self) -> f64 {
        self.images.iter().map(|v| v.norm_sqr().f64()).fold(0.0, f64::max).sqrt()
    }
}
