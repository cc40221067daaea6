//! What EMDiffuse measures and how it sets its learning rate.

use limpid_losses::losses;
use limpid_losses::metrics::{Image, inception_score, mae};
use limpid_losses::stats::{
    Calibration, bentkus_log_tail, calibrate, hoeffding_log_tail, miss_rate, risk_upper_bound,
    widen,
};
use limpid_models::diffusion::{BetaConfig, NoiseSchedule, NoiseScheduleConfig};
use limpid_nn::schedule::{Schedule, ScheduleConfig};
use std::collections::BTreeMap;

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, relative, text};

/// A noise schedule, as files describe it.
#[derive(serde::Deserialize)]
pub(super) struct Entry {
    schedule: String,
    pub(super) n_timestep: usize,
    #[serde(default = "least_beta")]
    linear_start: f64,
    #[serde(default = "most_beta")]
    linear_end: f64,
}

fn least_beta() -> f64 {
    1e-6
}

fn most_beta() -> f64 {
    1e-2
}

impl Entry {
    pub(super) fn config(&self) -> Result<NoiseScheduleConfig, String> {
        let (first, last) = (self.linear_start, self.linear_end);
        let beta = match self.schedule.as_str() {
            "linear" => BetaConfig::Linear { first, last },
            "quad" => BetaConfig::Quadratic { first, last },
            "const" => BetaConfig::Constant { value: last },
            "jsd" => BetaConfig::Jsd {},
            "cosine" => BetaConfig::Cosine { offset: 8e-3 },
            other => {
                let percent = other.strip_prefix("warmup").and_then(|p| p.parse::<f64>().ok());
                let percent = percent.ok_or_else(|| format!("no schedule is called `{other}`"))?;
                BetaConfig::Warmup { first, last, part: percent / 100.0 }
            }
        };
        Ok(NoiseScheduleConfig { steps: self.n_timestep, beta })
    }
}

/// `schedules`: the noise of each step and what follows from it.
pub(super) fn noise_schedules(fixture: &Fixture) -> Result<Outcome, String> {
    #[derive(serde::Deserialize)]
    struct Config {
        entries: BTreeMap<String, Entry>,
    }
    let mut worst = Worst::default();
    for (name, entry) in fixture.json::<Config>("config")?.entries {
        let schedule = NoiseSchedule::new(&entry.config()?);
        let values: [(&str, &[f64]); 7] = [
            ("betas", &schedule.betas),
            ("gammas", &schedule.gammas),
            ("sqrt_recip_gammas", &schedule.sqrt_recip_gammas),
            ("sqrt_recipm1_gammas", &schedule.sqrt_recipm1_gammas),
            ("posterior_mean_coef1", &schedule.posterior_mean_coef1),
            ("posterior_mean_coef2", &schedule.posterior_mean_coef2),
            ("posterior_log_variance_clipped", &schedule.posterior_log_variance_clipped),
        ];
        for (part, ours) in values {
            let what = format!("{name}.{part}");
            worst.compare(&what, ours, &fixture.values(&what)?, relative(1e-6));
        }
    }
    worst.done()
}

/// `metrics` of EMDiffuse: error, inception score of given probabilities, calibration of intervals.
pub(super) fn metrics(fixture: &Fixture) -> Result<Outcome, String> {
    if !fixture.tensors.contains_key("out.mae") {
        return Ok(Outcome::Skipped("no `out.mae` in the file".into()));
    }
    let mut worst = Worst::default();
    let (a, b) = (fixture.tensor("in.mae.a")?, fixture.tensor("in.mae.b")?);
    let expected = fixture.tensor("out.mae")?;
    let single = relative(1e-6);
    worst.tensor("mae", &losses::l1(a, b).map_err(text)?, expected, single)?;
    let (pred, truth) = (fixture.values("in.mae.a")?, fixture.values("in.mae.b")?);
    let image = |values| Image::new(values, a.dims()).map_err(text);
    let score = mae(&image(pred.as_slice())?, &image(truth.as_slice())?).map_err(text)?;
    worst.compare("mae of images", &[score], &fixture.values("out.mae")?, single);

    let probabilities = fixture.values("in.inception.probs")?;
    let classes = fixture.shape("in.inception.probs")?[1];
    for (name, _) in fixture.part("out.inception.") {
        let splits = name.strip_prefix("splits").and_then(|n| n.parse().ok());
        let splits = splits.ok_or_else(|| format!("no number of splits in `{name}`"))?;
        let (mean, std) = inception_score(&probabilities, classes, splits).map_err(text)?;
        let expected = fixture.values(&format!("out.inception.{name}"))?;
        // the probabilities were rounded to f32: their sums are off by 5e-8
        let close = Tolerance { absolute: 1e-7, relative: 1e-7 };
        worst.compare(&format!("inception score, {name}"), &[mean, std], &expected, close);
    }

    let table = fixture.values("calib.HB_table")?;
    for row in table.as_chunks::<6>().0 {
        let [risk, n, delta, bound, hoeffding, bentkus] = *row;
        let got = [
            risk_upper_bound(risk, n, delta),
            hoeffding_log_tail(0.1, risk, n),
            bentkus_log_tail(0.1, risk, n),
        ];
        let what = format!("bound of {risk} in {n} at {delta}");
        let close = Tolerance { absolute: 1e-10, relative: 1e-9 };
        worst.compare(&what, &got, &[bound, hoeffding, bentkus], close);
    }
    let single = |name: &str| -> Result<Vec<f32>, String> {
        Ok(fixture.values(name)?.into_iter().map(|v| v as f32).collect())
    };
    let settings = Calibration { reference_quirks: true, ..Calibration::default() };
    for case in (0..).take_while(|i| fixture.tensors.contains_key(&format!("in.calib.{i}.gt"))) {
        let input = |name: &str| single(&format!("in.calib.{case}.{name}"));
        let (lower, upper, truth) = (input("lower")?, input("upper")?, input("gt")?);
        let risk = miss_rate(&lower, &upper, &truth).map_err(text)?;
        let factor = calibrate(&lower, &upper, &truth, &settings).map_err(text)?;
        let (lower, upper) = widen(&lower, &upper, factor);
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        for (name, got) in [
            ("risk", vec![risk]),
            ("lambda_hat", vec![f64::from(factor)]),
            ("lower", wide(lower)),
            ("upper", wide(upper)),
        ] {
            let key = format!("out.calib.{case}.{name}");
            // the factors are 4e-4 apart: this is the same one, up to a rounding
            worst.compare(&key, &got, &fixture.values(&key)?, absolute(2.5e-7));
        }
    }
    worst.done()
}

/// `lr_warmup`: the rate of each epoch, from 0 up on a line.
pub(super) fn warmup(fixture: &Fixture) -> Result<Outcome, String> {
    let config: serde_json::Value = fixture.json("config")?;
    let kind = config["kind"].as_str().unwrap_or_default();
    let after = |what: &str| -> Result<f64, String> {
        let missing = || format!("the metadata does not say `{what}`: {kind}");
        let (_, rest) = kind.split_once(what).ok_or_else(missing)?;
        let end = rest.find([',', ')', ':', ' ']).unwrap_or(rest.len());
        rest[..end].parse().map_err(|_| missing())
    };
    let (epochs, base) = (after("total_epoch=")?, after("base lr ")?);
    let expected = fixture.values("out.lr")?;
    let linear = ScheduleConfig::Linear { start: 0.0, end: 1.0, steps: Some(epochs as u64) };
    let schedule = Schedule::new(&linear, expected.len() as u64);
    let got: Vec<f64> = (0..expected.len() as u64).map(|e| base * schedule.factor(e)).collect();
    let mut worst = Worst::default();
    worst.compare("lr", &got, &expected, Tolerance { absolute: 1e-20, relative: 1e-12 });
    worst.done()
}
