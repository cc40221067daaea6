//! Weights that make the gridded density flat (Pipe & Menon, "Sampling density compensation in MRI: rationale
//! and an iterative numerical solution", MRM 41, 1999).

use crate::{Error, Result, Trajectory};
use rayon::prelude::*;

const OP: &str = "pipe_menon";

/// Samples of a task.
const CHUNK: usize = 1 << 12;

/// Parameters of [`pipe_menon`].
#[derive(Clone, Debug, PartialEq)]
pub struct PipeMenonConfig {
    /// How often the weights are corrected.
    pub iterations: usize,
    /// Width of the Kaiser-Bessel kernel in cycles per field of view, 1 to 16.
    pub width: f64,
    /// Shape parameter of the kernel `I₀(β √(1 − x²))`, above 0 to 100.
    pub beta: f64,
}

impl Default for PipeMenonConfig {
    fn default() -> Self {
        Self { iterations: 30, width: 4.0, beta: 8.0 }
    }
}

/// Weights `[shots, samples]` from `w ← w / (G Gᴴ w)`, beginning with ones, where `Gᴴ` grids samples with a
/// Kaiser-Bessel kernel on the periodic grid of k-space of an image of the sizes `matrix`, and `G` interpolates
/// from it. With them the gridded density at the samples is one, for the kernel as it is defined.
///
/// # Errors
/// If the image does not fit to the trajectory, or a parameter is out of its range.
pub fn pipe_menon(
    trajectory: &Trajectory,
    matrix: &[usize],
    config: &PipeMenonConfig,
) -> Result<Vec<f64>> {
    trajectory.check_matrix(OP, matrix)?;
    // a narrower kernel may fall between two points of the grid
    let beta = config.beta > 0.0 && config.beta <= 100.0;
    if !(1.0..=16.0).contains(&config.width) || !beta {
        let problem = format!("width is 1 to 16, beta above 0 to 100: {config:?}");
        return Err(Error::value(OP, problem));
    }
    let gridding = Gridding::new(trajectory, matrix, config);
    let mut weights = vec![1.0; trajectory.len()];
    let mut density = vec![0.0; trajectory.len()];
    let mut grid = vec![0.0; matrix.iter().product()];
    for _ in 0..config.iterations {
        gridding.grid(&weights, &mut grid);
        gridding.interpolate(&grid, &mut density);
        weights.par_iter_mut().zip(&density).for_each(|(w, density)| *w /= density);
    }
    // back from the order of the grid
    let mut out = density;
    for (&sample, weight) in gridding.order.iter().zip(weights) {
        out[sample] = weight;
    }
    Ok(out)
}

/// Where samples lie on the grid, sorted by the first of its rows that they touch.
struct Gridding {
    matrix: Vec<usize>,
    /// Most points of the grid along an axis that a sample touches.
    taps: usize,
    /// The sample at each place of the order.
    order: Vec<usize>,
    /// The place of the first sample of each row, and their number.
    rows: Vec<usize>,
    /// The first point of the grid that a sample touches, `[place, axis]`.
    starts: Vec<u32>,
    /// Kernel at the points that it touches, `[place, axis, tap]`; zero beyond the kernel.
    kernel: Vec<f64>,
}

impl Gridding {
    fn new(trajectory: &Trajectory, matrix: &[usize], config: &PipeMenonConfig) -> Self {
        let rank = matrix.len();
        let half = config.width / 2.0;
        let taps = config.width as usize + 1;
        let first = |point: f64| (point - half).ceil();
        let wrapped = |at: f64, size: usize| (at as i64).rem_euclid(size as i64) as usize;
        let row = |sample: usize| wrapped(first(trajectory.points()[sample * rank]), matrix[0]);
        let mut rows = vec![0; matrix[0] + 1];
        (0..trajectory.len()).for_each(|sample| rows[row(sample) + 1] += 1);
        (0..matrix[0]).for_each(|r| rows[r + 1] += rows[r]);
        let mut order: Vec<usize> = (0..trajectory.len()).collect();
        order.sort_by_key(|&sample| row(sample));
        let coordinates = order.par_iter().flat_map_iter(|&sample| {
            trajectory.points()[sample * rank..][..rank].iter().copied().zip(matrix)
        });
        let starts = coordinates.clone().map(|(k, &size)| wrapped(first(k), size) as u32).collect();
        let kernel = coordinates.flat_map_iter(|(k, _)| {
            let start = first(k);
            (0..taps).map(move |tap| kaiser_bessel((start + tap as f64 - k) / half, config.beta))
        });
        let kernel = kernel.collect();
        Self { matrix: matrix.to_vec(), taps, order, rows, starts, kernel }
    }

    /// Kernel of a sample along an axis.
    fn kernel(&self, place: usize, axis: usize) -> &[f64] {
        &self.kernel[(place * self.matrix.len() + axis) * self.taps..][..self.taps]
    }

    /// Spreads samples over the grid. A row of it is summed by one task, in the order of samples.
    fn grid(&self, samples: &[f64], grid: &mut [f64]) {
        let size = grid.len() / self.matrix[0];
        grid.par_chunks_mut(size).enumerate().for_each(|(row, grid)| {
            grid.fill(0.0);
            for tap in 0..self.taps {
                let from = (row + self.taps * self.matrix[0] - tap) % self.matrix[0];
                for place in self.rows[from]..self.rows[from + 1] {
                    let factor = self.kernel(place, 0)[tap] * samples[place];
                    self.each_line(place, |start, weight| {
                        let last = self.matrix[self.matrix.len() - 1];
                        let line = &mut grid[start * last..][..last];
                        let (mut at, weight) = (self.last_start(place), weight * factor);
                        for k in self.kernel(place, self.matrix.len() - 1) {
                            line[at] += weight * k;
                            at = next(at, last);
                        }
                    });
                }
            }
        });
    }

    /// Interpolates samples from the grid.
    fn interpolate(&self, grid: &[f64], samples: &mut [f64]) {
        let size = grid.len() / self.matrix[0];
        let last = self.matrix[self.matrix.len() - 1];
        samples.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, samples)| {
            for (i, sample) in samples.iter_mut().enumerate() {
                let place = chunk * CHUNK + i;
                let mut row = self.starts[place * self.matrix.len()] as usize;
                *sample = 0.0;
                for factor in self.kernel(place, 0) {
                    let rows = &grid[row * size..][..size];
                    self.each_line(place, |start, weight| {
                        let line = &rows[start * last..][..last];
                        let (mut at, mut sum) = (self.last_start(place), 0.0);
                        for k in self.kernel(place, self.matrix.len() - 1) {
                            sum += k * line[at];
                            at = next(at, last);
                        }
                        *sample += factor * weight * sum;
                    });
                    row = next(row, self.matrix[0]);
                }
            }
        });
    }

    /// The lines within a row that a sample touches, with the kernel across them.
    #[inline(always)]
    fn each_line(&self, place: usize, mut line: impl FnMut(usize, f64)) {
        if self.matrix.len() == 2 {
            return line(0, 1.0);
        }
        let mut at = self.starts[place * 3 + 1] as usize;
        for &k in self.kernel(place, 1) {
            line(at, k);
            at = next(at, self.matrix[1]);
        }
    }

    fn last_start(&self, place: usize) -> usize {
        self.starts[(place + 1) * self.matrix.len() - 1] as usize
    }
}

/// The next point of a periodic axis.
#[inline]
fn next(at: usize, size: usize) -> usize {
    if at + 1 == size { 0 } else { at + 1 }
}

/// The kernel `I₀(β √(1 − x²))`, zero beyond one.
fn kaiser_bessel(x: f64, beta: f64) -> f64 {
    if x.abs() > 1.0 { 0.0 } else { bessel_i0(beta * (1.0 - x * x).sqrt()) }
}

/// The modified Bessel function `I₀` of `x ≥ 0` to 2e-7 (Abramowitz & Stegun, 9.8.1 and 9.8.2): not the exact one
/// of the other windows, for published weights were computed with it.
fn bessel_i0(x: f64) -> f64 {
    const SMALL: [f64; 7] = [1.0, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813];
    const LARGE: [f64; 9] = [
        0.39894228,
        0.01328592,
        0.00225319,
        -0.00157565,
        0.00916281,
        -0.02057706,
        0.02635537,
        -0.01647633,
        0.00392377,
    ];
    let polynomial = |c: &[f64], t: f64| c.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let t = x / 3.75;
    if t < 1.0 {
        polynomial(&SMALL, t * t)
    } else {
        polynomial(&LARGE, t.recip()) * x.exp() / x.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::load;
    use limpid_kernels::rng::Stream;

    fn trajectory(fixture: &crate::fixture::Fixture, name: &str) -> Trajectory {
        let &[shots, samples, rank] = fixture.shape(name) else { panic!("a trajectory") };
        Trajectory::new(shots, samples, rank, fixture.values(name).to_vec()).expect("positions")
    }

    fn worst(got: &[f64], expected: &[f64]) -> f64 {
        assert_eq!(got.len(), expected.len());
        got.iter().zip(expected).map(|(g, e)| (g / e - 1.0).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn agrees_with_the_fixture() {
        let Some(fixture) = load("unit/dcf") else { return };
        for name in ["radial", "spiral"] {
            let trajectory = trajectory(&fixture, &format!("{name}.trj"));
            let weights = pipe_menon(&trajectory, &[32, 32], &PipeMenonConfig::default());
            let expected = fixture.values(&format!("{name}.pipe_menon"));
            let gap = worst(&weights.expect("weights"), expected);
            assert!(gap < 1e-9, "{name}: off by {gap:e}");
        }
    }

    #[test]
    fn agrees_with_the_weights_of_the_brain() {
        let Some(fixture) = load("brain_radial") else { return };
        let trajectory = trajectory(&fixture, "trj");
        let weights =
            pipe_menon(&trajectory, &[160, 160], &PipeMenonConfig::default()).expect("weights");
        let largest = weights.iter().copied().fold(0.0, f64::max);
        for (w, expected) in weights.iter().zip(fixture.values("dcf")) {
            assert!((w / largest - expected).abs() < 1e-6); // stored as f32
        }
    }

    #[test]
    fn makes_the_density_flat_in_space_for_any_number_of_threads() {
        let mut draws = Stream::new(1, "samples").draws();
        let points = (0..600 * 3).map(|i| {
            let size = [12.0, 10.0, 8.0][i % 3];
            (draws.uniform() - 0.5) * size
        });
        let trajectory = Trajectory::new(2, 300, 3, points.collect()).expect("positions");
        let (matrix, config) = ([12, 10, 8], PipeMenonConfig { width: 2.5, ..Default::default() });
        let run = || pipe_menon(&trajectory, &matrix, &config).expect("weights");
        let weights = run();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        assert_eq!(weights, pool.install(run));
        // the definition
        let value = |i: usize, at: [usize; 3]| -> f64 {
            (0..3)
                .map(|d| {
                    let k = trajectory.points()[i * 3 + d];
                    let size = matrix[d] as f64;
                    (-1..=1)
                        .map(|turn| {
                            let x = (at[d] as f64 + turn as f64 * size - k) / 1.25;
                            kaiser_bessel(x, 8.0)
                        })
                        .sum::<f64>()
                })
                .product()
        };
        let cells: Vec<[usize; 3]> = (0..960).map(|i| [i / 80, i / 8 % 10, i % 8]).collect();
        let table: Vec<Vec<f64>> =
            (0..600).map(|i| cells.iter().map(|&at| value(i, at)).collect()).collect();
        let mut expected = vec![1.0; 600];
        for _ in 0..30 {
            let mut grid = vec![0.0; 960];
            for (row, w) in table.iter().zip(&expected) {
                grid.iter_mut().zip(row).for_each(|(g, v)| *g += v * w);
            }
            for (row, w) in table.iter().zip(&mut expected) {
                *w /= row.iter().zip(&grid).map(|(v, g)| v * g).sum::<f64>();
            }
        }
        assert!(worst(&weights, &expected) < 1e-9, "{:e}", worst(&weights, &expected));
    }

    #[test]
    fn is_flat_for_a_grid() {
        let points = (0..64).flat_map(|i| [(i / 8) as f64 - 4.0, (i % 8) as f64 - 4.0]).collect();
        let trajectory = Trajectory::new(8, 8, 2, points).expect("positions");
        // a kernel wider than the grid wraps around it more than once
        for width in [1.0, 4.0, 11.0] {
            let config = PipeMenonConfig { width, ..Default::default() };
            let weights = pipe_menon(&trajectory, &[8, 8], &config).expect("weights");
            assert!(worst(&weights, &[weights[0]; 64]) < 1e-9);
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let trajectory = Trajectory::new(1, 2, 2, vec![0.0, 0.0, 20.0, 1.0]).expect("positions");
        let config = PipeMenonConfig::default();
        assert!(pipe_menon(&trajectory, &[8, 8], &config).is_err());
        assert!(pipe_menon(&trajectory, &[64, 64, 64], &config).is_err());
        for (width, beta) in [(0.0, 8.0), (f64::NAN, 8.0), (99.0, 8.0), (4.0, -1.0)] {
            let config = PipeMenonConfig { width, beta, ..Default::default() };
            let error = pipe_menon(&trajectory, &[64, 64], &config).expect_err("refused");
            assert!(error.to_string().contains("width"), "{error}");
        }
    }
}
