//! Filtered back-projection.

use std::f64::consts::PI;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::check;
use super::radon::{Radon, diagonal};
use crate::error::Result;

/// The ramp of filtered back-projection, and the windows that tame its high frequencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RampFilter {
    /// The ramp itself: sharpest and noisiest.
    #[default]
    Ramp,
    /// Times a sinc.
    SheppLogan,
    /// Times a half wave.
    Cosine,
    /// Times a Hamming window.
    Hamming,
    /// Times a Hann window: smoothest.
    Hann,
}

impl RampFilter {
    /// The impulse response with a period of `size` samples, a power of two.
    ///
    /// The ramp is transformed from its sampled impulse response (Kak & Slaney, "Principles of
    /// computerized tomographic imaging", 1988, eq. 61), which keeps the mean of the image right.
    /// Windows are those of scikit-image, half a sample off the middle in places; a sinogram is
    /// real, so that only their even part matters.
    fn response(self, size: usize) -> Vec<f64> {
        let mut response = vec![0.0; size];
        response[0] = 0.5;
        for k in (1..size).step_by(2) {
            let n = k.min(size - k) as f64;
            response[k] = -2.0 / (PI * n).powi(2);
        }
        if self == Self::Ramp {
            return response;
        }
        let spectrum = even_dft(&response);
        let windowed: Vec<f64> = (0..size)
            .map(|k| {
                let even = 0.5 * (self.window(k, size) + self.window((size - k) % size, size));
                spectrum[k] * even / size as f64
            })
            .collect();
        even_dft(&windowed)
    }

    /// The window at frequency `k` of `size`.
    fn window(self, k: usize, size: usize) -> f64 {
        // with the frequencies in the order of a Fourier transform, zero in front
        let shifted = ((k + size / 2) % size) as f64;
        let wave = (2.0 * PI * shifted / (size as f64 - 1.0)).cos();
        match self {
            Self::Ramp => 1.0,
            Self::SheppLogan if k == 0 => 1.0,
            Self::SheppLogan => {
                let signed = if k < size / 2 { k as f64 } else { k as f64 - size as f64 };
                let omega = PI * signed / size as f64;
                omega.sin() / omega
            }
            Self::Cosine => (PI * shifted / size as f64).sin(),
            Self::Hamming => 0.54 - 0.46 * wave,
            Self::Hann => 0.5 - 0.5 * wave,
        }
    }
}

/// The discrete Fourier transform of a real and even sequence, which is real and even.
fn even_dft(values: &[f64]) -> Vec<f64> {
    let n = values.len();
    let cosines: Vec<f64> = (0..n).map(|k| (2.0 * PI * k as f64 / n as f64).cos()).collect();
    let half: Vec<f64> = (0..=n / 2)
        .into_par_iter()
        .map(|k| values.iter().enumerate().map(|(j, v)| v * cosines[j * k % n]).sum())
        .collect();
    (0..n).map(|k| half[k.min(n - k)]).collect()
}

impl Radon {
    /// Reconstructs an image from its sinogram as `skimage.transform.iradon` does, with linear
    /// interpolation.
    ///
    /// # Errors
    /// A sinogram of another size, or a value that is not finite.
    pub fn filtered_back_projection(
        &self,
        sinogram: &[f64],
        filter: RampFilter,
    ) -> Result<Vec<f64>> {
        let [detectors, views] = self.sinogram_shape();
        check("filtered_back_projection", "a sinogram", sinogram, detectors * views)?;
        // filtered views reach beyond the detectors, to the corners of the image
        let width = if self.circle { diagonal(detectors) } else { detectors };
        let before = width / 2 - detectors / 2;
        let size = (2 * width).next_power_of_two().max(64);
        let response = filter.response(size);
        let filtered: Vec<Vec<f64>> = (0..views)
            .into_par_iter()
            .map(|view| {
                let at = |i: usize| {
                    let taps = (0..detectors).map(|j| {
                        let lag = i.abs_diff(j + before);
                        response[lag] * sinogram[j * views + view]
                    });
                    taps.sum()
                };
                (0..width).map(at).collect()
            })
            .collect();

        let [rows, columns] = self.shape;
        let (middle, last) = ((width / 2) as f64, (width - 1) as f64);
        let radius = rows / 2;
        let scale = PI / (2.0 * views as f64);
        let mut image = vec![0.0; rows * columns];
        image.par_chunks_mut(columns).enumerate().for_each(|(row, out)| {
            for (column, out) in out.iter_mut().enumerate() {
                let distance = row.abs_diff(radius).pow(2) + column.abs_diff(columns / 2).pow(2);
                if self.circle && distance > radius * radius {
                    continue;
                }
                let y = row as f64 - radius as f64;
                let x = column as f64 - (columns / 2) as f64;
                let mut sum = 0.0;
                for ((sin, cos), view) in self.turns.iter().zip(&filtered) {
                    let at = x * cos - y * sin + middle;
                    if !(0.0..=last).contains(&at) {
                        continue;
                    }
                    let low = at as usize;
                    let high = view[(low + 1).min(width - 1)];
                    sum += view[low] + (high - view[low]) * (at - low as f64);
                }
                *out = sum * scale;
            }
        });
        Ok(image)
    }
}
