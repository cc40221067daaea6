//! GRAPPA operators: matrices of the coils that move a sample by a step in k-space (Seiberlich et al.,
//! "Self-calibrating GRAPPA operator gridding for radial and spiral trajectories", MRM 2008).

use super::geometry::Geometry;
use super::gridding::{Kernels, check_block, check_coils};
use super::power::{Matrix, Powers};
use crate::cholesky::cholesky;
use crate::error::expect_len;
use crate::real::{narrow, wide};
use crate::{Complex, Error, Real, Result, Trajectory};
use nalgebra::DVector;
use rayon::prelude::*;
use std::ops::Range;

const OP: &str = "grappa operator";

/// One operator for each axis of k-space: `s(k + e) = G s(k)`.
///
/// Operators of other axes commute only nearly: shifts apply those of the last axis first,
/// `G₀^d₀ G₁^d₁ G₂^d₂ s`. They hold for shifts of at most half a cycle per field of view or so.
#[derive(Clone, Debug)]
pub struct GrappaOperators {
    coils: usize,
    axes: Vec<Powers>,
    /// Relative distances of `G^½ G^½` from `G`.
    gaps: Vec<f64>,
}

impl GrappaOperators {
    /// Operators `[C, C]`, row by row, of the axes in their order.
    ///
    /// # Errors
    /// If there are not two or three of `C²` finite values, or one has an eigenvalue of zero or too few
    /// eigenvectors.
    pub fn new(coils: usize, operators: &[Vec<Complex<f64>>]) -> Result<Self> {
        if coils == 0 || !(2..=3).contains(&operators.len()) {
            let got = format!("{} operators of {coils} coils", operators.len());
            return Err(Error::shape(OP, "two or three operators of one coil or more", got));
        }
        let mut matrices = Vec::with_capacity(operators.len());
        for operator in operators {
            expect_len(OP, "operator", &[coils, coils], operator.len())?;
            matrices.push(Matrix::from_row_slice(coils, coils, operator));
        }
        Self::of(&matrices)
    }

    /// Fits operators to a fully sampled region of k-space `[C, sizes…]`. `lam` is the regularisation,
    /// relative to the mean power of a coil; 1e-4 suits data of little noise.
    ///
    /// # Errors
    /// If the region has not two or three sizes above one, has another number of values, or values that are
    /// zero or not finite throughout, or `lam` is negative; or as [`GrappaOperators::new`].
    pub fn fit<T: Real>(
        coils: usize,
        sizes: &[usize],
        kspace: &[Complex<T>],
        lam: f64,
    ) -> Result<Self> {
        if coils == 0 || !(2..=3).contains(&sizes.len()) || sizes.iter().any(|&size| size < 2) {
            let expected = "one coil or more, and two or three sizes above one";
            return Err(Error::shape(OP, expected, format!("{coils} coils, sizes {sizes:?}")));
        }
        let points: usize = sizes.iter().product();
        expect_len(OP, "calibration region", &[coils, points], kspace.len())?;
        let fit_axis = |axis: usize| {
            let stride: usize = sizes[axis + 1..].iter().product();
            let has_next = |&at: &usize| at / stride % sizes[axis] + 1 < sizes[axis];
            let from: Vec<usize> = (0..points).filter(has_next).collect();
            let take = |shift: usize| {
                Matrix::from_fn(coils, from.len(), |c, i| {
                    wide(kspace[c * points + from[i] + shift])
                })
            };
            fit(&take(0), &take(stride), lam)
        };
        Self::of(&(0..sizes.len()).map(fit_axis).collect::<Result<Vec<_>>>()?)
    }

    /// Calibrates radial samples `[C, shots, samples]` by themselves: the operator along each spoke is
    /// fitted, and the logarithms of the axes are the least squares of `log G_spoke = Σ_d step_d log G_d`.
    ///
    /// # Errors
    /// If the samples are not those of the trajectory for whole coils, a readout is no line of equal steps,
    /// or the spokes do not span k-space; or as [`GrappaOperators::fit`].
    pub fn fit_radial<T: Real>(
        trajectory: &Trajectory,
        samples: &[Complex<T>],
        lam: f64,
    ) -> Result<Self> {
        let logs = super::radial::logarithms(trajectory, samples, |from, to| {
            Ok(Powers::of(&fit(from, to, lam)?)?.log())
        })?;
        let axes = logs.iter().map(Powers::of_log).collect::<Result<Vec<_>>>()?;
        let operators: Vec<Matrix> = axes.iter().map(|axis| axis.power(1.0)).collect();
        Ok(Self::with(axes, &operators))
    }

    fn of(operators: &[Matrix]) -> Result<Self> {
        let axes = operators.iter().map(Powers::of).collect::<Result<_>>()?;
        Ok(Self::with(axes, operators))
    }

    fn with(axes: Vec<Powers>, operators: &[Matrix]) -> Self {
        let gap = |(powers, operator): (&Powers, &Matrix)| {
            let half = powers.power(0.5);
            (&half * &half - operator).norm() / operator.norm()
        };
        let gaps = axes.iter().zip(operators).map(gap).collect();
        Self { coils: operators[0].nrows(), axes, gaps }
    }

    /// Number of coils.
    pub fn coils(&self) -> usize {
        self.coils
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.axes.len()
    }

    /// Relative distances of `G^½ G^½` from `G`, of each axis: far above 1e-10 the eigenvectors are of
    /// little use, and more regularisation is wanted.
    pub fn half_power_gaps(&self) -> &[f64] {
        &self.gaps
    }

    /// `G^p` of an axis, `[C, C]`, row by row.
    ///
    /// # Panics
    /// If there is no such axis; so does [`GrappaOperators::logarithm`].
    pub fn power(&self, axis: usize, p: f64) -> Vec<Complex<f64>> {
        rows(&self.axes[axis].power(p))
    }

    /// The principal logarithm of the operator of an axis, `[C, C]`, row by row.
    pub fn logarithm(&self, axis: usize) -> Vec<Complex<f64>> {
        rows(&self.axes[axis].log())
    }

    /// The operator `[C, C]`, row by row, of a shift in cycles per field of view.
    ///
    /// # Panics
    /// If the shift has not one value for each axis.
    pub fn shift(&self, shift: &[f64]) -> Vec<Complex<f64>> {
        assert_eq!(shift.len(), self.rank(), "a shift has one value for each axis");
        let powers = self.axes.iter().zip(shift).map(|(axis, &p)| axis.power(p));
        rows(&powers.fold(Matrix::identity(self.coils, self.coils), |all, next| all * next))
    }

    fn check(&self, geometry: &Geometry) -> Result<()> {
        if geometry.sources() != 1 || geometry.rank() != self.rank() {
            let expected = format!("a geometry of one source and rank {}", self.rank());
            let got = format!("{} sources, rank {}", geometry.sources(), geometry.rank());
            return Err(Error::shape(OP, expected, got));
        }
        Ok(())
    }
}

impl<T: Real> Kernels<T> for GrappaOperators {
    fn coils(&self) -> usize {
        self.coils
    }

    fn kernels(
        &self,
        geometry: &Geometry,
        block: Range<usize>,
        out: &mut [Complex<T>],
    ) -> Result<()> {
        self.check(geometry)?;
        check_block(OP, self.coils, geometry, &block, out)?;
        let kernels = out.par_chunks_mut(self.coils * self.coils).zip(block);
        kernels.for_each(|(kernel, sample)| {
            let shift: Vec<f64> = geometry.offsets_of(sample).iter().map(|d| -d).collect();
            for (value, exact) in kernel.iter_mut().zip(self.shift(&shift)) {
                *value = narrow(exact);
            }
        });
        Ok(())
    }

    fn grid(&self, samples: &[Complex<T>], geometry: &Geometry) -> Result<Vec<Complex<T>>> {
        self.check(geometry)?;
        check_coils(OP, self.coils, samples, geometry)?;
        let len = geometry.len();
        let mut sources = geometry.source_values(samples)?;
        let moved = sources.par_chunks_mut(self.coils).enumerate().with_min_len(64);
        moved.for_each(|(sample, values)| {
            let mut v = DVector::from_iterator(self.coils, values.iter().map(|&v| wide(v)));
            let axes = self.axes.iter().zip(geometry.offsets_of(sample)).rev();
            axes.for_each(|(axis, offset)| axis.apply(-offset, &mut v));
            for (value, &moved) in values.iter_mut().zip(&v) {
                *value = narrow(moved);
            }
        });
        let mut out = vec![Complex::default(); samples.len()];
        for (c, out) in out.chunks_exact_mut(len).enumerate() {
            for (value, row) in out.iter_mut().zip(sources.chunks_exact(self.coils)) {
                *value = row[c];
            }
        }
        Ok(out)
    }
}

fn rows(matrix: &Matrix) -> Vec<Complex<f64>> {
    matrix.transpose().iter().copied().collect()
}

/// The `G` of the least `‖G from − to‖² + μ ‖G‖²`, `μ` being `lam` times the mean power of a coil.
fn fit(from: &Matrix, to: &Matrix, lam: f64) -> Result<Matrix> {
    if !(lam >= 0.0 && lam.is_finite()) {
        return Err(Error::value(OP, format!("lam must be zero or more, is {lam}")));
    }
    let coils = from.nrows();
    let mut normal = from * from.adjoint();
    let mu = lam * normal.trace().re / coils as f64;
    for c in 0..coils {
        normal[(c, c)] += mu;
    }
    let problem = "the calibration data are zero, not finite, or have coils that depend on each other; \
                   with more regularisation (lam) or fewer virtual coils there is a solution";
    let factor = cholesky(normal).ok_or_else(|| Error::value(OP, problem))?;
    Ok(factor.solve(&(from * to.adjoint())).adjoint())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assert_close, load};
    use crate::grog::GeometryConfig;
    use crate::operator::tests::{distance, random};

    fn geometry(trajectory: &Trajectory, oversamp_grid: f64) -> Geometry {
        let config = GeometryConfig {
            num_inputs: 1,
            kern_width: 0.0,
            oversamp_grid,
            ..GeometryConfig::default()
        };
        Geometry::new(trajectory, &vec![0.0; trajectory.samples()], &config).unwrap()
    }

    #[test]
    fn agrees_with_the_reference() {
        let Some(file) = load("unit/grappa_operator") else { return };
        let shape = file.shape("kcal");
        let lam: f64 = file.metadata("lam").parse().unwrap();
        let operators =
            GrappaOperators::fit(shape[0], &shape[1..3], &file.complex("kcal"), lam).unwrap();
        let check = |what: &str, got: &[Complex<f64>], expected: &[Complex<f64>]| {
            let gap = distance(got, expected);
            assert!(gap < 1e-9, "{what}: {gap:e}");
        };
        check("G0", &operators.power(0, 1.0), &file.complex("G0"));
        check("G1", &operators.power(1, 1.0), &file.complex("G1"));
        check("log", &operators.logarithm(0), &file.complex("logG0"));
        assert!(operators.half_power_gaps().iter().all(|&gap| gap < 1e-12));
        let square = shape[0] * shape[0];
        for (&p, expected) in
            file.values("powers").iter().zip(file.complex("G0_pow").chunks(square))
        {
            check("power", &operators.power(0, p), expected);
        }
        let shifts = file.values("shift").chunks(2);
        for (shift, expected) in shifts.zip(file.complex("G_shift").chunks(square)) {
            check("shift", &operators.shift(shift), expected);
        }
        let [shots, samples, rank] = file.shape("trj") else { panic!("three axes") };
        let points = file.values("trj").to_vec();
        let trajectory = Trajectory::new(*shots, *samples, *rank, points).unwrap();
        for (oversamp, name) in [(1.0, "os1"), (1.5, "os1p5")] {
            let geometry = geometry(&trajectory, oversamp);
            let targets = file.values(&format!("target_{name}"));
            assert_close("targets", geometry.targets(), targets, 1e-12);
            let expected = file.complex(&format!("grid_{name}"));
            let gridded = operators.grid(&file.complex("ksp"), &geometry).unwrap();
            check(name, &gridded, &expected);
            let mut kernels = vec![Complex::default(); geometry.len() * square];
            operators.kernels(&geometry, 0..geometry.len(), &mut kernels).unwrap();
            let given = super::super::GivenKernels::new(shape[0], &geometry, &kernels).unwrap();
            check(name, &given.grid(&file.complex("ksp"), &geometry).unwrap(), &expected);
        }
    }

    /// Samples of coils that are exponentials along both axes, so that operators exist and commute.
    #[test]
    fn radial_samples_calibrate_themselves() {
        let coils = 3;
        let rate = |c: usize, d: usize| {
            Complex::new(0.02 * c as f64 - 0.03, 0.4 * (c as f64 - 1.0) + 0.3 * d as f64)
        };
        let mut points = Vec::new();
        for shot in 0..7 {
            let (sin, cos) = (f64::from(shot) * 0.9).sin_cos();
            points.extend((0..40).flat_map(|i| [cos, sin].map(|v| v * 0.5 * f64::from(i - 20))));
        }
        let trajectory = Trajectory::new(7, 40, 2, points).unwrap();
        let mixing = Matrix::from_vec(coils, coils, random(3, coils * coils));
        let value = |k: &[f64]| {
            let parts = (0..coils).map(|c| (rate(c, 0) * k[0] + rate(c, 1) * k[1]).exp());
            &mixing * DVector::from_iterator(coils, parts)
        };
        let values: Vec<_> = trajectory.points().chunks(2).map(value).collect();
        let samples: Vec<_> = (0..coils).flat_map(|c| values.iter().map(move |v| v[c])).collect();
        let operators = GrappaOperators::fit_radial(&trajectory, &samples, 0.0).unwrap();
        let geometry = geometry(&trajectory, 1.0);
        let gridded = operators.grid(&samples, &geometry).unwrap();
        let exact: Vec<_> = geometry.targets().chunks(2).map(value).collect();
        let exact: Vec<_> = (0..coils).flat_map(|c| exact.iter().map(move |v| v[c])).collect();
        assert!(distance(&gridded, &exact) < 1e-8);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let refused = |result: Result<GrappaOperators>| result.unwrap_err().to_string();
        let data = random::<f64>(5, 32);
        assert!(refused(GrappaOperators::fit(2, &[4, 4], &data[1..], 0.0)).contains("31 values"));
        assert!(refused(GrappaOperators::fit(2, &[16, 1], &data, 0.0)).contains("above one"));
        assert!(refused(GrappaOperators::fit(2, &[4, 4], &data, -1.0)).contains("lam"));
        let zeros = [Complex::<f64>::default(); 32];
        assert!(refused(GrappaOperators::fit(2, &[4, 4], &zeros, 0.1)).contains("zero"));
        let points = (0..32).map(|i| f64::from(i * i) * 0.01).collect();
        let curve = Trajectory::new(2, 8, 2, points).unwrap();
        assert!(refused(GrappaOperators::fit_radial(&curve, &data, 0.0)).contains("equal steps"));
        let points = (0..16).flat_map(|i| [f64::from(i % 8), 0.0]).collect();
        let parallel = Trajectory::new(2, 8, 2, points).unwrap();
        assert!(refused(GrappaOperators::fit_radial(&parallel, &data, 1e-3)).contains("span"));
    }
}
