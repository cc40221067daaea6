//! What goes in comes out: states, answers, clean images, weights and levels.

use super::*;
use candle_core::{DType, Device};

fn image(purpose: &str, dtype: DType) -> Tensor {
    let mut values = vec![0f32; 3 * 8];
    Stream::new(1, purpose).fill_normal(&mut values);
    Tensor::from_vec(values, (3, 1, 2, 4), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn diffusion(predict: Parametrisation, input: Input) -> ProcessConfig {
    let (weighting, train) = (Weighting::MinSnr { most: 5.0 }, LevelsConfig::default());
    ProcessConfig::Diffusion { predict, input, weighting, train }
}

fn all() -> Vec<ProcessConfig> {
    vec![
        diffusion(Parametrisation::Noise {}, Input::Gamma),
        diffusion(Parametrisation::Velocity {}, Input::LogSnr),
        diffusion(Parametrisation::Clean {}, Input::Gamma),
        diffusion(Parametrisation::Edm { sigma_data: 0.4 }, Input::LogSnr),
        ProcessConfig::Flow { train: TimesConfig::LogitNormal { mean: 0.0, std: 1.0 } },
        ProcessConfig::Bridge { strength: 0.2, stochastic: true },
        ProcessConfig::Bridge { strength: 0.2, stochastic: false },
    ]
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).fold(0.0, |d, (a, b)| d.max((a - b).abs()))
}

#[test]
fn the_right_answer_gives_the_clean_image_back() {
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
        let [clean, source, noise] = ["clean", "source", "noise"].map(|p| image(p, dtype));
        for process in all() {
            assert!(limpid_config::check(&process).is_empty());
            let one = vec![process.at(0.6)];
            for at in [one, [0.9, 0.5, 0.02].map(|t| process.at(t)).to_vec()] {
                let x = process.corrupt(&clean, &source, &noise, &at).unwrap();
                let answer = process.target(&clean, &x, &noise, &at).unwrap();
                let back = process.clean(&answer, &x, &at).unwrap();
                assert!(distance(&back, &clean) < tolerance, "{process:?}");
            }
        }
    }
}

#[test]
fn states_are_made_of_what_the_level_says() {
    let [clean, source, noise] = ["clean", "source", "noise"].map(|p| image(p, DType::F64));
    for process in all() {
        let at = process.at(0.3);
        let x = values(&process.corrupt(&clean, &source, &noise, &[at]).unwrap());
        let [clean, source, noise] = [&clean, &source, &noise].map(values);
        for i in 0..x.len() {
            let expected = at.clean * clean[i] + at.source * source[i] + at.noise * noise[i];
            assert!((x[i] - expected).abs() < 1e-12);
        }
        if let ProcessConfig::Diffusion { .. } = process {
            assert!((at.clean.powi(2) + at.noise.powi(2) - 1.0).abs() < 1e-12);
            assert!((at.noise / at.clean - 0.3 / 0.7).abs() < 1e-12);
        }
    }
}

#[test]
fn preconditioned_answers_and_inputs_have_unit_variance() {
    // x0 of variance d², ε of variance 1: both are independent
    let d = 0.4;
    let process = diffusion(Parametrisation::Edm { sigma_data: d }, Input::LogSnr);
    for gamma in [1e-4, 0.1, 0.5, 0.999] {
        let at = Level::of_gamma(gamma, Input::LogSnr);
        let (a, b) = process.question(&at);
        assert!((a * a * d * d + b * b - 1.0).abs() < 1e-12);
        let x = image("state", DType::F64);
        let ratio = values(&process.input(&x, &[at]).unwrap())[0] / values(&x)[0];
        let variance = at.clean.powi(2) * d * d + at.noise.powi(2);
        assert!((ratio * ratio * variance - 1.0).abs() < 1e-12);
    }
}

#[test]
fn min_snr_weighs_the_error_of_the_clean_image() {
    let at = [1e-4, 0.3, 0.95].map(|g| Level::of_gamma(g, Input::Gamma));
    let snr = at.map(|l| (l.clean / l.noise).powi(2));
    let expected = |of: fn(f64) -> f64| snr.map(of);
    for (predict, expected) in [
        (Parametrisation::Noise {}, expected(|s| s.min(5.0) / s)),
        (Parametrisation::Velocity {}, expected(|s| s.min(5.0) / (s + 1.0))),
        (Parametrisation::Clean {}, expected(|s| s.min(5.0))),
    ] {
        let got = diffusion(predict, Input::Gamma).weights(&at);
        for (got, expected) in got.iter().zip(expected) {
            assert!((got / expected - 1.0).abs() < 1e-12, "{predict:?}");
        }
    }
    assert_eq!(ProcessConfig::default().weights(&at), [1.0; 3]);
}

#[test]
fn training_levels_fill_the_range() {
    let mut processes = all();
    for train in [
        LevelsConfig::LogSnr { low: 1e-4, high: 0.9999 },
        LevelsConfig::LogNormal { mean: -1.2, std: 1.2, low: 1e-3, high: 0.9999 },
    ] {
        let predict = Parametrisation::Velocity {};
        let (input, weighting) = (Input::LogSnr, Weighting::Uniform {});
        processes.push(ProcessConfig::Diffusion { predict, input, weighting, train });
    }
    for process in processes {
        let levels = process.draw(4000, Stream::new(3, "levels"));
        assert_eq!(levels, process.draw(4000, Stream::new(3, "levels")));
        let [most, least] = process.range().map(|l| l.clean);
        assert!(levels.iter().all(|l| (most..=least).contains(&l.clean)), "{process:?}");
        let times: Vec<f64> = levels.iter().map(|l| 1.0 - l.clean).collect();
        let span = times.iter().fold([1f64, 0.0], |s, t| [s[0].min(*t), s[1].max(*t)]);
        assert!(span[0] < 0.1 && span[1] > 0.9, "{process:?}: {span:?}");
    }
    // uniform in λ: a quarter of the levels in the noisiest quarter
    let train = LevelsConfig::LogSnr { low: 1e-4, high: 0.9999 };
    let (low, high) = (half_log_snr(1e-4), half_log_snr(0.9999));
    let quarter = low + (high - low) / 4.0;
    let gammas = train.draw(10_000, Stream::new(4, "levels"));
    let count = gammas.iter().filter(|g| half_log_snr(**g) < quarter).count();
    assert!((2300..2700).contains(&count), "{count}");
}

#[test]
fn no_image_is_made_up_where_nothing_is_left() {
    let x = image("state", DType::F32);
    let at = [Level::of_gamma(0.0, Input::Gamma)];
    assert!(ProcessConfig::default().clean(&x, &x, &at).is_err());
    let velocity = diffusion(Parametrisation::Velocity {}, Input::Gamma);
    let clean = velocity.clean(&x, &x, &at).unwrap();
    assert!(distance(&clean, &x.neg().unwrap()) < 1e-7);
    // the least γ of EMDiffuse's test schedule is no trouble in f32
    let at = [Level::of_gamma(6.6e-21, Input::Gamma)];
    let clean = ProcessConfig::default().clean(&x, &x, &at).unwrap();
    assert!(values(&clean).iter().all(|v| v.is_finite()));
    let two = [at[0], at[0], Level::CLEAN, Level::CLEAN];
    assert!(ProcessConfig::default().corrupt(&x, &x, &x, &two).is_err());
}

#[test]
fn nonsense_is_refused() {
    for process in [
        diffusion(Parametrisation::Edm { sigma_data: 0.0 }, Input::Gamma),
        ProcessConfig::Bridge { strength: f64::NAN, stochastic: true },
        ProcessConfig::Flow { train: TimesConfig::LogitNormal { mean: 0.0, std: -1.0 } },
    ] {
        assert_eq!(limpid_config::check(&process).len(), 1, "{process:?}");
    }
    let levels = LevelsConfig::LogSnr { low: 0.5, high: 0.5 };
    assert_eq!(limpid_config::check(&levels).len(), 1);
}

#[test]
fn settings_are_read_and_misspellings_refused() {
    let read = |text: &str| serde_json::from_str::<ProcessConfig>(text);
    assert_eq!(read(r#"{"kind": "diffusion"}"#).unwrap(), ProcessConfig::default());
    let text = r#"{"kind": "diffusion", "predict": {"kind": "velocity"}, "input": "log_snr",
        "weighting": {"kind": "min_snr", "most": 5.0}, "train": {"kind": "schedule", "steps": 50}}"#;
    let ProcessConfig::Diffusion { predict, input, train, .. } = read(text).unwrap() else {
        panic!("no diffusion")
    };
    assert_eq!((predict, input), (Parametrisation::Velocity {}, Input::LogSnr));
    let LevelsConfig::Schedule(schedule) = train else { panic!("no schedule") };
    assert_eq!((schedule.steps, schedule.beta), (50, NoiseScheduleConfig::default().beta));
    for text in [
        r#"{"kind": "diffusion", "predicts": {"kind": "velocity"}}"#,
        r#"{"kind": "diffusion", "train": {"kind": "schedule", "step": 50}}"#,
        r#"{"kind": "diffusion", "predict": {"kind": "noise", "sigma_data": 1.0}}"#,
        r#"{"kind": "bridge", "strenght": 0.1}"#,
    ] {
        assert!(read(text).is_err(), "{text}");
    }
    for process in all() {
        assert_eq!(read(&serde_json::to_string(&process).unwrap()).unwrap(), process);
    }
}
