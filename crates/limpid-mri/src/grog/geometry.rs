//! Where the sources of every sample lie, and the point of the grid they are moved to.

use crate::error::expect_len;
use crate::{Error, Result, Trajectory};

/// Sources of a sample at most.
const MOST_SOURCES: usize = 1024;

/// How values between the samples of a readout are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadoutInterpolation {
    /// Not at all: the nearest samples are taken, which loses nothing where readouts are oversampled.
    #[default]
    Nearest,
    /// Linearly.
    Linear,
    /// Linearly between samples of four times the rate, which a windowed sinc gives.
    Upsampled,
}

/// What a [`Geometry`] is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct GeometryConfig {
    /// Sources `S` of each sample; GROG has one.
    pub num_inputs: usize,
    /// Distance of the outer sources along the readout, in cycles per field of view.
    pub kern_width: f64,
    /// Points of the grid per cycle per field of view, at least one.
    pub oversamp_grid: f64,
    /// How sources between two samples are found.
    pub readout: ReadoutInterpolation,
    /// Targets are the nearest points of the grid; otherwise the samples stay where they are.
    pub grid: bool,
}

impl Default for GeometryConfig {
    fn default() -> Self {
        Self {
            num_inputs: 5,
            kern_width: 2.0,
            oversamp_grid: 1.0,
            readout: ReadoutInterpolation::Nearest,
            grid: true,
        }
    }
}

/// What of a trajectory may make kernels poor.
#[derive(Clone, Debug, PartialEq)]
pub struct GeometryReport {
    /// The longest way between two samples of a readout, in cycles per field of view.
    pub largest_gap: f64,
    /// Number of ways longer than one cycle per field of view: nothing between their ends is known.
    pub wide_gaps: usize,
    /// Number of sources that the ends of a readout keep from where they belong.
    pub clipped: usize,
    /// The farthest source from its target in a coordinate, in cycles per field of view.
    pub reach: f64,
    /// The smallest and the largest coordinate of each axis, in cycles per field of view.
    pub range: Vec<[f64; 2]>,
}

/// Sources and target of every sample of a trajectory. `M` counts samples of all readouts, in their order.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Readouts, samples of each, coordinates.
    shape: [usize; 3],
    sources: usize,
    pub(super) readout: ReadoutInterpolation,
    /// `[M, S]`: places of the sources in their readout, in samples.
    pub(super) places: Vec<f64>,
    offsets: Vec<f64>,
    times: Vec<f64>,
    readout_times: Vec<f64>,
    targets: Vec<f64>,
    report: GeometryReport,
}

impl Geometry {
    /// Lays `S` sources about every sample along its readout, at equal distances that the local speed turns
    /// into samples, and clips them to the readout. An even `S` has no source at the sample itself. `times`
    /// are those of the samples of a readout, in seconds.
    ///
    /// # Errors
    /// If `times` are not as many as a readout has samples or not finite, there are no sources, the width is
    /// negative or not finite, or the grid has less than one point per cycle.
    pub fn new(trajectory: &Trajectory, times: &[f64], config: &GeometryConfig) -> Result<Self> {
        const OP: &str = "geometry";
        let (samples, rank) = (trajectory.samples(), trajectory.rank());
        expect_len(OP, "times of a readout", &[samples], times.len())?;
        if let Some(at) = times.iter().position(|t| !t.is_finite()) {
            return Err(Error::value(OP, format!("time {at} is {}", times[at])));
        }
        let GeometryConfig { num_inputs: sources, kern_width: width, oversamp_grid, .. } = *config;
        let problem = if !(1..=MOST_SOURCES).contains(&sources) {
            Some(format!("num_inputs must be 1 to {MOST_SOURCES}, is {sources}"))
        } else if !(width >= 0.0 && width.is_finite()) {
            Some(format!("kern_width must be zero or more, is {width}"))
        } else if !(1.0..=1e3).contains(&oversamp_grid) {
            Some(format!("oversamp_grid must be 1 to 1000, is {oversamp_grid}"))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(Error::value(OP, problem));
        }
        let spacing = if sources > 1 { width / (sources - 1) as f64 } else { 0.0 };
        let total = trajectory.len() * sources;
        let mut geometry = Self {
            shape: [trajectory.shots(), samples, rank],
            sources,
            readout: config.readout,
            places: Vec::with_capacity(total),
            offsets: Vec::with_capacity(total * rank),
            times: Vec::with_capacity(total),
            readout_times: times.to_vec(),
            targets: Vec::with_capacity(trajectory.len() * rank),
            report: report_of(trajectory),
        };
        for shot in 0..trajectory.shots() {
            let points = trajectory.shot(shot);
            let speeds = speeds(points, rank);
            for (i, (point, &speed)) in points.chunks_exact(rank).zip(&speeds).enumerate() {
                let on_grid = |&k: &f64| (k * oversamp_grid).round_ties_even() / oversamp_grid;
                let first = geometry.targets.len();
                if config.grid {
                    geometry.targets.extend(point.iter().map(on_grid));
                } else {
                    geometry.targets.extend(point);
                }
                for s in 0..sources {
                    let along = (s as f64 - (sources - 1) as f64 / 2.0) * spacing;
                    let wanted = i as f64 + if along == 0.0 { 0.0 } else { along / speed };
                    let last = (samples - 1) as f64;
                    let mut place = wanted.clamp(0.0, last);
                    if config.readout == ReadoutInterpolation::Nearest {
                        place = place.round_ties_even();
                    }
                    geometry.report.clipped += usize::from(!(0.0..=last).contains(&wanted));
                    geometry.places.push(place);
                    geometry.times.push(between(times, 1, 0, place));
                    for d in 0..rank {
                        let k = between(points, rank, d, place);
                        let offset = k - geometry.targets[first + d];
                        geometry.report.reach = geometry.report.reach.max(offset.abs());
                        geometry.offsets.push(offset);
                    }
                }
            }
        }
        Ok(geometry)
    }

    /// The same with offsets rounded to multiples of `step` cycles per field of view, so that more samples
    /// have equal offsets, whose kernels [`ClosedForm`](crate::ClosedForm) finds once. Kernels are then off
    /// by what they change over half a step.
    ///
    /// # Errors
    /// If the step is not 1e-9 to 1000.
    pub fn quantised(mut self, step: f64) -> Result<Self> {
        if !(1e-9..=1e3).contains(&step) {
            let problem = format!("the step of offsets must be 1e-9 to 1000, is {step}");
            return Err(Error::value("quantised geometry", problem));
        }
        for offset in &mut self.offsets {
            // without negative zeros, which would be other offsets than zeros
            *offset = (*offset / step).round() * step + 0.0;
        }
        Ok(self)
    }

    /// Samples `M` of all readouts.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// There is at least one sample.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Samples of a readout.
    pub fn samples(&self) -> usize {
        self.shape[1]
    }

    /// Coordinates of a position.
    pub fn rank(&self) -> usize {
        self.shape[2]
    }

    /// Sources `S` of a sample.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Places of the sources in their readout, in samples, `[M, S]`.
    pub fn places(&self) -> &[f64] {
        &self.places
    }

    /// From the target to the sources, `[M, S, rank]`, in cycles per field of view: what kernels depend on.
    pub fn offsets(&self) -> &[f64] {
        &self.offsets
    }

    /// When the sources were sampled, `[M, S]`, in seconds.
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// When the samples of a readout were taken themselves, as many as a readout has, in seconds.
    pub fn readout_times(&self) -> &[f64] {
        &self.readout_times
    }

    /// Targets `[M, rank]`, in cycles per field of view.
    pub fn targets(&self) -> &[f64] {
        &self.targets
    }

    /// What may make kernels poor.
    pub fn report(&self) -> &GeometryReport {
        &self.report
    }

    /// Offsets alone, `[M, S, rank]`, without samples.
    #[cfg(test)]
    pub(super) fn of_offsets([len, sources, rank]: [usize; 3], offsets: &[f64]) -> Self {
        let point = Trajectory::new(1, len, rank, vec![0.0; len * rank]).unwrap();
        let config = GeometryConfig { num_inputs: sources, ..GeometryConfig::default() };
        let geometry = Self::new(&point, &vec![0.0; len], &config).unwrap();
        Self { offsets: offsets.to_vec(), ..geometry }
    }

    /// The offsets of one sample, `[S, rank]`.
    pub(super) fn offsets_of(&self, sample: usize) -> &[f64] {
        let len = self.sources * self.rank();
        &self.offsets[sample * len..][..len]
    }
}

/// The distance of every position of a readout from the next; the last, and those of rests, are repeated
/// from their neighbours, as a rest would have its sources at the ends of the readout.
fn speeds(points: &[f64], rank: usize) -> Vec<f64> {
    let mut speeds = gaps(points, rank);
    speeds.push(speeds.last().copied().unwrap_or_default());
    for i in (0..speeds.len() - 1).rev() {
        if speeds[i] == 0.0 {
            speeds[i] = speeds[i + 1];
        }
    }
    for i in 1..speeds.len() {
        if speeds[i] == 0.0 {
            speeds[i] = speeds[i - 1];
        }
    }
    // a readout that never moves has all its sources in one place
    if speeds[0] == 0.0 { vec![f64::INFINITY; speeds.len()] } else { speeds }
}

fn gaps(points: &[f64], rank: usize) -> Vec<f64> {
    let pairs = points.chunks_exact(rank).zip(points.chunks_exact(rank).skip(1));
    pairs.map(|(a, b)| a.iter().zip(b).map(|(a, b)| (b - a).powi(2)).sum::<f64>().sqrt()).collect()
}

/// Component `d` of `rank` at a place between two rows.
fn between(rows: &[f64], rank: usize, d: usize, place: f64) -> f64 {
    let low = (place as usize).min((rows.len() / rank).saturating_sub(2));
    let weight = place - low as f64;
    let at = |row: usize| rows[row * rank + d];
    if weight == 0.0 { at(low) } else { at(low) * (1.0 - weight) + at(low + 1) * weight }
}

fn report_of(trajectory: &Trajectory) -> GeometryReport {
    let rank = trajectory.rank();
    let shots = (0..trajectory.shots()).map(|shot| gaps(trajectory.shot(shot), rank));
    let (largest_gap, wide_gaps) = shots
        .flatten()
        .fold((0f64, 0), |(largest, wide), gap| (largest.max(gap), wide + usize::from(gap > 1.0)));
    let range = (0..rank).map(|d| {
        let axis = trajectory.points().iter().skip(d).step_by(rank);
        axis.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], &k| [low.min(k), high.max(k)])
    });
    GeometryReport { largest_gap, wide_gaps, clipped: 0, reach: 0.0, range: range.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assert_close, load};

    #[test]
    fn agrees_with_the_reference() {
        let Some(fixture) = load("unit/geometry") else { return };
        let [shots, samples, rank] = fixture.shape("trj") else { panic!("three axes") };
        let trajectory =
            Trajectory::new(*shots, *samples, *rank, fixture.values("trj").to_vec()).unwrap();
        let cases = [
            ("S1_kw0_os1_i1", 1, 0.0, 1.0, ReadoutInterpolation::Upsampled),
            ("S3_kw1_os1_i1", 3, 1.0, 1.0, ReadoutInterpolation::Linear),
            ("S5_kw2_os1_i1", 5, 2.0, 1.0, ReadoutInterpolation::Upsampled),
            ("S5_kw2_os1.5_i1", 5, 2.0, 1.5, ReadoutInterpolation::Upsampled),
            ("S5_kw2_os1_i0", 5, 2.0, 1.0, ReadoutInterpolation::Nearest),
        ];
        for (name, num_inputs, kern_width, oversamp_grid, readout) in cases {
            let config =
                GeometryConfig { num_inputs, kern_width, oversamp_grid, readout, grid: true };
            let geometry = Geometry::new(&trajectory, fixture.values("t"), &config).unwrap();
            let check = |what: &str, got: &[f64], tolerance| {
                let name = format!("{name}.{what}");
                assert_close(&name, got, fixture.values(&name), tolerance);
            };
            check("idx", geometry.places(), 1e-10);
            check("dk", geometry.offsets(), 1e-10);
            check("src_t", geometry.times(), 1e-15);
            check("target", geometry.targets(), 1e-12);
        }
    }

    fn line(steps: &[f64]) -> Trajectory {
        let mut at = 0.1;
        let points = steps.iter().flat_map(|step| {
            at += step;
            [at, 0.0]
        });
        Trajectory::new(1, steps.len(), 2, points.collect()).unwrap()
    }

    #[test]
    fn even_numbers_of_sources_lie_on_both_sides() {
        let config = GeometryConfig {
            num_inputs: 4,
            kern_width: 3.0,
            readout: ReadoutInterpolation::Linear,
            grid: false,
            ..GeometryConfig::default()
        };
        let geometry = Geometry::new(&line(&[0.5; 20]), &[0.0; 20], &config).unwrap();
        let along: Vec<f64> = geometry.offsets_of(10).iter().step_by(2).copied().collect();
        assert_close("offsets", &along, &[-1.5, -0.5, 0.5, 1.5], 1e-12);
        assert_eq!(geometry.targets()[20], line(&[0.5; 20]).points()[20]);
    }

    #[test]
    fn rests_have_the_sources_of_what_follows() {
        let steps = [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 1.25, 0.0, 0.0];
        let config = GeometryConfig::default();
        let geometry = Geometry::new(&line(&steps), &[0.0; 10], &config).unwrap();
        assert_eq!(geometry.places()[5..10], [0.0, 0.0, 1.0, 2.0, 3.0]);
        let report = geometry.report();
        assert_eq!((report.largest_gap, report.wide_gaps), (1.25, 1));
        assert_eq!(report.range[0], [0.1, 3.35]);
        let still = Geometry::new(&line(&[0.0; 3]), &[0.0; 3], &config).unwrap();
        assert_eq!(still.places()[5..10], [1.0; 5]);
    }

    #[test]
    fn quantised_offsets_are_multiples() {
        let steps: Vec<f64> = (0..30).map(|i| 0.3 + 0.01 * f64::from(i)).collect();
        let geometry = Geometry::new(&line(&steps), &[0.0; 30], &GeometryConfig::default());
        let geometry = geometry.unwrap().quantised(0.25).unwrap();
        assert!(geometry.offsets().iter().all(|offset| (offset * 4.0).fract() == 0.0));
        assert!(geometry.quantised(0.0).is_err());
    }

    #[test]
    fn refuses_what_makes_no_geometry() {
        let refused = |config: GeometryConfig, times: &[f64]| {
            Geometry::new(&line(&[0.5; 4]), times, &config).unwrap_err().to_string()
        };
        let config = GeometryConfig::default;
        assert!(refused(config(), &[0.0; 3]).contains("3 values"));
        assert!(refused(config(), &[0.0, 1.0, f64::NAN, 2.0]).contains("time 2 is NaN"));
        let times = [0.0; 4];
        assert!(refused(GeometryConfig { num_inputs: 0, ..config() }, &times).contains("inputs"));
        let width = GeometryConfig { kern_width: f64::NAN, ..config() };
        assert!(refused(width, &times).contains("kern_width"));
        let coarse = GeometryConfig { oversamp_grid: 0.5, ..config() };
        assert!(refused(coarse, &times).contains("oversamp_grid"));
    }
}
