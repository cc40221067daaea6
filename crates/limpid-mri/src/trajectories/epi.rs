//! Echo-planar trajectories: blipped lines there and back.

use super::{Readouts, Scanner, counts, edge, positive};
use crate::{Error, Result, Trajectory};

/// Blipped echo-planar imaging. The readout gradient is such that samples a dwell time apart lie
/// `1 / oversampling` cycles per field of view apart; ramps and blips are as short as the slew rate allows,
/// and each gradient stays within the limits by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epi {
    /// Lines (first axis) and voxels along the readout (second axis).
    pub matrix: [usize; 2],
    /// Samples per cycle per field of view along the readout.
    pub oversampling: f64,
    /// Interleaved shots, each of which has every so many-th line.
    pub shots: usize,
    /// One in so many lines is measured; that through the centre always is.
    pub acceleration: usize,
    /// Part of the lines that is measured, to the end: in `(0.5, 1]`.
    pub partial_fourier: f64,
    /// Samples are also taken while the readout gradient rises and falls. They are then not evenly spaced,
    /// and those taken during a blip lie between lines.
    pub ramp_sampling: bool,
    /// The limits, and the dwell time.
    pub scanner: Scanner,
}

impl Default for Epi {
    /// 96 × 96 voxels in one shot, every second line, in 36 ms: functional imaging.
    fn default() -> Self {
        Self {
            matrix: [96, 96],
            oversampling: 1.0,
            shots: 1,
            acceleration: 2,
            partial_fourier: 1.0,
            ramp_sampling: false,
            scanner: Scanner { dwell: 5e-6, ..Scanner::default() },
        }
    }
}

/// A trapezoidal gradient, in cycles per field of view and seconds.
#[derive(Clone, Copy)]
struct Lobe {
    amplitude: f64,
    ramp: f64,
    flat: f64,
}

impl Lobe {
    /// The shortest of an area.
    fn of(area: f64, amplitude: f64, slew: f64) -> Self {
        let amplitude = amplitude.min((area * slew).sqrt());
        let ramp = amplitude / slew;
        Self { amplitude, ramp, flat: (area / amplitude - ramp).max(0.0) }
    }

    fn duration(&self) -> f64 {
        2.0 * self.ramp + self.flat
    }

    /// The area until a time.
    fn area(&self, time: f64) -> f64 {
        let rising = time.clamp(0.0, self.ramp);
        let flat = (time - self.ramp).clamp(0.0, self.flat);
        let falling = (time - self.ramp - self.flat).clamp(0.0, self.ramp);
        let slew = self.amplitude / self.ramp;
        slew * (rising * rising / 2.0 + falling * (self.ramp - falling / 2.0))
            + self.amplitude * flat
    }
}

/// A line: when samples are taken since the lobe began, and where along the readout.
type Line = Vec<(f64, f64)>;

impl Epi {
    /// The positions `[shots, lines · samples of a line, 2]`, in the order of time.
    ///
    /// # Errors
    /// If a number is zero, negative or not finite, the gradient that the dwell time asks for is above the
    /// limit, or the shots do not divide the lines.
    pub fn readouts(&self) -> Result<Readouts> {
        const OP: &str = "echo-planar trajectory";
        let [fastest, slew] = self.scanner.limits(OP)?;
        let lines = self.lines(OP)?;
        let (lobe, there, back) = self.lobe(OP)?;
        let each = lines.len() / self.shots;
        counts(OP, self.shots, each * there.len())?;
        let step = (self.shots * self.acceleration) as f64;
        let blip = Lobe::of(step, fastest, slew);
        let half = blip.duration() / 2.0;
        // the blip plays on the ramps and, if it is longer, in a pause between them
        let pause = 2.0 * (half - lobe.ramp).max(0.0);
        let spacing = lobe.duration() + pause;
        let start = there[0].0;

        let mut points = Vec::with_capacity(self.shots * each * there.len() * 2);
        let mut times = Vec::with_capacity(each * there.len());
        for shot in 0..self.shots {
            for line in 0..each {
                let centre = lines[line * self.shots + shot];
                for &(time, along) in if line % 2 == 0 { &there } else { &back } {
                    let since = half + pause / 2.0 + time;
                    let until = half - (lobe.duration() + pause / 2.0 - time);
                    let missing = if line == 0 { 0.0 } else { step - blip.area(since) };
                    let ahead = if line + 1 == each { 0.0 } else { blip.area(until) };
                    points.extend([centre - missing + ahead, along]);
                    if shot == 0 {
                        times.push(line as f64 * spacing + time - start);
                    }
                }
            }
        }
        Ok(Readouts { trajectory: Trajectory::new(self.shots, times.len(), 2, points)?, times })
    }

    /// The positions of the lines, as many for every shot.
    fn lines(&self, op: &'static str) -> Result<Vec<f64>> {
        let size = self.matrix[0];
        edge(op, size)?;
        counts(op, self.shots, self.acceleration)?;
        counts(op, 1, size)?;
        if !(self.partial_fourier > 0.5 && self.partial_fourier <= 1.0) {
            let part = self.partial_fourier;
            let problem = format!("partial Fourier must be above 0.5 and at most 1, it is {part}");
            return Err(Error::value(op, problem));
        }
        let first = size - (self.partial_fourier * size as f64).round() as usize;
        let measured = |line: &usize| line.abs_diff(size / 2).is_multiple_of(self.acceleration);
        let lines: Vec<f64> =
            (first..size).filter(measured).map(|line| line as f64 - (size / 2) as f64).collect();
        if !lines.len().is_multiple_of(self.shots) {
            let problem = format!(
                "{} shots do not divide {} lines; change the acceleration or partial Fourier",
                self.shots,
                lines.len()
            );
            return Err(Error::value(op, problem));
        }
        Ok(lines)
    }

    /// The readout gradient, and the samples of lines to the right and to the left.
    fn lobe(&self, op: &'static str) -> Result<(Lobe, Line, Line)> {
        let Scanner { gradient, dwell, .. } = self.scanner;
        let [fastest, slew] = self.scanner.limits(op)?;
        edge(op, self.matrix[1])?;
        positive(op, "the oversampling", self.oversampling)?;
        let size = self.matrix[1] as f64;
        let samples = (size * self.oversampling).round();
        counts(op, self.shots, samples as usize)?;
        let amplitude = size / (samples * dwell);
        if !(amplitude <= fastest) {
            let needed = gradient * amplitude / fastest;
            let problem = format!(
                "a dwell time of {dwell} s needs {needed:.1} mT/m, the limit is {gradient}; use a longer dwell time, \
                 more oversampling or a larger field of view"
            );
            return Err(Error::value(op, problem));
        }
        if self.ramp_sampling {
            let lobe = Lobe::of(size, amplitude, slew);
            let samples = (lobe.duration() / dwell).floor().max(1.0) as usize;
            counts(op, self.shots, samples)?;
            let first = (lobe.duration() - (samples - 1) as f64 * dwell) / 2.0;
            let at = |i: usize| {
                let time = first + i as f64 * dwell;
                (time, lobe.area(time) - size / 2.0)
            };
            let there: Line = (0..samples).map(at).collect();
            let back = there.iter().map(|&(time, along)| (time, -along)).collect();
            return Ok((lobe, there, back));
        }
        let lobe = Lobe { amplitude, ramp: amplitude / slew, flat: size / amplitude };
        let samples = samples as usize;
        let along = |i: usize| (i as f64 - (samples / 2) as f64) * size / samples as f64;
        let time = |distance: f64| lobe.ramp + (size / 2.0 + distance) / amplitude;
        let there = (0..samples).map(along).map(|k| (time(k), k)).collect();
        let back = (0..samples).rev().map(along).map(|k| (time(-k), k)).collect();
        Ok((lobe, there, back))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::most;
    use super::*;
    use crate::PROTON;

    #[test]
    fn without_ramps_samples_lie_on_the_grid() {
        let epi = Epi { matrix: [12, 8], acceleration: 2, shots: 3, ..Epi::default() };
        let got = epi.readouts().expect("readouts");
        assert_eq!((got.trajectory.shots(), got.trajectory.samples()), (3, 16));
        let mut seen: Vec<[i64; 2]> = got
            .trajectory
            .points()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|p| p.map(|k| k.round() as i64))
            .collect();
        for (k, &[y, x]) in got.trajectory.points().as_chunks::<2>().0.iter().zip(&seen) {
            assert!((k[0] - y as f64).abs() < 1e-9 && (k[1] - x as f64).abs() < 1e-9);
        }
        // lines of a shot lie shots · acceleration apart and go to and fro
        assert_eq!((seen[0], seen[7], seen[8], seen[15]), ([-6, -4], [-6, 3], [0, 3], [0, -4]));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 48);
        assert!(seen.iter().all(|&[y, x]| y % 2 == 0 && (-4..4).contains(&x)));
        let steps: Vec<f64> = got.times.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(got.times[0], 0.0);
        for (i, step) in steps.iter().enumerate() {
            assert!(if i == 7 { *step > 1e-4 } else { (step - 5e-6).abs() < 1e-12 });
        }
    }

    #[test]
    fn with_ramps_limits_hold() {
        for (acceleration, dwell) in [(1, 3e-6), (1, 1e-5), (4, 3e-6)] {
            let scanner = Scanner { dwell, ..Scanner::default() };
            let epi = Epi {
                matrix: [32, 64],
                oversampling: 2.0,
                acceleration,
                ramp_sampling: true,
                scanner,
                ..Epi::default()
            };
            let got = epi.readouts().expect("readouts");
            let shot = got.trajectory.shot(0).as_chunks::<2>().0;
            let unit = PROTON * scanner.field_of_view;
            for d in 0..2 {
                let speed: Vec<f64> = (1..shot.len())
                    .map(|i| (shot[i][d] - shot[i - 1][d]) / (got.times[i] - got.times[i - 1]))
                    .collect();
                let slew: Vec<f64> = (1..speed.len())
                    .map(|i| {
                        (speed[i] - speed[i - 1]) * 2.0 / (got.times[i + 1] - got.times[i - 1])
                    })
                    .collect();
                assert!(most(&speed) <= 40e-3 * unit * (1.0 + 1e-9));
                assert!(most(&slew) <= 150.0 * unit * (1.0 + 1e-6), "{}", most(&slew) / unit);
            }
            assert!(shot.iter().all(|k| k[0].abs() <= 16.0 && k[1].abs() <= 32.0));
            // the centre of a line lies on it
            let line = got.trajectory.samples() / (32 / acceleration);
            assert!((shot[line + line / 2][0] - (acceleration as f64 - 16.0)).abs() < 1e-9);
        }
    }

    #[test]
    fn partial_fourier_begins_late() {
        let epi = Epi { partial_fourier: 0.75, acceleration: 3, ..Epi::default() }
            .readouts()
            .expect("it");
        let lines: Vec<f64> = epi.trajectory.points().chunks(192).map(|line| line[0]).collect();
        assert_eq!((lines[0], lines[lines.len() - 1], lines.len()), (-24.0, 45.0, 24));
    }

    #[test]
    fn refuses_what_cannot_be_played() {
        let problem = |epi: Epi| epi.readouts().expect_err("refused").to_string();
        let good = Epi::default();
        assert!(problem(Epi { shots: 5, ..good }).contains("do not divide 48 lines"));
        let scanner = Scanner { dwell: 1e-6, ..good.scanner };
        assert!(problem(Epi { scanner, ..good }).contains("longer dwell time"));
        assert!(problem(Epi { partial_fourier: 0.5, ..good }).contains("partial Fourier"));
        assert!(problem(Epi { acceleration: 0, ..good }).contains("0 samples"));
        assert!(problem(Epi { matrix: [96, 0], ..good }).contains("matrix"));
    }
}
