//! Linear mixtures of coils: compression and whitening.

use super::check_coils;
use crate::cholesky::cholesky;
use crate::real::{narrow, wide};
use crate::{Complex, Error, Real, Result};
use nalgebra::{DMatrix, SymmetricEigen};
use rayon::prelude::*;

/// Samples of a task.
const CHUNK: usize = 1 << 12;

/// A matrix that makes channels of coils.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    matrix: DMatrix<Complex<f64>>,
}

/// Virtual coils that hold most of the signal, from [`compress`].
#[derive(Clone, Debug, PartialEq)]
pub struct Compression {
    /// Makes virtual coils of coils.
    pub channels: Channels,
    /// The singular values of all coils, the largest first; their squares are the energies of virtual coils.
    pub singular_values: Vec<f64>,
}

impl Channels {
    /// The matrix, `[channels, coils]`.
    pub fn matrix(&self) -> &DMatrix<Complex<f64>> {
        &self.matrix
    }

    /// The channels `[channels, samples]` of data `[coils, samples]`.
    ///
    /// # Errors
    /// If the values are not as many for each coil.
    pub fn apply<T: Real>(&self, data: &[Complex<T>]) -> Result<Vec<Complex<T>>> {
        let (channels, coils) = self.matrix.shape();
        let samples = data.len() / coils;
        if samples * coils != data.len() {
            let expected = format!("as many values of each of {coils} coils");
            return Err(Error::shape("channels", expected, format!("{} values", data.len())));
        }
        let mut out = vec![Complex::default(); channels * samples];
        let rows = out.par_chunks_mut(samples.max(1)).enumerate();
        rows.for_each(|(channel, row)| {
            row.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, row)| {
                for coil in 0..coils {
                    let weight: Complex<T> = narrow(self.matrix[(channel, coil)]);
                    let data = &data[coil * samples + chunk * CHUNK..];
                    row.iter_mut().zip(data).for_each(|(out, v)| *out = *out + weight * v);
                }
            });
        });
        Ok(out)
    }
}

/// Virtual coils, the `keep` left singular vectors with the largest singular values of data
/// `[coils, samples]` (Buehrer et al., MRM 57, 2007): channels `Uᴴ x`. The phase of each is arbitrary.
///
/// # Errors
/// If `keep` is zero or above the number of coils, the values are not as many for each coil, or one is not
/// finite.
pub fn compress<T: Real>(data: &[Complex<T>], coils: usize, keep: usize) -> Result<Compression> {
    const OP: &str = "compress";
    check_coils(OP, data, coils)?;
    if keep == 0 || keep > coils {
        let problem = format!("{keep} virtual coils were wanted of {coils} coils");
        return Err(Error::value(OP, problem));
    }
    let eigen = SymmetricEigen::new(products(data, coils));
    let mut order: Vec<usize> = (0..coils).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    let singular_values = order.iter().map(|&i| eigen.eigenvalues[i].max(0.0).sqrt()).collect();
    let matrix =
        DMatrix::from_fn(keep, coils, |v, coil| eigen.eigenvectors[(coil, order[v])].conj());
    Ok(Compression { channels: Channels { matrix }, singular_values })
}

/// The covariance `n nᴴ / samples` of noise `[coils, samples]`.
///
/// # Errors
/// If the values are not as many for each coil, or one is not finite.
pub fn noise_covariance<T: Real>(
    noise: &[Complex<T>],
    coils: usize,
) -> Result<DMatrix<Complex<f64>>> {
    check_coils("noise_covariance", noise, coils)?;
    let samples = Complex::from((noise.len() / coils) as f64);
    Ok(products(noise, coils).map(|v| v / samples))
}

/// Channels whose noise is white: `L⁻¹ x`, with the noise covariance `L Lᴴ` (Pruessmann et al., MRM 46,
/// 2001).
///
/// # Errors
/// If the covariance is not square, or not positive definite.
pub fn whiten(covariance: &DMatrix<Complex<f64>>) -> Result<Channels> {
    const OP: &str = "whiten";
    if !covariance.is_square() || covariance.is_empty() {
        let got = format!("{:?}", covariance.shape());
        return Err(Error::shape(OP, "a covariance [coils, coils]", got));
    }
    let mut identity = DMatrix::identity(covariance.nrows(), covariance.nrows());
    let lower = cholesky(covariance.clone()).map(|factors| factors.l());
    let solved = lower.is_some_and(|lower| lower.solve_lower_triangular_mut(&mut identity));
    if !solved {
        let problem = "the noise covariance is not positive definite; are there fewer noise samples than coils, \
                       or is a coil silent?";
        return Err(Error::value(OP, problem));
    }
    Ok(Channels { matrix: identity })
}

/// The products `x xᴴ` of the coils with each other, summed over the samples.
fn products<T: Real>(data: &[Complex<T>], coils: usize) -> DMatrix<Complex<f64>> {
    let samples = data.len() / coils;
    let pairs: Vec<_> = (0..coils).flat_map(|a| (0..=a).map(move |b| (a, b))).collect();
    let sum = |&(a, b): &(usize, usize)| {
        let [a, b] = [a, b].map(|coil| &data[coil * samples..][..samples]);
        a.iter().zip(b).map(|(&a, &b)| wide(a) * wide(b).conj()).sum::<Complex<f64>>()
    };
    let sums: Vec<_> = pairs.par_iter().map(sum).collect();
    let mut matrix = DMatrix::zeros(coils, coils);
    for (&(a, b), sum) in pairs.iter().zip(sums) {
        matrix[(b, a)] = sum.conj();
        matrix[(a, b)] = sum;
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::load;
    use crate::operator::tests::{distance, random};

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/coil_ops") else { return };
        let coils = fixture.shape("kcal")[0];
        let keep = fixture.shape("compress_basis")[1];
        let kcal = fixture.complex("kcal");
        let compression = compress(&kcal, coils, keep).expect("virtual coils");
        for (got, expected) in compression.singular_values.iter().zip(fixture.values("svd_values"))
        {
            assert!((got - expected).abs() <= 1e-9 * expected, "{got} {expected}");
        }
        let basis = DMatrix::from_row_slice(coils, keep, &fixture.complex("compress_basis"));
        let matrix = compression.channels.matrix();
        let gap = (matrix.adjoint() * matrix - &basis * basis.adjoint()).norm();
        assert!(gap < 1e-9, "projectors differ by {gap:e}");
        // the virtual coils are those of the fixture but for their phases
        let got = compression.channels.apply(&kcal).expect("channels");
        let expected = fixture.complex("compressed2");
        let phases: Vec<Complex<f64>> = (0..keep)
            .map(|v| (0..coils).map(|c| matrix[(v, c)].conj() * basis[(c, v)].conj()).sum())
            .collect();
        let samples = got.len() / keep;
        let got: Vec<Complex<f64>> =
            got.iter().enumerate().map(|(i, v)| v * phases[i / samples]).collect();
        assert!(distance(&got, &expected) < 1e-9, "{:e}", distance(&got, &expected));

        let covariance = noise_covariance(&fixture.complex("noise"), coils).expect("a covariance");
        let expected = DMatrix::from_row_slice(coils, coils, &fixture.complex("cov"));
        assert!((&covariance - &expected).norm() < 1e-9 * expected.norm());
        let white = whiten(&covariance).expect("channels");
        let got = white.apply(&fixture.complex("data")).expect("data");
        assert!(distance(&got, &fixture.complex("whitened_cholesky")) < 1e-9);
        let got = white.apply(&fixture.complex("noise")).expect("noise");
        let unit = noise_covariance(&got, coils).expect("a covariance");
        assert!((unit - DMatrix::identity(coils, coils)).norm() < 1e-9);
    }

    #[test]
    fn all_virtual_coils_keep_everything() {
        let data = random::<f32>(3, 5 * 9000);
        let compression = compress(&data, 5, 5).expect("virtual coils");
        let back = Channels { matrix: compression.channels.matrix().adjoint() };
        let got = back.apply(&compression.channels.apply(&data).expect("channels"));
        assert!(distance(&got.expect("data"), &data) < 1e-6);
        let energy: f64 = compression.singular_values.iter().map(|s| s * s).sum();
        let expected: f64 = data.iter().map(|&v| wide(v).norm_sqr()).sum();
        assert!((energy - expected).abs() < 1e-9 * expected);
    }

    #[test]
    fn refuses_what_it_cannot_mix() {
        let data = random::<f64>(1, 12);
        let problem = |error: Error| error.to_string();
        assert!(problem(compress(&data, 3, 4).expect_err("refused")).contains("of 3 coils"));
        assert!(problem(compress(&data, 5, 1).expect_err("refused")).contains("5 coils"));
        let few = noise_covariance(&data, 6).expect("a covariance");
        assert!(problem(whiten(&few).expect_err("refused")).contains("fewer noise samples"));
        assert!(whiten(&DMatrix::zeros(2, 3)).is_err());
        assert!(whiten(&DMatrix::from_element(2, 2, Complex::from(f64::NAN))).is_err());
        let two = compress(&data, 3, 2).expect("virtual coils").channels;
        assert!(two.apply(&data[..10]).is_err());
    }
}
