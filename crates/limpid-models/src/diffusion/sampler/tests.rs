//! Orders of convergence and distributions, on images that are normal: there the estimate, the
//! probability flow and the distribution of samples are known exactly.

use super::*;
use crate::diffusion::testing::Exact;
use crate::diffusion::{GridConfig, ProcessConfig, TimesConfig};
use candle_core::{DType, Device};
use limpid_kernels::rng::Stream;

const MEAN: f64 = 0.3;
const EXACT: Exact = Exact { variance: 0.16 };

fn image(values: Vec<f64>) -> Tensor {
    let n = values.len();
    Tensor::from_vec(values, (1, 1, 1, n), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn normals(n: usize, purpose: &str, step: u64) -> Tensor {
    let mut noise = vec![0f32; n];
    Stream::new(11, purpose).op(step).fill_normal(&mut noise);
    image(noise.into_iter().map(f64::from).collect())
}

fn estimate(x: &Tensor, at: &Level) -> Result<Tensor> {
    Ok(image(values(x).into_iter().map(|x| EXACT.clean(x, MEAN, at)).collect()))
}

/// Samples from `start`; how often the estimate was asked for is checked.
fn run(config: &SamplerConfig, levels: &[Level], start: Tensor, guide: &dyn Guide) -> Tensor {
    assert!(limpid_config::check(config).is_empty());
    let n = start.elem_count();
    let mut asked = 0;
    let end = sample(
        config,
        levels,
        start,
        guide,
        &mut |step| Ok(normals(n, "steps", step as u64)),
        &mut |x, at| {
            asked += 1;
            estimate(x, at)
        },
        &mut |_, _, _| Ok(()),
    )
    .unwrap();
    assert_eq!(asked, evaluations(config, levels), "{config:?}");
    end
}

/// The state at a level that the probability flow takes `deviation` to, in standard deviations.
fn flow(deviation: f64, at: &Level) -> f64 {
    let variance = at.clean.powi(2) * EXACT.variance + at.noise.powi(2);
    at.clean * MEAN + variance.sqrt() * deviation
}

/// Largest distance of a deterministic sampler from the estimate at the last level of the exact flow.
fn error(config: &SamplerConfig, levels: &[Level]) -> f64 {
    let deviations = [-2.0, -0.5, 0.0, 1.0, 2.0];
    let start = image(deviations.map(|d| flow(d, &levels[0])).to_vec());
    let end = values(&run(config, levels, start, &()));
    let last = &levels[levels.len() - 2];
    let errors = end
        .iter()
        .zip(deviations)
        .map(|(end, deviation)| (end - EXACT.clean(flow(deviation, last), MEAN, last)).abs());
    errors.fold(0.0, f64::max)
}

fn log_snr(steps: usize) -> Vec<Level> {
    let grid = GridConfig::LogSnr { steps, start: 4.4e-5, end: 0.9999 };
    grid.levels(&ProcessConfig::default()).unwrap()
}

#[test]
fn samplers_converge_at_their_order() {
    // order, and largest error of 80 steps
    for (config, order, most) in [
        (SamplerConfig::Ddim { eta: 0.0 }, 0.9, 2.5e-2),
        (SamplerConfig::DpmSolver { order: 1, stochastic: false }, 0.9, 2.5e-2),
        (SamplerConfig::DpmSolver { order: 2, stochastic: false }, 1.8, 8e-4),
        (SamplerConfig::UniPc { order: 2 }, 2.6, 1.5e-4),
        (SamplerConfig::UniPc { order: 3 }, 3.0, 8e-6),
        (SamplerConfig::Heun {}, 1.9, 1.6e-3),
    ] {
        let errors = [20, 40, 80].map(|steps| error(&config, &log_snr(steps)));
        let slope = (errors[0] / errors[2]).log2() / 2.0;
        assert!(slope > order && errors[2] < most, "{config:?}: {errors:?}, order {slope}");
        assert!(errors[1] < errors[0] && errors[2] < errors[1], "{config:?}: {errors:?}");
    }
}

#[test]
fn a_flow_can_start_where_no_signal_is_left() {
    let process = ProcessConfig::Flow { train: TimesConfig::Uniform {} };
    let levels = |steps| GridConfig::Time { steps, start: 1.0 }.levels(&process).unwrap();
    for (config, coarse) in [
        (SamplerConfig::Ddim { eta: 0.0 }, 6e-2),
        (SamplerConfig::DpmSolver { order: 2, stochastic: false }, 2e-2),
        (SamplerConfig::UniPc { order: 2 }, 2e-2),
        (SamplerConfig::UniPc { order: 3 }, 2e-2),
    ] {
        let errors = [20, 80].map(|steps| error(&config, &levels(steps)));
        assert!(errors[0] < coarse && errors[1] < errors[0] / 3.0, "{config:?}: {errors:?}");
    }
    let heun = SamplerConfig::Heun {};
    let (zero, levels) = (image(vec![0.0]), levels(4));
    let mut nothing = |x: &Tensor, _: &Level| Ok(x.clone());
    let refused = sample(
        &heun,
        &levels,
        zero,
        &(),
        &mut |_| Ok(image(vec![0.0])),
        &mut nothing,
        &mut |_, _, _| Ok(()),
    );
    assert!(refused.unwrap_err().to_string().contains("heun"));
}

fn moments(values: &[f64]) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    [mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)]
}

#[test]
fn stochastic_samplers_draw_from_the_distribution() {
    const N: usize = 1 << 14;
    // samplers of first order need as many steps for their variance
    for (config, steps) in [
        (SamplerConfig::Ancestral {}, 1000),
        (SamplerConfig::Ddim { eta: 0.5 }, 1000),
        (SamplerConfig::DpmSolver { order: 2, stochastic: true }, 100),
    ] {
        let levels = log_snr(steps);
        let start = values(&normals(N, "start", 0));
        let start = image(start.into_iter().map(|d| flow(d, &levels[0])).collect());
        let [mean, variance] = moments(&values(&run(&config, &levels, start, &())));
        let n = N as f64;
        assert!((mean - MEAN).abs() < 3.0 * (EXACT.variance / n).sqrt(), "{config:?}: {mean}");
        let spread = 3.0 * EXACT.variance * (2.0 / n).sqrt();
        assert!((variance - EXACT.variance).abs() < spread, "{config:?}: {variance}");
    }
}

#[test]
fn ancestral_sampling_has_several_names() {
    let levels = log_snr(9);
    let end = |config| values(&run(&config, &levels, normals(32, "start", 1), &()));
    let ancestral = end(SamplerConfig::Ancestral {});
    assert_eq!(ancestral, end(SamplerConfig::Ddim { eta: 1.0 }));
    assert_eq!(ancestral, end(SamplerConfig::DpmSolver { order: 1, stochastic: true }));
    let solver = SamplerConfig::DpmSolver { order: 1, stochastic: false };
    assert_eq!(end(SamplerConfig::Ddim { eta: 0.0 }), end(solver));
}

#[test]
fn a_bridge_passes_through_its_distribution_to_the_clean_image() {
    const N: usize = 1 << 14;
    let (strength, clean, source) = (0.2, -0.4, 0.5);
    for stochastic in [true, false] {
        let process = ProcessConfig::Bridge { strength, stochastic };
        let levels = GridConfig::Time { steps: 6, start: 1.0 }.levels(&process).unwrap();
        let truth = image(vec![clean; N]);
        let mut checked = 0;
        let end = sample(
            &SamplerConfig::Bridge {},
            &levels,
            image(vec![source; N]),
            &(),
            &mut |step| Ok(normals(N, "bridge", step as u64)),
            &mut |_, _| Ok(truth.clone()),
            &mut |at, _, x| {
                let [mean, variance] = moments(&values(x));
                let Level { clean: c, source: s, noise, .. } = at.next;
                let n = N as f64;
                assert!((mean - (c * clean + s * source)).abs() <= 3.0 * noise / n.sqrt() + 1e-12);
                let spread = 3.0 * noise * noise * (2.0 / n).sqrt() + 1e-12;
                assert!((variance - noise * noise).abs() <= spread, "{at:?}: {variance}");
                checked += 1;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(checked, 6);
        assert!(values(&end).iter().all(|v| (v - clean).abs() < 1e-12));
        let wrong = sample(
            &SamplerConfig::Ancestral {},
            &levels,
            truth.clone(),
            &(),
            &mut |_| Ok(truth.clone()),
            &mut |x, _| Ok(x.clone()),
            &mut |_, _, _| Ok(()),
        );
        assert!(wrong.unwrap_err().to_string().contains("bridge"));
    }
}

/// Remembers what it was asked, and shifts what it is given.
struct Shift;

impl Guide for Shift {
    fn estimate(&self, _: &Step, clean: Tensor) -> Result<Tensor> {
        Ok((clean + 1.0)?)
    }

    fn state(&self, at: &Step, x: Tensor) -> Result<Tensor> {
        if at.index + 1 == at.of { Ok((x * 2.0)?) } else { Ok(x) }
    }
}

#[test]
fn every_sampler_hears_its_guide() {
    // a grid of one step ends at its estimate
    let levels = log_snr(1);
    let start = image(vec![0.1, -0.7]);
    let bare = values(&estimate(&start, &levels[0]).unwrap());
    for config in [
        SamplerConfig::Ancestral {},
        SamplerConfig::DpmSolver { order: 2, stochastic: true },
        SamplerConfig::UniPc { order: 3 },
        SamplerConfig::Heun {},
    ] {
        let got = values(&run(&config, &levels, start.clone(), &Shift));
        for (got, bare) in got.iter().zip(&bare) {
            assert!((got - 2.0 * (bare + 1.0)).abs() < 1e-12, "{config:?}");
        }
    }
}

#[test]
fn nonsense_is_refused() {
    for config in [
        SamplerConfig::Ddim { eta: 1.5 },
        SamplerConfig::DpmSolver { order: 3, stochastic: false },
        SamplerConfig::UniPc { order: 1 },
    ] {
        assert_eq!(limpid_config::check(&config).len(), 1, "{config:?}");
    }
}

#[test]
fn single_precision_is_kept() {
    let levels = log_snr(5);
    let start = normals(8, "start", 2).to_dtype(DType::F32).unwrap();
    let end = sample(
        &SamplerConfig::UniPc { order: 3 },
        &levels,
        start.clone(),
        &(),
        &mut |_| Ok(start.clone()),
        &mut |x, _| Ok((x * 0.5)?),
        &mut |_, _, _| Ok(()),
    );
    assert_eq!(end.unwrap().dtype(), DType::F32);
}
