//! A scanner given by numbers.

use super::check;
use super::em::Projector;
use crate::error::{Error, Result};

/// A dense system matrix: how much each pixel adds to each measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct SystemMatrix {
    pixels: usize,
    /// One row of `pixels` per measurement.
    values: Vec<f64>,
}

impl SystemMatrix {
    /// From the rows of the matrix, one per measurement, one after the other.
    ///
    /// # Errors
    /// No rows, not whole ones, or a value that is negative or not finite.
    pub fn new(values: Vec<f64>, pixels: usize) -> Result<Self> {
        if pixels == 0 || values.is_empty() || !values.len().is_multiple_of(pixels) {
            let got = format!("{} values for {pixels} pixels", values.len());
            return Err(Error::shape("system_matrix", "whole rows, at least one", got));
        }
        check("system_matrix", "a matrix", &values, values.len())?;
        if let Some(value) = values.iter().find(|v| **v < 0.0) {
            return Err(Error::shape("system_matrix", "no negative weights", value.to_string()));
        }
        Ok(Self { pixels, values })
    }
}

impl Projector for SystemMatrix {
    fn pixels(&self) -> usize {
        self.pixels
    }

    fn measurements(&self) -> usize {
        self.values.len() / self.pixels
    }

    fn views(&self) -> usize {
        self.measurements()
    }

    fn project(&self, image: &[f64]) -> Result<Vec<f64>> {
        check("system_matrix", "an image", image, self.pixels)?;
        let dot = |row: &[f64]| row.iter().zip(image).map(|(a, x)| a * x).sum();
        Ok(self.values.chunks_exact(self.pixels).map(dot).collect())
    }

    fn back_project(&self, data: &[f64]) -> Result<Vec<f64>> {
        check("system_matrix", "data", data, self.measurements())?;
        let mut image = vec![0.0; self.pixels];
        for (row, y) in self.values.chunks_exact(self.pixels).zip(data) {
            for (pixel, a) in image.iter_mut().zip(row) {
                *pixel += a * y;
            }
        }
        Ok(image)
    }

    fn every(&self, first: usize, step: usize) -> Self {
        let rows = self.values.chunks_exact(self.pixels).skip(first).step_by(step.max(1));
        Self { pixels: self.pixels, values: rows.flatten().copied().collect() }
    }

    fn data_of_every(&self, data: &[f64], first: usize, step: usize) -> Vec<f64> {
        data.iter().skip(first).step_by(step.max(1)).copied().collect()
    }
}
