//! The Cartesian centre of k-space from the samples of a scan.

use super::{check_coils, conjugate_gradients};
use crate::error::expect_matrix;
use crate::real::wide;
use crate::{CentredFft, Complex, Error, Operator, Real, Result, Trajectory, error::expect_len};
use limpid_kernels::rng::Stream;

const OP: &str = "calibration";

/// Parameters of [`calibration`].
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationConfig {
    /// Steps of conjugate gradients.
    pub iterations: usize,
    /// Weight of the squared image, as part of the largest eigenvalue of the normal operator.
    pub lambda: f64,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self { iterations: 15, lambda: 1e-3 }
    }
}

/// The samples of a scan that lie within a small region around the centre of k-space.
#[derive(Clone, Debug, PartialEq)]
pub struct Centre {
    trajectory: Trajectory,
    /// Which of the samples of the scan they are.
    indices: Vec<usize>,
    /// Samples of the scan.
    scan: usize,
}

impl Centre {
    /// Keeps the samples with `|k_d| < n_d / 2` cycles per field of view, for a region of the sizes `n`.
    ///
    /// # Errors
    /// If the region has not one size above zero for each coordinate, or holds no samples.
    pub fn of(trajectory: &Trajectory, region: &[usize]) -> Result<Self> {
        expect_matrix(OP, region)?;
        let rank = trajectory.rank();
        if region.len() != rank {
            let expected = format!("a region of {rank} sizes");
            return Err(Error::shape(OP, expected, format!("{region:?}")));
        }
        let points = || trajectory.points().chunks_exact(rank);
        let within =
            |point: &[f64]| point.iter().zip(region).all(|(k, &n)| k.abs() < n as f64 / 2.0);
        let indices: Vec<usize> =
            points().enumerate().filter(|(_, point)| within(point)).map(|(i, _)| i).collect();
        if indices.is_empty() {
            let problem = format!(
                "no sample lies in the middle {region:?} of k-space; is the trajectory in another unit?"
            );
            return Err(Error::value(OP, problem));
        }
        let points = points().filter(|point| within(point)).flatten().copied().collect();
        let kept = Trajectory::new(1, indices.len(), rank, points)?;
        Ok(Self { trajectory: kept, indices, scan: trajectory.len() })
    }

    /// Their positions, as one readout.
    pub fn trajectory(&self) -> &Trajectory {
        &self.trajectory
    }

    /// Those of values `[any number, samples of the scan]` that belong to them, such as samples of coils or
    /// weights.
    ///
    /// # Errors
    /// If the values are not as many as samples of the scan, or a multiple.
    pub fn select<V: Copy>(&self, values: &[V]) -> Result<Vec<V>> {
        if !values.len().is_multiple_of(self.scan) {
            let expected = format!("as many values as samples, {}, or a multiple", self.scan);
            return Err(Error::shape(OP, expected, values.len().to_string()));
        }
        let chosen = |values: &[V]| self.indices.iter().map(|&i| values[i]).collect::<Vec<V>>();
        Ok(values.chunks_exact(self.scan).flat_map(chosen).collect())
    }
}

/// The Cartesian centre of k-space `[coils, region…]` from samples `[coils, samples]` near it, by weighted least
/// squares: the transform of the `x` that minimises `Σ w |A x − y|² + λ |x|²` after a few steps of conjugate
/// gradients from zero. `A` takes an image of the sizes `region` to the samples of a coil, `w` compensates their
/// density.
///
/// # Errors
/// If the numbers of values do not fit to the operator, a weight is negative, a parameter is out of its range,
/// or a value is not finite.
pub fn calibration<T: Real>(
    operator: &dyn Operator<T>,
    samples: &[Complex<T>],
    weights: &[f64],
    coils: usize,
    region: &[usize],
    config: &CalibrationConfig,
) -> Result<Vec<Complex<T>>> {
    expect_matrix(OP, region)?;
    expect_len(OP, "the image of the operator", region, operator.domain())?;
    expect_len(
        OP,
        "samples [coils, samples of the operator]",
        &[coils, operator.range()],
        samples.len(),
    )?;
    expect_len(OP, "weights [samples of the operator]", &[operator.range()], weights.len())?;
    check_coils(OP, samples, coils)?;
    if let Some(at) = weights.iter().position(|w| !(*w >= 0.0 && w.is_finite())) {
        let problem = format!("the weight of sample {at} is {}, not zero or above", weights[at]);
        return Err(Error::value(OP, problem));
    }
    if config.iterations == 0 || !(config.lambda >= 0.0 && config.lambda.is_finite()) {
        let problem = format!("iterations are above 0, lambda 0 or above and finite: {config:?}");
        return Err(Error::value(OP, problem));
    }
    let weights: Vec<T> = weights.iter().map(|&w| T::of(w)).collect();
    let weigh = |samples: &mut [Complex<T>]| {
        samples.iter_mut().zip(&weights).for_each(|(y, &w)| *y = y.scale(w));
    };
    let normal = |x: &[Complex<T>], out: &mut [Complex<T>]| {
        let mut samples = vec![Complex::default(); operator.range()];
        operator.forward(x, &mut samples);
        weigh(&mut samples);
        operator.adjoint(&samples, out);
    };
    let largest = largest_eigenvalue(&normal, operator.domain());
    if !T::of(largest).f64().is_finite() {
        let problem = "weighted samples are beyond the range of the numbers; scale the weights";
        return Err(Error::value(OP, problem));
    }
    let lambda = T::of(config.lambda * largest);
    let regularised = |x: &[Complex<T>], out: &mut [Complex<T>]| {
        normal(x, out);
        out.iter_mut().zip(x).for_each(|(out, x)| *out = *out + x.scale(lambda));
    };
    let mut images = vec![Complex::default(); coils * operator.domain()];
    let mut right = vec![Complex::default(); operator.domain()];
    let coil_images = images.chunks_exact_mut(operator.domain());
    for (samples, image) in samples.chunks_exact(operator.range()).zip(coil_images) {
        let mut samples = samples.to_vec();
        weigh(&mut samples);
        operator.adjoint(&samples, &mut right);
        conjugate_gradients(regularised, &right, image, config.iterations);
    }
    CentredFft::new(region).forward(&mut images);
    Ok(images)
}

/// The largest eigenvalue of a positive map, by power iteration until it no longer grows.
fn largest_eigenvalue<T: Real>(
    normal: &impl Fn(&[Complex<T>], &mut [Complex<T>]),
    len: usize,
) -> f64 {
    const STEPS: usize = 100;
    let mut draws = Stream::new(0, "largest eigenvalue").draws();
    let mut draw = || T::of(draws.normal());
    let mut x: Vec<Complex<T>> = (0..len).map(|_| Complex::new(draw(), draw())).collect();
    let mut image = x.clone();
    let mut eigenvalue = 0.0;
    for _ in 0..STEPS {
        let norm = x.iter().map(|&v| wide(v).norm_sqr()).sum::<f64>().sqrt();
        // the first norm is that of the start
        let settled = norm == 0.0 || (norm - eigenvalue).abs() <= 1e-7 * norm;
        eigenvalue = norm;
        if settled {
            break;
        }
        x.iter_mut().for_each(|v| *v = v.unscale(T::of(norm)));
        normal(&x, &mut image);
        std::mem::swap(&mut x, &mut image);
    }
    eigenvalue
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::tests::{check_adjoint, distance, random};
    use crate::real::turn;
    use safetensors::SafeTensors;
    use std::path::Path;

    /// The transform of an image to samples, by its definition, as a product of an axis each.
    struct Transform {
        region: [usize; 2],
        /// Of each axis `[sample, voxel]`.
        phases: [Vec<Complex<f64>>; 2],
    }

    impl Transform {
        fn new(trajectory: &Trajectory, region: [usize; 2]) -> Self {
            let phases = [0, 1].map(|axis| {
                let size = region[axis];
                let of = |i: usize| {
                    let (k, r) = (trajectory.points()[i / size * 2 + axis], i % size);
                    turn::<f64>(-k * (r as f64 - (size / 2) as f64) / size as f64)
                        .unscale((size as f64).sqrt())
                };
                (0..trajectory.len() * size).map(of).collect()
            });
            Self { region, phases }
        }

        fn rows(&self, sample: usize) -> [&[Complex<f64>]; 2] {
            [0, 1].map(|axis| &self.phases[axis][sample * self.region[axis]..][..self.region[axis]])
        }
    }

    impl Operator<f64> for Transform {
        fn domain(&self) -> usize {
            self.region.iter().product()
        }

        fn range(&self) -> usize {
            self.phases[0].len() / self.region[0]
        }

        fn forward(&self, image: &[Complex<f64>], samples: &mut [Complex<f64>]) {
            for (i, y) in samples.iter_mut().enumerate() {
                let [a, b] = self.rows(i);
                let line = |line: &[Complex<f64>]| line.iter().zip(b).map(|(x, b)| x * b).sum();
                let lines = image.chunks_exact(self.region[1]).map(line);
                *y = lines.zip(a).map(|(x, a): (Complex<f64>, _)| x * a).sum();
            }
        }

        fn adjoint(&self, samples: &[Complex<f64>], image: &mut [Complex<f64>]) {
            image.fill(Complex::default());
            for (i, y) in samples.iter().enumerate() {
                let [a, b] = self.rows(i);
                for (line, a) in image.chunks_exact_mut(self.region[1]).zip(a) {
                    let y = y * a.conj();
                    line.iter_mut().zip(b).for_each(|(x, b)| *x += y * b.conj());
                }
            }
        }
    }

    /// An array of f32 of the real data, which also hold numbers that fixtures are not read as.
    fn real_data(name: &str) -> Option<(Vec<usize>, Vec<f64>)> {
        let path = "../../../shared/golden/igrog/real_brain_radial.safetensors";
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()?;
        let file = SafeTensors::deserialize(&bytes).expect("arrays");
        let array = file.tensor(name).expect("the array");
        let values = array.data().as_chunks().0.iter().map(|&v| f32::from_le_bytes(v).into());
        Some((array.shape().to_vec(), values.collect()))
    }

    fn complex((shape, values): (Vec<usize>, Vec<f64>)) -> (Vec<usize>, Vec<Complex<f64>>) {
        (shape, values.as_chunks().0.iter().map(|&[re, im]| Complex::new(re, im)).collect())
    }

    #[test]
    fn agrees_with_the_calibration_of_real_data() {
        let arrays = ["trj", "dcf", "ksp", "kcal"].map(real_data);
        let [Some((shape, points)), Some((_, dcf)), Some(ksp), Some(kcal)] = arrays else { return };
        let trajectory = Trajectory::new(shape[0], shape[1], 2, points).expect("positions");
        let (shape, expected) = complex(kcal);
        let region = [shape[1], shape[2]];
        let centre = Centre::of(&trajectory, &region).expect("samples");
        let operator = Transform::new(centre.trajectory(), region);
        let samples = centre.select(&complex(ksp).1).expect("samples");
        let weights = centre.select(&dcf).expect("weights");
        // two coils tell as much as all
        let samples = &samples[..2 * operator.range()];
        let config = CalibrationConfig::default();
        let got = calibration(&operator, samples, &weights, 2, &region, &config);
        let expected = &expected[..2 * operator.domain()];
        let gap = distance(&got.expect("a calibration"), expected);
        assert!(gap < 1e-5, "off by {gap:e}");
    }

    #[test]
    fn finds_the_grid_from_samples_on_and_between_it() {
        let region = [6, 5];
        let points = (0..8 * 7).flat_map(|i| {
            [(i / 7) as f64 * 0.75 - 2.9, (i % 7) as f64 * 0.7 - 2.2].map(|k: f64| k)
        });
        let trajectory = Trajectory::new(8, 7, 2, points.collect()).expect("positions");
        let centre = Centre::of(&trajectory, &region).expect("samples");
        let operator = Transform::new(centre.trajectory(), region);
        check_adjoint(&operator, 1e-12);
        let image = random(1, 30);
        let mut samples = vec![Complex::default(); operator.range()];
        operator.forward(&image, &mut samples);
        let mut expected = image.clone();
        CentredFft::new(&region).forward(&mut expected);
        let weights = vec![1.0; operator.range()];
        let config = CalibrationConfig { iterations: 200, lambda: 0.0 };
        let got =
            calibration(&operator, &samples, &weights, 1, &region, &config).expect("a region");
        assert!(distance(&got, &expected) < 1e-6, "{:e}", distance(&got, &expected));
    }

    #[test]
    fn keeps_the_middle() {
        let points = vec![0.0, 0.0, 2.0, 0.0, -1.9, 1.4, 0.0, -1.5, 1.0, -1.0, 0.0, 7.0];
        let trajectory = Trajectory::new(2, 3, 2, points).expect("positions");
        let centre = Centre::of(&trajectory, &[4, 3]).expect("samples");
        assert_eq!(centre.trajectory().points(), [0.0, 0.0, -1.9, 1.4, 1.0, -1.0]);
        let two_coils: Vec<i32> = (0..12).collect();
        assert_eq!(centre.select(&two_coils), Ok(vec![0, 2, 4, 6, 8, 10]));
        assert!(centre.select(&two_coils[..7]).is_err());
        let away = Trajectory::new(1, 1, 2, vec![9.0, 9.0]).expect("positions");
        let error = Centre::of(&away, &[4, 4]).expect_err("refused").to_string();
        assert!(error.contains("another unit"), "{error}");
        assert!(Centre::of(&away, &[4, 4, 4]).is_err());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let trajectory = Trajectory::new(1, 3, 2, vec![0.0; 6]).expect("positions");
        let operator = Transform::new(&trajectory, [4, 4]);
        let samples = random(1, 6);
        let run = |samples: &[Complex<f64>], weights: &[f64], region: &[usize], lambda: f64| {
            let config = CalibrationConfig { lambda, ..Default::default() };
            calibration(&operator, samples, weights, 2, region, &config)
        };
        let ones = [1.0; 3];
        assert!(run(&samples, &ones, &[4, 4], 1e-3).is_ok());
        assert!(run(&samples, &ones, &[4, 5], 1e-3).is_err());
        assert!(run(&samples[..5], &ones, &[4, 4], 1e-3).is_err());
        assert!(run(&samples, &ones[..2], &[4, 4], 1e-3).is_err());
        assert!(run(&samples, &[1.0, -1.0, 1.0], &[4, 4], 1e-3).is_err());
        assert!(run(&samples, &ones, &[4, 4], f64::NAN).is_err());
        let nothing = run(&[Complex::default(); 6], &[0.0; 3], &[4, 4], 1e-3).expect("zeros");
        assert!(nothing.iter().all(|v| v.norm() == 0.0));
    }
}
