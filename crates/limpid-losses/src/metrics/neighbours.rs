//! Whether the values of an image go with those of its neighbours.

/// How far the pixels of an image are correlated with those a few pixels beside and below them,
/// gathered strip by strip.
///
/// Of what a restoration removed (input - restored) it tells noise from structure: shot noise is
/// uncorrelated, whatever else was removed is not. Correlated noise of a detector looks like structure
/// here. The correlation at lag d is `(mean of x(i)·x(i + d) - m²) / (mean of x² - m²)`, m the mean.
#[derive(Clone, Debug)]
pub struct NeighbourCorrelation {
    sum: f64,
    squares: f64,
    count: u64,
    /// Per axis (x, y) and lag.
    products: [Vec<(f64, u64)>; 2],
}

impl NeighbourCorrelation {
    /// For neighbours up to `lags` pixels away.
    #[must_use]
    pub fn new(lags: usize) -> Self {
        let products = [vec![(0.0, 0); lags], vec![(0.0, 0); lags]];
        Self { sum: 0.0, squares: 0.0, count: 0, products }
    }

    /// Takes rows of `width` pixels, which are neighbours of each other but not of other strips.
    pub fn add(&mut self, strip: &[f32], width: usize) {
        if width == 0 {
            return;
        }
        for value in strip {
            self.sum += f64::from(*value);
            self.squares += f64::from(*value) * f64::from(*value);
        }
        self.count += strip.len() as u64;
        let [beside, below] = &mut self.products;
        for lag in 1..=beside.len() {
            for row in strip.chunks_exact(width).filter(|row| row.len() > lag) {
                put(&mut beside[lag - 1], row, &row[lag..]);
            }
            if strip.len() > lag * width {
                put(&mut below[lag - 1], strip, &strip[lag * width..]);
            }
        }
    }

    /// The standard deviation of the pixels.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        let n = self.count as f64;
        (self.squares / n - (self.sum / n).powi(2)).max(0.0).sqrt()
    }

    /// The correlations at lag 1 and so on, along x and along y; NaN where there are no such
    /// neighbours or no differences.
    #[must_use]
    pub fn correlations(&self) -> [Vec<f64>; 2] {
        let n = self.count as f64;
        let (mean, variance) = (self.sum / n, self.deviation().powi(2));
        let of = |(sum, count): &(f64, u64)| (sum / *count as f64 - mean * mean) / variance;
        self.products.each_ref().map(|lags| lags.iter().map(of).collect())
    }
}

fn put(into: &mut (f64, u64), a: &[f32], b: &[f32]) {
    into.0 += a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    into.1 += a.len().min(b.len()) as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<f32> {
        let mut noise = vec![0f32; n];
        limpid_kernels::rng::Stream::new(1, "neighbours").fill_normal(&mut noise);
        noise
    }

    #[test]
    fn noise_is_uncorrelated_and_smoothed_noise_is_as_theory_says() {
        let (height, width) = (200, 300);
        let plain = noise(height * (width + 1));
        let mut found = NeighbourCorrelation::new(3);
        let mut smooth = NeighbourCorrelation::new(3);
        for strip in plain.chunks(50 * (width + 1)) {
            found.add(strip, width + 1);
            // means of two neighbours along x: correlation 1/2 at lag 1, 0 beyond
            let means: Vec<f32> = strip
                .chunks(width + 1)
                .flat_map(|row| row.windows(2).map(|pair| pair[0] + pair[1] + 3.0))
                .collect();
            smooth.add(&means, width);
        }
        for correlation in found.correlations().concat() {
            assert!(correlation.abs() < 0.02, "{correlation}");
        }
        assert!((found.deviation() - 1.0).abs() < 0.01);
        let [x, y] = smooth.correlations();
        assert!((x[0] - 0.5).abs() < 0.02 && x[1].abs() < 0.02 && y[0].abs() < 0.02, "{x:?} {y:?}");
        assert!((smooth.deviation() - 2f64.sqrt()).abs() < 0.02);
    }

    #[test]
    fn a_checkerboard_is_its_own_opposite() {
        let board: Vec<f32> = (0..64).map(|i| ((i / 8 + i % 8) % 2) as f32).collect();
        let mut found = NeighbourCorrelation::new(2);
        found.add(&board, 8);
        let [x, y] = found.correlations();
        assert!((x[0] + 1.0).abs() < 1e-12 && (y[0] + 1.0).abs() < 1e-12);
        assert!((x[1] - 1.0).abs() < 1e-12 && (y[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_has_no_neighbours_has_no_correlation() {
        let mut found = NeighbourCorrelation::new(2);
        found.add(&[1.0, 2.0], 1);
        let [x, y] = found.correlations();
        assert!(x[0].is_nan() && y[1].is_nan() && !y[0].is_nan());
        let mut flat = NeighbourCorrelation::new(1);
        flat.add(&[3.0; 16], 4);
        assert!(flat.correlations()[0][0].is_nan());
    }
}
