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
    /// Side of the squares of pixels whose means are taken for values.
    bin: usize,
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
        Self::binned(channels, expected, 1)
    }

    /// The same of the means of `bin` × `bin` pixels of a slice, for images that are added by
    /// [`add_image`](Self::add_image); `expected` still counts pixels.
    #[must_use]
    pub fn binned(channels: usize, expected: usize, bin: usize) -> Self {
        let bin = bin.max(1);
        let channel = Channel {
            count: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            mean: 0.0,
            squares: 0.0,
            kept: Vec::new(),
        };
        let run = (expected / (bin * bin)).div_ceil(KEPT).max(1);
        Self { channels: vec![channel; channels.max(1)], run, bin }
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

    /// Takes a piece `[channels, n, rest…]` of an image of spatial size `size`: any number of
    /// indices along its first axis. Squares that the edge of a piece cuts are averaged over what
    /// there is of them.
    pub fn add_image(&mut self, data: &[f32], size: &[usize]) {
        if self.bin == 1 {
            return self.add(data);
        }
        let columns = size.last().copied().unwrap_or(1).max(1);
        let rows = match size {
            [_, .., rows, _] => *rows,
            _ => data.len() / self.channels.len() / columns,
        };
        let planes = data.chunks_exact((rows * columns).max(1));
        let means: Vec<f32> = planes.flat_map(|plane| means(plane, columns, self.bin)).collect();
        self.add(&means);
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

/// The means of the squares of `bin` pixels that an image divides into, row by row.
fn means(plane: &[f32], columns: usize, bin: usize) -> Vec<f32> {
    let mut means = Vec::new();
    for rows in plane.chunks(bin * columns) {
        for left in (0..columns).step_by(bin) {
            let right = (left + bin).min(columns);
            let square = rows.chunks_exact(columns).flat_map(|row| &row[left..right]);
            let count = rows.len() / columns * (right - left);
            means.push((square.map(|v| f64::from(*v)).sum::<f64>() / count as f64) as f32);
        }
    }
    means
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
