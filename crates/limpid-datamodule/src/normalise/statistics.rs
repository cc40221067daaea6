//! Range, moments and percentiles of data that comes in pieces, channel by channel.

use limpid_kernels::rng::Stream;

/// Values per channel that percentiles are taken from; more are thinned.
pub(super) const KEPT: usize = 1 << 22;

/// Gathers what normalisations need to know of a data set, in bounded memory.
///
/// Range and moments see every value; percentiles one value of each run, drawn at random, once
/// there are more than four million.
#[derive(Clone, Debug)]
pub struct Statistics {
    channels: Vec<Channel>,
    /// Values of a run of which one is kept.
    run: usize,
}

#[derive(Clone, Debug)]
struct Channel {
    count: u64,
    min: f32,
    max: f32,
    mean: f64,
    squares: f64,
    kept: Vec<f32>,
}

impl Statistics {
    /// Statistics of `channels` channels of about `expected` values each.
    #[must_use]
    pub fn new(channels: usize, expected: usize) -> Self {
        let channel = Channel {
            count: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            mean: 0.0,
            squares: 0.0,
            kept: Vec::new(),
        };
        Self { channels: vec![channel; channels.max(1)], run: expected.div_ceil(KEPT).max(1) }
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Takes a piece `[channels, …]`.
    pub fn add(&mut self, data: &[f32]) {
        let part = (data.len() / self.channels.len()).max(1);
        for (channel, values) in self.channels.iter_mut().zip(data.chunks_exact(part)) {
            channel.add(values, self.run);
        }
    }

    /// Smallest and largest value.
    #[must_use]
    pub fn range(&self, channel: usize) -> (f64, f64) {
        let c = &self.channels[channel];
        (f64::from(c.min), f64::from(c.max))
    }

    /// Mean and population standard deviation.
    #[must_use]
    pub fn moments(&self, channel: usize) -> (f64, f64) {
        let c = &self.channels[channel];
        (c.mean, (c.squares / c.count.max(1) as f64).sqrt())
    }

    /// Two percentiles, interpolated linearly as in numpy; NaN if there are no values.
    #[must_use]
    pub fn percentiles(&self, channel: usize, low: f64, high: f64) -> (f64, f64) {
        let mut values = self.channels[channel].kept.clone();
        values.sort_unstable_by(f32::total_cmp);
        let at = |percent: f64| {
            if values.is_empty() {
                return f64::NAN;
            }
            let place = percent / 100.0 * (values.len() - 1) as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(values.len() - 1);
            let (a, b) = (f64::from(values[below]), f64::from(values[above]));
            a + (b - a) * (place - below as f64)
        };
        (at(low), at(high))
    }
}

impl Channel {
    fn add(&mut self, values: &[f32], run: usize) {
        if values.is_empty() {
            return;
        }
        let mut sum = 0.0;
        for &v in values {
            self.min = self.min.min(v);
            self.max = self.max.max(v);
            sum += f64::from(v);
        }
        // two passes and Chan's merge, so that a large mean does not drown a small deviation
        let n = values.len() as f64;
        let mean = sum / n;
        let squares: f64 = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        let (before, delta) = (self.count as f64, mean - self.mean);
        let total = before + n;
        self.mean += delta * n / total;
        self.squares += squares + delta * delta * before * n / total;
        if run == 1 {
            self.kept.extend_from_slice(values);
        } else {
            let stream = Stream::new(0, "percentiles").op(self.count);
            let mut draws = stream.draws();
            for chunk in values.chunks(run) {
                let i = draws.below(run as u64) as usize;
                self.kept.extend(chunk.get(i)); // a short last run is kept in proportion
            }
        }
        self.count += values.len() as u64;
    }
}
