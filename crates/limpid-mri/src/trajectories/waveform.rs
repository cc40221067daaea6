//! Plays a plane curve as fast as gradients allow.
//!
//! With the arc length `s`, the speed `v = ṡ` and the curvature `κ`, the slew is bounded where
//! `v̇² + (κ v²)² ≤ S²`, so that `q = v²` may grow by `dq/ds = 2 √(S² − κ² q²)` (Lustig et al., IEEE Trans. Med.
//! Imaging 2008, the forward pass, which is all there is for curves whose curvature falls).

use super::MOST;
use crate::{Error, Result};

/// Position, first and second derivative with respect to the parameter, in cycles per field of view.
pub(super) type Jet = [[f64; 2]; 3];

/// A curve over the parameters `0..1`, from rest.
pub(super) struct Waveform<C, L> {
    /// Its jets.
    pub(super) curve: C,
    /// The largest speed at a parameter, given the length of the first derivative there.
    pub(super) speed: L,
    /// The largest acceleration, in cycles per field of view and second squared.
    pub(super) acceleration: f64,
    /// Time from sample to sample, in seconds.
    pub(super) dwell: f64,
}

impl<C: Fn(f64) -> Jet, L: Fn(f64) -> f64> Waveform<C, L> {
    /// The positions of the samples before the end of the curve, found in `steps` steps of the parameter.
    pub(super) fn play(&self, op: &'static str, steps: usize) -> Result<Vec<[f64; 2]>> {
        let mut samples = vec![(self.curve)(0.0)[0]];
        let (mut time, mut speed) = (0.0, 0.0);
        let (mut length, mut curvature) = arc(&(self.curve)(0.0));
        for step in 0..steps {
            let at = |part: f64| (step as f64 + part) / steps as f64;
            let (middle, _) = arc(&(self.curve)(at(0.5)));
            let (next_length, next_curvature) = arc(&(self.curve)(at(1.0)));
            let distance = (length + 4.0 * middle + next_length) / (6.0 * steps as f64);

            // Heun's method
            let q = speed * speed;
            let slope = self.slope(q, curvature);
            let next_slope = self.slope(q + distance * slope, next_curvature);
            let q = q + distance * (slope + next_slope) / 2.0;
            let most = (self.speed)(next_length).powi(2).min(self.acceleration / next_curvature);
            let next_speed = q.min(most).sqrt();

            let duration = 2.0 * distance / (speed + next_speed);
            if !duration.is_finite() || (time + duration) / self.dwell > MOST as f64 {
                let problem = format!(
                    "a readout takes more than {MOST} samples; is a limit of the scanner in another unit?"
                );
                return Err(Error::value(op, problem));
            }
            loop {
                let since = samples.len() as f64 * self.dwell - time;
                if since >= duration {
                    break;
                }
                let gained = (next_speed - speed) * since / (2.0 * duration);
                let part = (speed + gained) * since / distance;
                samples.push((self.curve)(at(part))[0]);
            }
            time += duration;
            (speed, length, curvature) = (next_speed, next_length, next_curvature);
        }
        Ok(samples)
    }

    /// `dq/ds`.
    fn slope(&self, q: f64, curvature: f64) -> f64 {
        // at rest a curvature may be infinite
        let across = if q > 0.0 { curvature * q } else { 0.0 };
        2.0 * (self.acceleration.powi(2) - across * across).max(0.0).sqrt()
    }
}

/// The length of the first derivative, and the curvature.
fn arc(&[_, [dx, dy], [ddx, ddy]]: &Jet) -> (f64, f64) {
    let length = dx.hypot(dy);
    (length, (dx * ddy - dy * ddx).abs() / length.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_takes_as_long_as_it_should() {
        let line = Waveform {
            curve: |p: f64| [[0.0, 50.0 * p], [0.0, 50.0], [0.0, 0.0]],
            speed: |_: f64| 20.0,
            acceleration: 10.0,
            dwell: 0.25,
        };
        // two seconds and 20 cycles until the speed is reached, then 30 cycles in 1.5 s
        let got = line.play("test", 1000).expect("samples");
        assert_eq!(got.len(), 14);
        for (i, [x, y]) in got.iter().enumerate() {
            let t = 0.25 * i as f64;
            let expected = if t < 2.0 { 5.0 * t * t } else { 20.0 * (t - 1.0) };
            assert!(x.abs() < 1e-12 && (y - expected).abs() < 1e-9, "{y} instead of {expected}");
        }
    }

    #[test]
    fn a_circle_is_bounded_by_its_curvature() {
        // v²/r = 10 at radius 2.5: speed 5, five radians after the run-up
        let circle = Waveform {
            curve: |p: f64| {
                let (sin, cos) = (20.0 * p).sin_cos();
                [[2.5 * cos, 2.5 * sin], [-50.0 * sin, 50.0 * cos], [-1000.0 * cos, -1000.0 * sin]]
            },
            speed: |_: f64| 100.0,
            acceleration: 10.0,
            dwell: 0.01,
        };
        let got = circle.play("test", 4000).expect("samples");
        let [a, b] = [got[got.len() - 2], got[got.len() - 1]];
        let speed = (b[0] - a[0]).hypot(b[1] - a[1]) / 0.01;
        assert!((speed - 5.0).abs() < 1e-3, "{speed}");
    }
}
