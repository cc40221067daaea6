//! Visual information fidelity in the pixel domain (Sheikh and Bovik, IEEE TIP 2006), as piq 0.8.

use super::gradient::Plane;
use super::image::{Image, any_nan, plane, positive_range};
use crate::filter::{Border, gaussian_taps, separable};
use limpid_kernels::Result;

/// VIFp: 1 for equal images, 0 for no shared information, above 1 if contrast was added.
///
/// Not symmetric: the second image is the reference. NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`](limpid_kernels::Error::Shape) unless both images are 2-D, of one shape and at
/// least 41 by 41; [`Error::Argument`](limpid_kernels::Error::Argument) if the range is not above 0.
pub fn vifp(pred: &Image, truth: &Image, range: f64) -> Result<f64> {
    const OP: &str = "vifp";
    const EPS: f64 = 1e-8;
    let (size, range) = (plane(OP, pred, truth, 41)?, positive_range(OP, range)?);
    if any_nan(pred, truth) {
        return Ok(f64::NAN);
    }
    let (mut x, mut y) =
        (Plane::new(pred, size, 255.0 / range), Plane::new(truth, size, 255.0 / range));
    let (mut shared, mut own) = (0.0, 0.0);
    for scale in 1..5 {
        let taps = (1usize << (5 - scale)) + 1;
        let kernel = gaussian_taps(taps, taps as f64 / 5.0);
        let smooth = |data: &[f64], h: usize, w: usize| {
            separable(data, &[h, w], &[kernel.clone(), kernel.clone()], Border::Valid)
        };
        if scale > 1 {
            let every_other = |p: &Plane| {
                let (data, shape) = smooth(&p.data, p.h, p.w);
                let (h, w) = (shape[0].div_ceil(2), shape[1].div_ceil(2));
                let data = (0..h * w).map(|i| data[i / w * 2 * shape[1] + i % w * 2]).collect();
                Plane { data, h, w }
            };
            (x, y) = (every_other(&x), every_other(&y));
        }
        let product = |a: &Plane, b: &Plane| {
            let product: Vec<f64> = a.data.iter().zip(&b.data).map(|(a, b)| a * b).collect();
            smooth(&product, a.h, a.w).0
        };
        let (mean_x, mean_y) = (smooth(&x.data, x.h, x.w).0, smooth(&y.data, y.h, y.w).0);
        let (xx, yy, xy) = (product(&x, &x), product(&y, &y), product(&x, &y));
        for i in 0..mean_x.len() {
            let (mx, my) = (mean_x[i], mean_y[i]);
            let (part, whole) = information(xx[i] - mx * mx, yy[i] - my * my, xy[i] - mx * my);
            shared += part;
            own += whole;
        }
    }
    Ok((shared + EPS) / (own + EPS))
}

/// Information that the distorted image shares with the reference at a position, and that the
/// reference has itself, from the local variances and the covariance.
fn information(distorted: f64, reference: f64, covariance: f64) -> (f64, f64) {
    const EPS: f64 = 1e-8;
    /// Variance of the noise of the visual system.
    const NOISE: f64 = 2.0;
    let (distorted, reference) = (distorted.max(0.0), reference.max(0.0));
    let gain = covariance / (reference + EPS);
    // the order of the special cases is that of the reference code
    let (mut gain, mut rest, mut signal) = (gain, distorted - gain * covariance, reference);
    if reference < EPS {
        (gain, rest, signal) = (0.0, distorted, 0.0);
    }
    if distorted < EPS {
        (gain, rest) = (0.0, 0.0);
    }
    if gain < 0.0 {
        (gain, rest) = (0.0, distorted);
    }
    let rest = rest.max(EPS);
    ((1.0 + gain * gain * signal / (rest + NOISE)).log10(), (1.0 + signal / NOISE).log10())
}
