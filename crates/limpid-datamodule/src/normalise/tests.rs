use super::*;
use crate::fixture;

fn every() -> Vec<NormalisationConfig> {
    use NormalisationConfig as N;
    let inverse = AnscombeInverse::Algebraic;
    vec![
        N::None {},
        N::MinMax {},
        N::Percentile { low: 2.0, high: 95.0, bin: 1 },
        N::ZScore {},
        N::Scale { divide: 20.0 },
        N::Log1p {},
        N::Suv { max: 500.0 },
        N::Anscombe { gain: 2.0, sigma: 3.0, offset: 5.0, inverse },
    ]
}

#[test]
fn round_trip() {
    let data: Vec<f32> = (0..300).map(|i| ((i * 37) % 301) as f32 + 6.0).collect();
    for config in every() {
        let fitted = config.fit(&data, 3);
        let stored = serde_json::to_string(&fitted).unwrap();
        let fitted: Normalisation = serde_json::from_str(&stored).unwrap();
        let mut x = data.clone();
        fitted.apply(&mut x);
        assert!(config == NormalisationConfig::None {} || x != data, "{config:?} does nothing");
        fitted.invert(&mut x);
        for (a, b) in x.iter().zip(&data) {
            assert!((a - b).abs() < 1e-3, "{config:?}: {a} for {b}");
        }
    }
}

#[test]
fn numbers_are_per_channel_and_as_named() {
    let data = [0.0, 5.0, 10.0, 100.0, 150.0, 300.0];
    let fitted = NormalisationConfig::MinMax {}.fit(&data, 2);
    let mut x = data;
    fitted.apply(&mut x);
    assert_eq!(x, [0.0, 0.5, 1.0, 0.0, 0.25, 1.0]);

    let data: Vec<f32> = (0..1001).map(|i| i as f32).collect();
    let fitted = NormalisationConfig::Percentile { low: 1.0, high: 99.0, bin: 1 }.fit(&data, 1);
    assert_eq!(fitted.channels, [Transfer::Linear { offset: 10.0, scale: 980.0 }]);

    let mut x = vec![1e6f32 - 1.0, 1e6, 1e6 + 1.0];
    NormalisationConfig::ZScore {}.fit(&x.clone(), 1).apply(&mut x);
    assert!((x[2] - 1.5f32.sqrt()).abs() < 1e-6 && x[1] == 0.0, "{x:?}");

    // a constant image becomes 0, not NaN, and comes back
    for config in every() {
        let mut x = vec![7.0; 12];
        let fitted = config.fit(&x, 1);
        fitted.apply(&mut x);
        assert!(x.iter().all(|v| v.is_finite()), "{config:?}");
        fitted.invert(&mut x);
        assert!((x[0] - 7.0).abs() < 1e-5, "{config:?}");
    }
}

#[test]
fn pieces_give_the_same_as_the_whole() {
    let data: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 * 0.5).collect();
    let mut pieces = Statistics::new(1, data.len());
    data.chunks(137).for_each(|c| pieces.add(c));
    let mut whole = Statistics::new(1, data.len());
    whole.add(&data);
    assert_eq!(pieces.range(0), whole.range(0));
    assert_eq!(pieces.percentiles(0, 3.0, 77.0), whole.percentiles(0, 3.0, 77.0));
    let (a, b) = (pieces.moments(0), whole.moments(0));
    assert!((a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9);
}

#[test]
fn binned_percentiles_are_those_of_the_means() {
    // 2 channels of 3×5, in squares of 2: the last column and row hold halves and a quarter
    let data: Vec<f32> = (0..30).map(|i| i as f32).collect();
    let mut statistics = Statistics::binned(2, 15, 2);
    statistics.add_image(&data, &[3, 5]);
    // first row of squares: (0,1,5,6), (2,3,7,8), (4,9); second: (10,11), (12,13), 14
    assert_eq!(statistics.percentiles(0, 0.0, 100.0), (3.0, 14.0));
    assert_eq!(statistics.percentiles(0, 20.0, 40.0), (5.0, 6.5));
    assert_eq!(statistics.percentiles(1, 60.0, 80.0), (25.5, 27.5));
    // of a volume each slice by itself, whatever the number of slices in a piece
    let volume = |pieces: &[&[f32]]| {
        let mut statistics = Statistics::binned(1, 24, 2);
        pieces.iter().for_each(|p| statistics.add_image(p, &[3, 2, 4]));
        [0.0, 20.0, 50.0].map(|p| statistics.percentiles(0, p, 100.0))
    };
    let data = &data[..24];
    assert_eq!(volume(&[data]), volume(&[&data[..8], &data[8..]]));
    assert_eq!(volume(&[data])[0], (2.5, 20.5)); // (0,1,4,5) … (18,19,22,23)
}

#[test]
fn bins_take_the_noise_out_of_percentiles() {
    // stripes of 20 and 80 with strong noise: bins find the stripes, single pixels the noise
    let mut draws = limpid_kernels::rng::Stream::new(2, "bins").draws();
    let size = [128, 128];
    let clean = |i: usize| if (i / 128 / 32).is_multiple_of(2) { 20.0 } else { 80.0 };
    let noisy: Vec<f32> = (0..128 * 128).map(|i| clean(i) + 25.0 * draws.normal() as f32).collect();
    let width = |bin| {
        let mut statistics = Statistics::binned(1, noisy.len(), bin);
        statistics.add_image(&noisy, &size);
        let (low, high) = statistics.percentiles(0, 2.0, 98.0);
        high - low
    };
    assert!(width(1) > 120.0, "{}", width(1));
    assert!((width(8) - 60.0).abs() < 18.0, "{}", width(8));
}

#[test]
fn thinned_percentiles_are_close_even_on_striped_data() {
    // stripes as wide as a run would fool every fixed step
    let run = 4;
    let data: Vec<f32> = (0..5000 * run).map(|i| (i % run) as f32 * 100.0).collect();
    let mut statistics = Statistics::new(1, statistics::KEPT * run);
    statistics.add(&data);
    assert_eq!(statistics.percentiles(0, 10.0, 90.0), (0.0, 300.0));
    let (median, _) = statistics.percentiles(0, 50.0, 90.0);
    assert!(median == 100.0 || median == 200.0, "{median}");
}

#[test]
fn unbiased_inverse_of_noisy_means_and_plain_inverse_of_values() {
    let c = |inverse| NormalisationConfig::Anscombe { gain: 1.0, sigma: 0.0, offset: 0.0, inverse };
    let plain = c(AnscombeInverse::Algebraic).fit(&[], 1);
    let unbiased = c(AnscombeInverse::Unbiased).fit(&[], 1);
    let asymptotic = c(AnscombeInverse::Asymptotic).fit(&[], 1);
    // mean of the transform of Poisson counts of rate 4, by summing the distribution
    let (mut p, mut mean) = ((-4.0f64).exp(), 0.0);
    for k in 0..60 {
        mean += p * anscombe(f64::from(k), 0.0);
        p *= 4.0 / f64::from(k + 1);
    }
    let (mut a, mut b) = ([mean as f32], [mean as f32]);
    plain.invert(&mut a);
    unbiased.invert(&mut b);
    assert!((b[0] - 4.0).abs() < 0.02 && (a[0] - 4.0).abs() > 0.1, "{a:?} {b:?}");
    let mut between = [mean as f32];
    asymptotic.invert(&mut between);
    assert!((between[0] - a[0] - 0.25).abs() < 1e-5, "{between:?}");
    let mut low = [0.0, 0.3, 1.2];
    unbiased.invert(&mut low);
    assert!(low.iter().all(|v| v.abs() < 1e-6), "{low:?}");
}

#[test]
fn anscombe_agrees_with_the_fixture() {
    let Some(t) = fixture::tensors("selfsup") else { return };
    let input = &t["anscombe.in"];
    let compare = |name: &str, of: &dyn Fn(f64) -> f64| {
        for (x, want) in input.iter().zip(&t[name]) {
            let got = of(f64::from(*x)) as f32;
            assert!((got - want).abs() <= 1e-6 + 1e-6 * want.abs(), "{name}({x}): {got}, {want}");
        }
    };
    compare("anscombe.fwd", &|x| anscombe(x, 0.0));
    compare("anscombe.inv_algebraic", &anscombe_algebraic);
    compare("anscombe.inv_asym_unbiased", &anscombe_asymptotic);
    compare("anscombe.inv_closed", &anscombe_unbiased);
}

#[test]
fn differences_have_a_way_back_where_it_does_not_depend_on_the_intensity() {
    let (a, b) = ([3.0, 40.0], [5.0, 90.0]);
    for config in every() {
        let normalisation = config.fit(&[1.0, 2.0, 4.0, 10.0, 60.0, 100.0], 2);
        let Some(differences) = normalisation.of_differences() else { continue };
        let (mut low, mut high) = (a, b);
        normalisation.apply(&mut low);
        normalisation.apply(&mut high);
        let mut between = [high[0] - low[0], high[1] - low[1]];
        differences.invert(&mut between);
        for c in 0..2 {
            assert!((between[c] - (b[c] - a[c])).abs() < 1e-4, "{config:?}: {between:?}");
        }
    }
    for curve in [NormalisationConfig::Log1p {}, NormalisationConfig::Suv { max: 4.0 }] {
        assert_eq!(curve.fit(&[1.0], 1).of_differences(), None);
    }
    assert!(NormalisationConfig::ZScore {}.fit(&[1.0, 2.0], 1).of_differences().is_some());
}

#[test]
fn bad_numbers_are_reported() {
    use NormalisationConfig as N;
    let bad = [
        N::Scale { divide: 0.0 },
        N::Suv { max: f64::NAN },
        N::Percentile { low: 60.0, high: 40.0, bin: 1 },
        N::Percentile { low: 1.0, high: 99.0, bin: 0 },
        N::Anscombe { gain: -1.0, sigma: 0.0, offset: 0.0, inverse: AnscombeInverse::Unbiased },
    ];
    for config in &bad {
        assert_eq!(limpid_config::check(config).len(), 1, "{config:?}");
    }
    assert!(every().iter().all(|c| limpid_config::check(c).is_empty()));
}
