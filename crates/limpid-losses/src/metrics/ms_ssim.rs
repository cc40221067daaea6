//! Multi-scale structural similarity (Wang, Simoncelli and Bovik, Asilomar 2003), for images of any
//! rank.

use super::image::Image;
use super::ssim::{SsimSpec, ssim_and_contrast};
use limpid_kernels::{Error, Result};

/// The exponents of the paper, finest scale first.
pub const MS_SSIM_WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// What halving does with an odd extent; packages differ, even extents are unaffected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddExtent {
    /// Drop the last sample (MONAI).
    Drop,
    /// A zero before the first sample of the odd axes (pytorch-msssim).
    ZeroBefore,
    /// The first sample twice, along all axes if any is odd (piq).
    RepeatFirst,
}

/// MS-SSIM: the contrast factors of all scales but the last and the SSIM of the last, clipped at 0,
/// to the power of `weights` and multiplied. Between scales the images are averaged 2 by 2.
///
/// NaN if either image holds one.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ or the window does not fit the last scale (176 samples are
/// enough for five scales of 11 taps); [`Error::Argument`] if the range, the window or the weights
/// are not usable.
pub fn ms_ssim(
    pred: &Image,
    truth: &Image,
    range: f64,
    spec: &SsimSpec,
    weights: &[f64],
    odd: OddExtent,
) -> Result<f64> {
    const OP: &str = "ms_ssim";
    if weights.is_empty() || weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
        return Err(Error::argument(
            OP,
            format!("weights must be finite and not negative, got {weights:?}"),
        ));
    }
    super::image::same_shape(OP, pred, truth)?;
    let mut shape = truth.shape().to_vec();
    let (mut x, mut y) = (pred.to_f64().into_owned(), truth.to_f64().into_owned());
    let mut product = 1.0;
    for (scale, &weight) in weights.iter().enumerate() {
        if scale > 0 {
            let smaller = halve(&x, &shape, odd);
            (y, shape) = halve(&y, &shape, odd);
            x = smaller.0;
        }
        if shape.contains(&0) {
            return Err(Error::shape(
                OP,
                format!("an image that can be halved {} times", weights.len() - 1),
                truth.shape(),
            ));
        }
        let (x, y) = (Image::new(x.as_slice(), &shape)?, Image::new(y.as_slice(), &shape)?);
        let (similarity, contrast) = ssim_and_contrast(OP, &x, &y, range, spec)?;
        let factor = if scale + 1 < weights.len() { contrast } else { similarity };
        // a comparison, not `max`: NaN must stay NaN
        product *= if factor < 0.0 { 0.0 } else { factor }.powf(weight);
    }
    Ok(product)
}

fn halve(data: &[f64], shape: &[usize], odd: OddExtent) -> (Vec<f64>, Vec<usize>) {
    let any_odd = shape.iter().any(|n| n % 2 == 1);
    let mut shape = shape.to_vec();
    let mut data = data.to_vec();
    for axis in 0..shape.len() {
        let n = shape[axis];
        let inner: usize = shape[axis + 1..].iter().product();
        let before = match odd {
            OddExtent::Drop => 0,
            OddExtent::ZeroBefore => n % 2,
            OddExtent::RepeatFirst => usize::from(any_odd),
        };
        let half = (n + before) / 2;
        let row = |outer: usize, i: usize| match (i.checked_sub(before), odd) {
            (Some(i), _) => Some(&data[(outer * n + i) * inner..(outer * n + i + 1) * inner]),
            (None, OddExtent::RepeatFirst) => {
                Some(&data[outer * n * inner..(outer * n + 1) * inner])
            }
            (None, _) => None,
        };
        let mut out = Vec::with_capacity(data.len() / n * half);
        for outer in 0..data.len() / (n * inner) {
            for i in 0..half {
                let start = out.len();
                out.resize(start + inner, 0.0);
                for row in [row(outer, 2 * i), row(outer, 2 * i + 1)].into_iter().flatten() {
                    for (o, v) in out[start..].iter_mut().zip(row) {
                        *o += 0.5 * v;
                    }
                }
            }
        }
        (data, shape[axis]) = (out, half);
    }
    (data, shape)
}
