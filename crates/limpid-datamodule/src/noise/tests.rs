use super::*;

const RANGE: [f64; 2] = [10.0, 210.0];

/// Noise of an electron microscope; read noise, gain and offset of lines.
fn em(dose: f64, dose_to: Option<f64>, errors: [f64; 3]) -> NoiseConfig {
    let [sigma, line_gain, line_offset] = errors;
    NoiseConfig::Em { dose, dose_to, sigma, line_gain, line_offset, jitter: 0.0 }
}

fn noisy(config: &NoiseConfig, value: f32, which: Realisation) -> Vec<f32> {
    let size = [100, 200];
    let mut data = vec![value; 20_000];
    let grid = Grid { image: &size, start: &[0, 0], size: &size };
    config.apply(&mut data, grid, RANGE, Stream::new(5, "noise"), which);
    data
}

fn moments(data: &[f32]) -> (f64, f64) {
    let n = data.len() as f64;
    let mean = data.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (mean, data.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n)
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let ((ma, va), (mb, vb)) = (moments(a), moments(b));
    let sum: f64 = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - ma) * (f64::from(*y) - mb)).sum();
    sum / a.len() as f64 / (va * vb).sqrt()
}

/// Checks mean and variance within five standard errors of normal-like noise.
fn check(data: &[f32], mean: f64, variance: f64) {
    let (m, v) = moments(data);
    let n = data.len() as f64;
    assert!((m - mean).abs() < 5.0 * (variance / n).sqrt(), "mean {m}, expected {mean}");
    assert!((v / variance - 1.0).abs() < 5.0 * (3.0 / n).sqrt(), "variance {v}, not {variance}");
}

#[test]
fn moments_are_those_of_the_model() {
    let first = Realisation::First;
    check(&noisy(&NoiseConfig::Gaussian { sigma: 0.1 }, 60.0, first), 60.0, 400.0);
    // a quarter of the range at 40 counts: 10 counts, each worth 5
    check(&noisy(&NoiseConfig::Poisson { dose: 40.0 }, 60.0, first), 60.0, 250.0);
    check(&noisy(&NoiseConfig::Thinning { fraction: 0.25 }, 8.0, first), 8.0, 24.0);
    let sharp = em(40.0, None, [0.1, 0.0, 0.0]);
    check(&noisy(&sharp, 60.0, first), 60.0, 650.0);
    // without signal, the mean of a Rician is σ·√(π/2), its variance σ²·(2 - π/2)
    let pi = std::f64::consts::PI;
    let rician = noisy(&NoiseConfig::Rician { sigma: 0.1 }, 10.0, first);
    check(&rician, 10.0 + 20.0 * (pi / 2.0).sqrt(), 400.0 * (2.0 - pi / 2.0));
}

#[test]
fn line_errors_belong_to_lines() {
    let data = noisy(&em(1e9, None, [0.0, 0.1, 0.02]), 110.0, Realisation::First);
    let means: Vec<f32> = data.chunks(200).map(|l| l.iter().sum::<f32>() / 200.0).collect();
    let spread = moments(&means).1.sqrt();
    let expected = 200.0 * f64::hypot(0.05, 0.02);
    assert!((spread / expected - 1.0).abs() < 0.35, "{spread}, expected {expected}");
    assert!(data.chunks(200).all(|l| moments(l).1 < 1e-3), "a line is not even");
}

#[test]
fn the_dose_of_a_sample_is_drawn_from_its_range_evenly_in_the_logarithm() {
    let config = em(5.0, Some(40.0), [0.0; 3]);
    let size = [32, 64];
    // full signal: the variance is the square of the range over the dose
    let dose = |sample: u64, which| {
        let mut data = vec![210.0; 2048];
        let grid = Grid { image: &size, start: &[0, 0], size: &size };
        config.apply(&mut data, grid, RANGE, Stream::new(6, "dose").op(sample), which);
        200.0 * 200.0 / moments(&data).1
    };
    let doses: Vec<f64> = (0..400).map(|i| dose(i, Realisation::First)).collect();
    // the estimate from 2048 pixels has a deviation of 3 %
    assert!(doses.iter().all(|d| (4.2..=47.0).contains(d)), "{doses:?}");
    let logs: Vec<f32> = doses.iter().map(|d| d.ln() as f32).collect();
    let (mean, variance) = moments(&logs);
    let width = 8f64.ln();
    assert!((mean - 200f64.sqrt().ln()).abs() < 4.0 * width / (12.0f64 * 400.0).sqrt(), "{mean}");
    assert!((variance / (width * width / 12.0) - 1.0).abs() < 0.2, "{variance}");
    for i in 0..5 {
        let (a, b) = (dose(i, Realisation::First), dose(i, Realisation::Second));
        assert!((a / b - 1.0).abs() < 0.2, "two doses, {a} and {b}");
    }
}

#[test]
fn two_realisations_are_independent_and_thinning_splits_the_counts() {
    for config in [NoiseConfig::Gaussian { sigma: 0.1 }, NoiseConfig::Poisson { dose: 20.0 }] {
        let (a, b) =
            (noisy(&config, 60.0, Realisation::First), noisy(&config, 60.0, Realisation::Second));
        assert!(correlation(&a, &b).abs() < 0.04, "{config:?}");
    }
    let config = NoiseConfig::Thinning { fraction: 0.25 };
    let (a, b) =
        (noisy(&config, 40.0, Realisation::First), noisy(&config, 40.0, Realisation::Second));
    assert!(a.iter().zip(&b).all(|(a, b)| (a * 0.25 + b * 0.75 - 40.0).abs() < 1e-4));
    check(&b, 40.0, 40.0 * 0.25 / 0.75);
    // of Poisson counts the two parts are independent
    let mut counts = noisy(&NoiseConfig::Poisson { dose: 20.0 }, 210.0, Realisation::First);
    counts.iter_mut().for_each(|v| *v = (*v - 10.0) / 10.0);
    let part = |which| {
        let mut data = counts.clone();
        let grid = Grid { image: &[100, 200], start: &[0, 0], size: &[100, 200] };
        config.apply(&mut data, grid, RANGE, Stream::new(9, "thin"), which);
        data
    };
    let (a, b) = (part(Realisation::First), part(Realisation::Second));
    assert!(correlation(&a, &b).abs() < 0.04, "{}", correlation(&a, &b));
    check(&a, 20.0, 80.0);
}

#[test]
fn a_patch_has_the_noise_of_its_place() {
    let image = [3, 12, 16];
    for config in [
        NoiseConfig::Gaussian { sigma: 0.2 },
        em(30.0, None, [0.1; 3]),
        em(30.0, Some(90.0), [0.1; 3]),
        NoiseConfig::Thinning { fraction: 0.4 },
    ] {
        let draw = |start: &[usize], size: &[usize]| {
            let mut data = vec![100.0; 2 * size.iter().product::<usize>()];
            let grid = Grid { image: &image, start, size };
            config.apply(&mut data, grid, RANGE, Stream::new(1, "x"), Realisation::First);
            data
        };
        let (whole, patch) = (draw(&[0, 0, 0], &image), draw(&[1, 5, 3], &[2, 4, 7]));
        for c in 0..2 {
            for (z, y, x) in [(0, 0, 0), (1, 3, 6), (0, 2, 5)] {
                let a = whole[((c * 3 + z + 1) * 12 + y + 5) * 16 + x + 3];
                assert_eq!(patch[((c * 2 + z) * 4 + y) * 7 + x], a, "{config:?}");
            }
        }
        assert_ne!(whole[..576], whole[576..], "channels share noise");
    }
}

#[test]
fn jitter_moves_lines_sideways() {
    let mut line: Vec<f32> = (0..10).map(|i| i as f32).collect();
    shifted(&mut line, 1.5);
    assert_eq!(line, [0.0, 0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]);
}

#[test]
fn binomial_matches_its_distribution() {
    for (n, p) in [(7.0, 0.3), (60.0, 0.4), (400.0, 0.05), (500.0, 0.3), (1e6, 0.9)] {
        let mut draws = Stream::new(3, "b").op(n as u64).draws();
        let counts: Vec<f32> = (0..20_000).map(|_| binomial(&mut draws, n, p) as f32).collect();
        assert!(counts.iter().all(|k| k.fract() == 0.0 && (0.0..=n as f32).contains(k)));
        check(&counts, n * p, n * p * (1.0 - p));
    }
    // frequencies against the exact mass, where rejection is used
    let (n, p) = (60.0, 0.4);
    let mut draws = Stream::new(4, "b").draws();
    let mut hits = [0u32; 61];
    (0..20_000).for_each(|_| hits[binomial(&mut draws, n, p) as usize] += 1);
    for (k, hits) in hits.iter().enumerate() {
        let k = k as f64;
        let log = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
        let expected = 2e4 * (log + k * p.ln() + (n - k) * (1.0 - p).ln()).exp();
        assert!((f64::from(*hits) - expected).abs() < 5.0 * expected.sqrt() + 3.0, "{k}");
    }
}

#[test]
fn bad_levels_are_reported() {
    let bad = NoiseConfig::Em {
        dose: 0.0,
        dose_to: Some(-2.0),
        sigma: -1.0,
        line_gain: 0.0,
        line_offset: 0.0,
        jitter: f64::NAN,
    };
    assert_eq!(limpid_config::check(&bad).len(), 4);
    assert!(limpid_config::check(&em(5.0, Some(5.0), [0.0; 3])).is_empty());
    assert_eq!(limpid_config::check(&NoiseConfig::Thinning { fraction: 1.0 }).len(), 1);
    assert!(limpid_config::check(&NoiseConfig::default()).is_empty());
}
