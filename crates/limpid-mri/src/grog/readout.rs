//! Values of samples at places between them, along their readout.

use super::geometry::{Geometry, ReadoutInterpolation};
use crate::bessel::bessel_i0;
use crate::{Complex, Real};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::LazyLock;

/// New samples per sample.
const RATE: usize = 4;
/// Taps of the filter on each side of its middle.
const HALF: usize = 40;
/// Most samples that an interpolated value depends on, the ends of the line aside.
const TAPS: usize = 2 * HALF / RATE + 2;

/// Windowed sinc of the cut-off of the old rate and a Kaiser window of β = 8, of sum [`RATE`].
static FILTER: LazyLock<[f64; 2 * HALF + 1]> = LazyLock::new(|| {
    let taps: [f64; 2 * HALF + 1] = std::array::from_fn(|i| {
        let x = i as f64 - HALF as f64;
        let window = bessel_i0(8.0 * (1.0 - (x / HALF as f64).powi(2)).max(0.0).sqrt());
        let turn = std::f64::consts::PI * x / RATE as f64;
        window * if x == 0.0 { 1.0 } else { turn.sin() / turn }
    });
    let sum: f64 = taps.iter().sum();
    taps.map(|tap| tap * RATE as f64 / sum)
});

/// How a value depends on the samples of its readout.
#[derive(Clone)]
struct Taps {
    /// The first sample that counts, and how many do.
    first: usize,
    len: usize,
    weights: [f64; TAPS],
    /// Weights of the first and the last sample of the readout besides.
    ends: [f64; 2],
}

impl Taps {
    /// For the value at `place` of a readout of so many samples.
    fn new(interpolation: ReadoutInterpolation, place: f64, samples: usize) -> Self {
        match interpolation {
            ReadoutInterpolation::Nearest => Self::single(place as usize),
            ReadoutInterpolation::Linear => Self::linear(place),
            ReadoutInterpolation::Upsampled => Self::upsampled(place, samples),
        }
    }

    fn single(first: usize) -> Self {
        let mut weights = [0.0; TAPS];
        weights[0] = 1.0;
        Self { first, len: 1, weights, ends: [0.0; 2] }
    }

    fn linear(place: f64) -> Self {
        let mut taps = Self::single(place as usize);
        let weight = place.fract();
        if weight > 0.0 {
            taps.len = 2;
            taps.weights[..2].copy_from_slice(&[1.0 - weight, weight]);
        }
        taps
    }

    /// Beyond its ends a readout goes on as the line through its first and its last sample.
    fn upsampled(place: f64, samples: usize) -> Self {
        let fine = place * RATE as f64;
        let (low, weight) = (fine as usize, fine.fract());
        let first = low.saturating_sub(HALF).div_ceil(RATE);
        let last = ((low + 1 + HALF) / RATE).min(samples - 1);
        let mut taps = Self { first, len: last + 1 - first, weights: [0.0; TAPS], ends: [0.0; 2] };
        // counted from HALF samples before the first
        for n in (low / RATE + HALF - HALF / RATE)..=(low / RATE + HALF + HALF / RATE + 1) {
            let tap = |at: usize| {
                let i = (at + HALF + RATE * HALF).checked_sub(RATE * n);
                i.and_then(|i| FILTER.get(i)).copied().unwrap_or_default()
            };
            let value = (1.0 - weight) * tap(low) + weight * tap(low + 1);
            match n.checked_sub(HALF).filter(|&n| n < samples) {
                Some(n) if value != 0.0 => taps.weights[n - first] = value,
                Some(_) => {}
                None => {
                    let along = (n as f64 - HALF as f64) / (samples.max(2) - 1) as f64;
                    taps.ends[0] += value * (1.0 - along);
                    taps.ends[1] += value * along;
                }
            }
        }
        taps
    }

    #[inline]
    fn apply<T: Real>(&self, readout: &[Complex<T>]) -> Complex<T> {
        let samples = &readout[self.first..][..self.len];
        if self.len == 1 && self.ends == [0.0; 2] {
            return samples[0];
        }
        let [first, last] = self.ends.map(T::of);
        let ends = readout[0].scale(first) + readout[readout.len() - 1].scale(last);
        samples.iter().zip(&self.weights).fold(ends, |sum, (v, &w)| sum + v.scale(T::of(w)))
    }
}

impl Geometry {
    /// The values `[block, S, C]` of the sources of a block of samples, from samples `[C, M]`.
    pub(super) fn gather<T: Real>(
        &self,
        samples: &[Complex<T>],
        coils: usize,
        block: Range<usize>,
        out: &mut [Complex<T>],
    ) {
        let (sources, readout) = (self.sources(), self.samples());
        let rows = block.zip(out.chunks_exact_mut(sources * coils));
        for (sample, row) in rows {
            let start = sample / readout * readout;
            let places = &self.places[sample * sources..][..sources];
            for (&place, values) in places.iter().zip(row.chunks_exact_mut(coils)) {
                let taps = Taps::new(self.readout, place, readout);
                for (c, value) in values.iter_mut().enumerate() {
                    *value = taps.apply(&samples[c * self.len() + start..][..readout]);
                }
            }
        }
    }

    /// The values of the sources of all samples, `[M, S, C]`, from samples `[C, M]`.
    ///
    /// # Errors
    /// If there are not as many samples for whole coils.
    pub fn source_values<T: Real>(&self, samples: &[Complex<T>]) -> crate::Result<Vec<Complex<T>>> {
        const BLOCK: usize = 256;
        let coils = self.coils_of("source values", samples.len())?;
        let row = self.sources() * coils;
        let mut out = vec![Complex::default(); self.len() * row];
        out.par_chunks_mut(BLOCK * row).enumerate().for_each(|(i, out)| {
            let block = i * BLOCK..i * BLOCK + out.len() / row;
            self.gather(samples, coils, block, out);
        });
        Ok(out)
    }

    /// The coils of so many samples.
    pub(super) fn coils_of(&self, op: &'static str, len: usize) -> crate::Result<usize> {
        if len == 0 || !len.is_multiple_of(self.len()) {
            let expected = format!("samples [C, {}] of one coil or more", self.len());
            return Err(crate::Error::shape(op, expected, format!("{len} values")));
        }
        Ok(len / self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assert_close, load};
    use crate::grog::GeometryConfig;
    use crate::operator::tests::{distance, random};
    use crate::{Trajectory, fixture::Fixture};

    fn sampled(fixture: &Fixture, readout: ReadoutInterpolation, expected: &str) -> f64 {
        let [shots, samples, rank] = fixture.shape("trj") else { panic!("three axes") };
        let trajectory =
            Trajectory::new(*shots, *samples, *rank, fixture.values("trj").to_vec()).unwrap();
        let config = GeometryConfig { readout, ..GeometryConfig::default() };
        let geometry = Geometry::new(&trajectory, fixture.values("t"), &config).unwrap();
        let values = geometry.source_values(&fixture.complex("readout_ksp")).unwrap();
        distance(&values, &fixture.complex(expected))
    }

    #[test]
    fn agrees_with_the_reference() {
        let Some(fixture) = load("unit/geometry") else { return };
        assert_close("taps", &*FILTER, fixture.values("readout_up4_taps"), 1e-14);
        let (samples, up) = (fixture.complex("readout_ksp"), fixture.complex("readout_up4"));
        let len = fixture.shape("readout_ksp")[2];
        for (readout, up) in samples.chunks(len).zip(up.chunks(RATE * len)) {
            let at = |j: usize| Taps::upsampled(j as f64 / RATE as f64, len).apply(readout);
            let got: Vec<_> = (0..RATE * len).map(at).collect();
            let gap = distance(&got, up);
            assert!(gap < 1e-13, "{gap:e}");
        }
        for (readout, name) in [
            (ReadoutInterpolation::Nearest, "sampled_integer"),
            (ReadoutInterpolation::Linear, "sampled_up1_linear"),
            (ReadoutInterpolation::Upsampled, "sampled_up4_linear"),
        ] {
            assert!(sampled(&fixture, readout, name) < 1e-12, "{name}");
        }
    }

    #[test]
    fn samples_and_lines_are_nearly_kept() {
        let values = random::<f64>(4, 30);
        let line: Vec<_> = (0..30).map(|n| Complex::new(f64::from(n), 1.0)).collect();
        for n in 0..30 {
            let taps = Taps::upsampled(n as f64, 30);
            assert!((taps.apply(&values) - values[n]).norm() < 1e-4);
        }
        for place in [0.0, 0.3, 14.9, 28.99, 29.0] {
            let got = Taps::upsampled(place, 30).apply(&line);
            assert!((got - Complex::new(place, 1.0)).norm() < 1e-2, "{place}: {got}");
        }
        for places in [0.0, 1.0] {
            let got = Taps::upsampled(places, 2).apply(&values[..2]);
            assert!((got - values[places as usize]).norm() < 1e-3);
        }
        assert!((Taps::upsampled(0.0, 1).apply(&values[..1]) - values[0]).norm() < 1e-3);
    }
}
