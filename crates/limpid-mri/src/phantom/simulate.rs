//! Samples of phantoms: by the definition, or by any operator, and with noise.

use crate::error::expect_len;
use crate::real::{narrow, turn, wide};
use crate::trajectories::Readouts;
use crate::{Complex, Error, Operator, Real, Result};
use limpid_kernels::rng::Stream;
use limpid_kernels::vectorised;
use rayon::prelude::*;
use std::ops::Range;

/// Sums that are kept side by side, in the order of which they are added up in the end.
const LANES: usize = 8;
/// Shots of one sample time that share the turning by the field.
const SHOTS: usize = 16;

/// What is measured: an image, seen by coils, in a field.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a, T: Real> {
    /// Sizes of the image.
    pub matrix: &'a [usize],
    /// The image, `[matrix]`.
    pub image: &'a [Complex<T>],
    /// Sensitivities `[coils, matrix]`, or one uniform coil.
    pub coils: Option<&'a [Complex<T>]>,
    /// The field in hertz, `[matrix]`, or none.
    pub field: Option<&'a [f64]>,
}

/// A row of the image, between its first and its last voxel that is not zero.
struct Row {
    index: usize,
    columns: Range<usize>,
}

/// Real and imaginary parts apart.
struct Planar<T> {
    re: Vec<T>,
    im: Vec<T>,
}

impl<T: Copy> Planar<T> {
    fn new<U: Real>(values: &[Complex<U>], of: impl Fn(U) -> T) -> Self {
        let part = |of: &dyn Fn(&Complex<U>) -> T| values.iter().map(of).collect();
        Self { re: part(&|v| of(v.re)), im: part(&|v| of(v.im)) }
    }
}

impl<T: Real> Scene<'_, T> {
    /// The samples `[coils, shots, samples]` by the definition, summed in f64:
    /// `y = 1/√N Σᵣ x(r) S(r) exp(−2πi b(r) t) exp(−2πi k·r/N)`. It takes voxels times samples times coils
    /// operations; [`simulate_with`] is faster for large images.
    ///
    /// # Errors
    /// If lengths do not fit the matrix, the matrix not the trajectory, or the field is not finite.
    pub fn simulate(&self, readouts: &Readouts) -> Result<Vec<Complex<T>>> {
        const OP: &str = "simulated samples";
        let trajectory = &readouts.trajectory;
        trajectory.check_matrix(OP, self.matrix)?;
        expect_len(OP, "an image", self.matrix, self.image.len())?;
        expect_len(OP, "times", &[trajectory.samples()], readouts.times.len())?;
        let voxels = self.image.len();
        let coils = self.coils.map_or(1, |maps| maps.len() / voxels);
        if let Some(maps) = self.coils {
            expect_len(OP, "coil maps", &[&[coils.max(1)], self.matrix].concat(), maps.len())?;
        }
        if let Some(field) = self.field {
            expect_len(OP, "a field", self.matrix, field.len())?;
            if !field.iter().chain(&readouts.times).all(|v| v.is_finite()) {
                let problem = "the field or a time is not finite; set the field to zero outside of the object";
                return Err(Error::value(OP, problem));
            }
        }

        let maps = self.coils.map(|maps| Planar::new(maps, |v| v));
        let job = Job {
            scene: self,
            readouts,
            coils,
            image: Planar::new(self.image, T::f64),
            maps: maps.as_ref(),
            rows: self.rows(),
        };
        let (shots, samples) = (trajectory.shots(), trajectory.samples());
        let blocks = shots.div_ceil(SHOTS);
        let sums: Vec<Vec<Complex<f64>>> = (0..samples * blocks)
            .into_par_iter()
            .map(|i| job.block(i / blocks, i % blocks))
            .collect();
        let scale = (voxels as f64).sqrt().recip();
        let mut out = vec![Complex::default(); coils * shots * samples];
        out.par_chunks_mut(samples).enumerate().for_each(|(line, out)| {
            let (coil, shot) = (line / shots, line % shots);
            for (sample, value) in out.iter_mut().enumerate() {
                let block = &sums[sample * blocks + shot / SHOTS];
                *value = narrow(block[shot % SHOTS * coils + coil] * scale);
            }
        });
        Ok(out)
    }

    fn rows(&self) -> Vec<Row> {
        let columns = self.matrix[self.matrix.len() - 1];
        let row = |(index, row): (usize, &[Complex<T>])| {
            let filled = |v: &Complex<T>| *v != Complex::default();
            let first = row.iter().position(filled)?;
            let last = row.iter().rposition(filled)?;
            Some(Row { index, columns: first..last + 1 })
        };
        self.image.chunks(columns).enumerate().filter_map(row).collect()
    }
}

/// What the tasks of a simulation share.
struct Job<'a, T: Real> {
    scene: &'a Scene<'a, T>,
    readouts: &'a Readouts,
    coils: usize,
    image: Planar<f64>,
    maps: Option<&'a Planar<T>>,
    rows: Vec<Row>,
}

impl<T: Real> Job<'_, T> {
    /// The sums `[shots of the block, coils]` of one sample time.
    fn block(&self, sample: usize, block: usize) -> Vec<Complex<f64>> {
        let Readouts { trajectory, times } = self.readouts;
        let matrix = self.scene.matrix;
        let (rank, columns) = (matrix.len(), matrix[matrix.len() - 1]);
        let shots = block * SHOTS..trajectory.shots().min((block + 1) * SHOTS);
        let place = |shot: usize| &trajectory.shot(shot)[sample * rank..][..rank];
        // cycles from voxel to voxel of each axis
        let steps: Vec<Vec<f64>> = shots
            .map(|shot| place(shot).iter().zip(matrix).map(|(k, &n)| k / n as f64).collect())
            .collect();
        let along: Vec<Complex<f64>> = steps
            .iter()
            .flat_map(|step| {
                let step = step[rank - 1];
                (0..columns).map(move |n| turn(-step * (n as f64 - (columns / 2) as f64)))
            })
            .collect();
        let waves: Vec<Planar<f64>> =
            along.chunks(columns).map(|wave| Planar::new(wave, |v| v)).collect();

        let mut sums = vec![Complex::new(0.0, 0.0); steps.len() * self.coils];
        let mut row_re = vec![0.0; columns];
        let mut row_im = vec![0.0; columns];
        let mut re = vec![0.0; columns];
        let mut im = vec![0.0; columns];
        for Row { index, columns: range } in &self.rows {
            let voxels = index * columns + range.start..index * columns + range.end;
            let (row_re, row_im) = (&mut row_re[..range.len()], &mut row_im[..range.len()]);
            let (re, im) = (&mut re[..range.len()], &mut im[..range.len()]);
            row_re.copy_from_slice(&self.image.re[voxels.clone()]);
            row_im.copy_from_slice(&self.image.im[voxels.clone()]);
            if let Some(field) = self.scene.field {
                let row = row_re.iter_mut().zip(row_im.iter_mut());
                for ((re, im), hertz) in row.zip(&field[voxels.clone()]) {
                    let turned = Complex::new(*re, *im) * turn::<f64>(-hertz * times[sample]);
                    (*re, *im) = (turned.re, turned.im);
                }
            }
            for (shot, (step, wave)) in steps.iter().zip(&waves).enumerate() {
                let across = turn::<f64>(-self.across(*index, step));
                let (wave_re, wave_im) = (&wave.re[range.clone()], &wave.im[range.clone()]);
                let sums = &mut sums[shot * self.coils..][..self.coils];
                vectorised(
                    #[inline(always)]
                    || {
                        multiply([row_re, row_im], [wave_re, wave_im], [re, im]);
                        let Some(maps) = self.maps else {
                            sums[0] += across * total(re, im);
                            return;
                        };
                        let size = maps.re.len() / self.coils;
                        for (coil, sum) in sums.iter_mut().enumerate() {
                            let voxels = coil * size + voxels.start..coil * size + voxels.end;
                            let map = [&maps.re[voxels.clone()], &maps.im[voxels]];
                            *sum += across * dot([re, im], map);
                        }
                    },
                );
            }
        }
        sums
    }

    /// Turns of a row by its place along all axes but the last.
    fn across(&self, mut row: usize, step: &[f64]) -> f64 {
        let matrix = self.scene.matrix;
        let mut turns = 0.0;
        for d in (0..matrix.len() - 1).rev() {
            turns += step[d] * ((row % matrix[d]) as f64 - (matrix[d] / 2) as f64);
            row /= matrix[d];
        }
        turns
    }
}

/// `out = a b`, element by element.
#[inline(always)]
fn multiply([a, b]: [&[f64]; 2], [c, d]: [&[f64]; 2], [re, im]: [&mut [f64]; 2]) {
    for i in 0..re.len().min(im.len()).min(a.len()).min(b.len()).min(c.len()).min(d.len()) {
        re[i] = a[i] * c[i] - b[i] * d[i];
        im[i] = a[i] * d[i] + b[i] * c[i];
    }
}

/// `Σ a m`.
#[inline(always)]
fn dot<T: Real>([a, b]: [&[f64]; 2], [c, d]: [&[T]; 2]) -> Complex<f64> {
    let (mut re, mut im) = ([0.0; LANES], [0.0; LANES]);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let ((c, c_rest), (d, d_rest)) = (c.as_chunks::<LANES>(), d.as_chunks::<LANES>());
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        accumulate([&mut re, &mut im], [a, b], [c, d]);
    }
    accumulate([&mut re, &mut im], [a_rest, b_rest], [c_rest, d_rest]);
    Complex::new(re.iter().sum(), im.iter().sum())
}

/// `sums += a m`, lane by lane.
#[inline(always)]
fn accumulate<T: Real>([re, im]: [&mut [f64; LANES]; 2], [a, b]: [&[f64]; 2], [c, d]: [&[T]; 2]) {
    for l in 0..a.len() {
        let (c, d) = (c[l].f64(), d[l].f64());
        re[l] += a[l] * c - b[l] * d;
        im[l] += a[l] * d + b[l] * c;
    }
}

/// `Σ a`.
#[inline(always)]
fn total(a: &[f64], b: &[f64]) -> Complex<f64> {
    let sum = |v: &[f64]| {
        let mut sums = [0.0; LANES];
        let (whole, rest) = v.as_chunks::<LANES>();
        for v in whole {
            for l in 0..LANES {
                sums[l] += v[l];
            }
        }
        rest.iter().zip(&mut sums).for_each(|(v, sum)| *sum += v);
        sums.iter().sum()
    };
    Complex::new(sum(a), sum(b))
}

/// The samples of an image by an operator, such as the field-corrected non-uniform transform of several
/// coils: to its accuracy, but faster than [`Scene::simulate`].
///
/// # Errors
/// If the image has not the length that the operator takes.
pub fn simulate_with<T: Real>(
    operator: &impl Operator<T>,
    image: &[Complex<T>],
) -> Result<Vec<Complex<T>>> {
    expect_len("samples by an operator", "an image", &[operator.domain()], image.len())?;
    let mut samples = vec![Complex::default(); operator.range()];
    operator.forward(image, &mut samples);
    Ok(samples)
}

/// Adds complex Gaussian noise whose mean square is `sigma²`, half of it in each part. Sample `i` gets the
/// same noise for any number of threads, or of samples after it.
///
/// # Errors
/// If `sigma` is negative or not finite.
pub fn add_noise<T: Real>(samples: &mut [Complex<T>], sigma: f64, seed: u64) -> Result<()> {
    const CHUNK: usize = 1 << 12;
    if !(sigma >= 0.0 && sigma.is_finite()) {
        let problem = format!("sigma must be zero or more and finite, it is {sigma}");
        return Err(Error::value("noise", problem));
    }
    let stream = Stream::new(seed, "mri noise");
    let sigma = sigma * std::f64::consts::FRAC_1_SQRT_2;
    samples.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, samples)| {
        let mut noise = vec![0f32; 2 * samples.len()];
        stream.fill_normal_from((2 * chunk * CHUNK) as u64, &mut noise);
        for (sample, [re, im]) in samples.iter_mut().zip(noise.as_chunks().0) {
            let noise = Complex::new(f64::from(*re), f64::from(*im)) * sigma;
            *sample = narrow(wide(*sample) + noise);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Trajectory;
    use crate::fixture::load;
    use crate::operator::tests::{distance, random};
    use std::f64::consts::TAU;

    fn readouts(shots: usize, samples: usize, rank: usize, most: f64) -> Readouts {
        let points: Vec<Complex<f64>> = random(9, shots * samples * rank);
        let points = points.iter().map(|p| most * (p.re / 4.0).clamp(-1.0, 1.0)).collect();
        let trajectory = Trajectory::new(shots, samples, rank, points).expect("positions");
        Readouts { trajectory, times: (0..samples).map(|i| 1e-3 * i as f64).collect() }
    }

    #[test]
    fn is_the_definition() {
        for (matrix, coils) in [(vec![7, 21], 3), (vec![3, 4, 13], 2), (vec![6, 8], 0)] {
            let voxels: usize = matrix.iter().product();
            let mut image: Vec<Complex<f64>> = random(1, voxels);
            let columns = matrix[matrix.len() - 1];
            image[..columns + 2].fill(Complex::default());
            let maps = random::<f64>(2, coils * voxels);
            let field: Vec<f64> = random::<f64>(3, voxels).iter().map(|b| 100.0 * b.re).collect();
            let readouts = readouts(19, 3, matrix.len(), 1.5);
            let scene = Scene {
                matrix: &matrix,
                image: &image,
                coils: (coils > 0).then_some(&maps),
                field: Some(&field),
            };
            let got = scene.simulate(&readouts).expect("samples");
            let rank = matrix.len();
            let mut expected = Vec::new();
            for coil in 0..coils.max(1) {
                for (i, k) in readouts.trajectory.points().chunks(rank).enumerate() {
                    let sum: Complex<f64> = (0..voxels)
                        .map(|voxel| {
                            let (mut rest, mut turns) =
                                (voxel, field[voxel] * readouts.times[i % 3]);
                            for d in (0..rank).rev() {
                                let r = (rest % matrix[d]) as f64 - (matrix[d] / 2) as f64;
                                turns += k[d] * r / matrix[d] as f64;
                                rest /= matrix[d];
                            }
                            let map = maps
                                .get(coil * voxels + voxel)
                                .copied()
                                .unwrap_or(Complex::new(1.0, 0.0));
                            image[voxel] * map * Complex::from_polar(1.0, -TAU * turns)
                        })
                        .sum();
                    expected.push(sum / (voxels as f64).sqrt());
                }
            }
            let error = distance(&got, &expected);
            assert!(error < 1e-13, "{matrix:?}: {error}");
        }
    }

    #[test]
    fn reproduces_the_fixture() {
        let (Some(common), Some(spiral)) = (load("brain_common"), load("brain_spiral")) else {
            return;
        };
        let &[shots, samples, 2] = spiral.shape("trj") else { panic!("[shots, samples, 2]") };
        // every 70th sample of all shots
        const EVERY: usize = 70;
        let kept: Vec<usize> = (0..samples).step_by(EVERY).collect();
        let (points, t) = (spiral.values("trj"), spiral.values("t"));
        let points = (0..shots)
            .flat_map(|shot| kept.iter().map(move |i| 2 * (shot * samples + i)))
            .flat_map(|i| [points[i], points[i + 1]])
            .collect();
        let trajectory = Trajectory::new(shots, kept.len(), 2, points).expect("positions");
        let readouts = Readouts { trajectory, times: kept.iter().map(|&i| t[i]).collect() };
        let (image, maps) = (common.complex("img"), common.complex("mps"));
        let scene =
            Scene { matrix: common.shape("b0_hz"), image: &image, coils: Some(&maps), field: None };
        let off = Scene { field: Some(common.values("b0_hz")), ..scene };
        for (name, scene) in [("ksp_clean", scene), ("ksp_b0_clean", off)] {
            let all = spiral.complex(name);
            let expected: Vec<_> = (0..8 * shots)
                .flat_map(|line| kept.iter().map(move |i| line * samples + i))
                .map(|i| all[i])
                .collect();
            let error = distance(&scene.simulate(&readouts).expect("samples"), &expected);
            assert!(error < 1e-5, "{name}: {error:e}");
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let matrix = [9, 20];
        let image: Vec<Complex<f32>> = random(1, 180);
        let maps: Vec<Complex<f32>> = random(2, 2 * 180);
        let scene = Scene { matrix: &matrix, image: &image, coils: Some(&maps), field: None };
        let readouts = readouts(40, 11, 2, 4.0);
        let run = |threads| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let mut samples = scene.simulate(&readouts).expect("samples");
                add_noise(&mut samples, 0.1, 7).expect("noise");
                samples
            })
        };
        assert_eq!(run(1), run(5));
    }

    #[test]
    fn noise_has_its_variance() {
        let len = 50_001;
        let mut noise = vec![Complex::<f64>::default(); len];
        add_noise(&mut noise, 0.2, 1).expect("noise");
        let mean =
            |of: &dyn Fn(&Complex<f64>) -> f64| noise.iter().map(of).sum::<f64>() / len as f64;
        assert!((mean(&|v| v.re * v.re) - 0.02).abs() < 5e-4);
        assert!((mean(&|v| v.im * v.im) - 0.02).abs() < 5e-4);
        assert!(mean(&|v| v.re * v.im).abs() < 5e-4 && mean(&|v| v.re).abs() < 3e-3);
        let mut short = vec![Complex::<f64>::default(); 9001];
        add_noise(&mut short, 0.2, 1).expect("noise");
        assert_eq!(short, noise[..9001]);
        let mut other = short.clone();
        add_noise(&mut other, 0.2, 2).expect("noise");
        assert!(distance(&other, &short) > 0.5);
        assert!(add_noise(&mut short, -1.0, 1).is_err());
    }

    /// The plain copy of an image.
    struct Same(usize);

    impl Operator<f32> for Same {
        fn domain(&self) -> usize {
            self.0
        }

        fn range(&self) -> usize {
            self.0
        }

        fn forward(&self, image: &[Complex<f32>], samples: &mut [Complex<f32>]) {
            samples.copy_from_slice(image);
        }

        fn adjoint(&self, samples: &[Complex<f32>], image: &mut [Complex<f32>]) {
            image.copy_from_slice(samples);
        }
    }

    #[test]
    fn operators_measure_too_and_bad_lengths_are_refused() {
        let image: Vec<Complex<f32>> = random(1, 12);
        assert_eq!(simulate_with(&Same(12), &image).as_ref(), Ok(&image));
        assert!(simulate_with(&Same(11), &image).is_err());
        let good = Scene { matrix: &[3, 4], image: &image, coils: None, field: None };
        let mut readouts = readouts(2, 5, 2, 1.0);
        let refused = |scene: Scene<'_, f32>| scene.simulate(&readouts).is_err();
        assert!(!refused(good) && refused(Scene { matrix: &[4, 4], ..good }));
        assert!(refused(Scene { matrix: &[3, 2, 2], ..good }));
        assert!(refused(Scene { coils: Some(&image[..0]), ..good }));
        assert!(refused(Scene { coils: Some(&image[..11]), ..good }));
        assert!(refused(Scene { field: Some(&[0.0; 11]), ..good }));
        assert!(refused(Scene { field: Some(&[f64::NAN; 12]), ..good }));
        readouts.times.pop();
        assert!(good.simulate(&readouts).is_err());
    }
}
