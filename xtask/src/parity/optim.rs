//! Optimizers, schedules, weight averages and loss scaling, beside PyTorch.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use limpid_kernels::autograd;
use limpid_kernels::rng::Stream;
use limpid_nn::ema::{Ema, EmaConfig};
use limpid_nn::optim::{Group, Optimizer, OptimizerConfig, clip_grad_norm, clip_grad_value};
use limpid_nn::scaler::{GradScaler, ScalerConfig};
use limpid_nn::schedule::{Schedule, ScheduleConfig};
use limpid_nn::{Init, Params};
use serde_json::{Value, json};

use super::fixture::{Fixture, Outcome, Tolerance, Worst, absolute, text, values};

const CLOSE: Tolerance = absolute(1e-6);

/// `loss = mean((tanh(x wᵀ) + b - y)²)`, the problem of the fixture.
struct Problem {
    x: Tensor,
    y: Tensor,
    params: Vec<(String, Var)>,
}

impl Problem {
    fn new(fixture: &Fixture) -> Result<Self, String> {
        let var = |name: &str| -> Result<(String, Var), String> {
            let first = fixture.tensor(&format!("{name}0"))?;
            Ok((name.to_owned(), Var::from_tensor(first).map_err(text)?))
        };
        let [x, y] = [fixture.tensor("X")?.clone(), fixture.tensor("Y")?.clone()];
        Ok(Self { x, y, params: vec![var("w")?, var("b")?] })
    }

    /// Takes one step and returns the loss before it.
    fn step(&self, optimizer: &mut Optimizer) -> Result<f64, String> {
        let (w, b) = (&self.params[0].1, &self.params[1].1);
        let forward = || {
            let hidden = self.x.matmul(&w.t()?)?.tanh()?;
            (hidden.broadcast_add(b)? - &self.y)?.sqr()?.mean_all()
        };
        let loss = forward().map_err(text)?;
        let mut store = autograd::backward(&loss).map_err(text)?;
        let mut gradients = BTreeMap::new();
        for (name, var) in &self.params {
            let gradient = store.remove(var).ok_or_else(|| format!("no gradient of `{name}`"))?;
            gradients.insert(name.clone(), gradient);
        }
        optimizer.step(&self.params, &gradients, optimizer.base_lr()).map_err(text)?;
        Ok(values(&loss)?[0])
    }
}

/// Trajectories, losses and states of every optimizer, parameter groups and clipping.
pub(super) fn optimizers(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let scale: f64 = fixture.meta("lr_scale")?;
    let cases: Vec<&str> = fixture.names().filter_map(|key| key.strip_suffix(".loss")).collect();
    for name in cases {
        let problem = Problem::new(fixture)?;
        let mut optimizer = Optimizer::new(&optimizer_of(name, scale)?).map_err(text)?;
        let losses = fixture.values(&format!("{name}.loss"))?;
        let mut got = Vec::new();
        for i in 0..losses.len() {
            got.push(problem.step(&mut optimizer)?);
            follow(&mut worst, fixture, &problem, name, i + 1)?;
        }
        worst.compare(&format!("{name}.loss"), &got, &losses, CLOSE);
        let state = optimizer.state_tensors().map_err(text)?;
        for (key, expected) in fixture.part(&format!("{name}.state.")) {
            match state.get(&key) {
                Some(got) => worst.tensor(&format!("{name}.state.{key}"), got, &expected, CLOSE)?,
                None => worst.require(&format!("{name} has no state `{key}`"), false),
            }
        }
    }

    if fixture.tensors.contains_key("adamw_groups.w_traj") {
        let config = parse::<OptimizerConfig>(
            json!({"kind": "adamw", "lr": 0.02 * scale, "weight_decay": 0.1}),
        )?;
        let bias = Group { names: vec!["b".into()], lr_scale: 0.1, weight_decay: Some(0.0) };
        let mut optimizer = Optimizer::grouped(&config, vec![bias]).map_err(text)?;
        let problem = Problem::new(fixture)?;
        for i in 0..fixture.shape("adamw_groups.w_traj")?[0] {
            problem.step(&mut optimizer)?;
            follow(&mut worst, fixture, &problem, "adamw_groups", i)?;
        }
    }
    clipping(&mut worst, fixture)?;
    worst.done()
}

/// Compares the parameters with row `i` of their trajectories.
fn follow(
    worst: &mut Worst,
    fixture: &Fixture,
    problem: &Problem,
    name: &str,
    i: usize,
) -> Result<(), String> {
    for (p, var) in &problem.params {
        let path = fixture.tensor(&format!("{name}.{p}_traj"))?;
        let expected = path.get(i).map_err(text)?;
        worst.tensor(&format!("{name} {p} after step {i}"), var.as_tensor(), &expected, CLOSE)?;
    }
    Ok(())
}

/// The optimizer called `name` in the fixtures: the table of their README, with numbers in the name
/// for what it gives.
fn optimizer_of(name: &str, scale: f64) -> Result<OptimizerConfig, String> {
    let number = |prefix: &str| name.strip_prefix(prefix)?.parse::<f64>().ok();
    let mut config = match name {
        "sgd" => json!({"kind": "sgd", "lr": 0.1}),
        "sgd_mom" => json!({"kind": "sgd", "lr": 0.05, "momentum": 0.9}),
        "sgd_nesterov_wd" => json!({
            "kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": true, "weight_decay": 1e-2
        }),
        "sgd_mom_dampening" => {
            json!({"kind": "sgd", "lr": 0.05, "momentum": 0.8, "dampening": 0.3})
        }
        "adam" => json!({"kind": "adam", "lr": 0.02}),
        "adam_betas_gan" => json!({"kind": "adam", "lr": 0.02, "betas": [0.5, 0.999]}),
        "adam_wd" => json!({"kind": "adam", "lr": 0.02, "weight_decay": 0.05}),
        "adam_amsgrad" => json!({"kind": "adam", "lr": 0.02, "amsgrad": true}),
        "adamw" => json!({"kind": "adamw", "lr": 0.02}),
        "rmsprop" => json!({"kind": "rmsprop", "lr": 0.01}),
        "rmsprop_centered_mom" => {
            json!({"kind": "rmsprop", "lr": 0.01, "momentum": 0.5, "centered": true})
        }
        "nadam" | "radam" | "adamax" => json!({"kind": name, "lr": 0.02}),
        "adagrad" => json!({"kind": "adagrad", "lr": 0.05}),
        _ => match (number("adam_eps"), number("adamw_wd")) {
            (Some(eps), _) => json!({"kind": "adam", "lr": 0.02, "eps": eps}),
            (_, Some(decay)) => json!({"kind": "adamw", "lr": 0.02, "weight_decay": decay}),
            _ => return Err(format!("the file has an optimizer that is not ours: `{name}`")),
        },
    };
    config["lr"] = json!(config["lr"].as_f64().unwrap_or_default() * scale);
    parse(config)
}

fn parse<T: serde::de::DeserializeOwned>(config: Value) -> Result<T, String> {
    serde_json::from_value(config).map_err(text)
}

/// `clip_norm<max>` and `clip_value<max>` of the gradients `raw_*`.
fn clipping(worst: &mut Worst, fixture: &Fixture) -> Result<(), String> {
    let cases = fixture.names().filter_map(|key| key.strip_suffix(".raw_w"));
    for case in cases {
        let mut gradients = fixture.part(&format!("{case}.raw_"));
        let limit = |what: &str| case.strip_prefix(what)?.parse::<f64>().ok();
        if let Some(max) = limit("clip_norm") {
            let norm = clip_grad_norm(&mut gradients, max).map_err(text)?;
            let expected = fixture.values(&format!("{case}.total_norm"))?;
            worst.compare(&format!("{case}.total_norm"), &[norm], &expected, CLOSE);
        } else if let Some(max) = limit("clip_value") {
            clip_grad_value(&mut gradients, max).map_err(text)?;
        } else {
            return Err(format!("the file has a way to clip that is not ours: `{case}`"));
        }
        for (name, got) in &gradients {
            let key = format!("{case}.{name}");
            worst.tensor(&key, got, fixture.tensor(&key)?, CLOSE)?;
        }
    }
    Ok(())
}

/// The learning rate of every step, for every schedule.
pub(super) fn schedules(fixture: &Fixture) -> Result<Outcome, String> {
    let mut worst = Worst::default();
    let base: f64 = fixture.meta("base_lr")?;
    let warmup: u64 = fixture.meta("warmup")?;
    for name in fixture.names().filter(|name| *name != "plateau.metric") {
        let expected = fixture.values(name)?;
        let total = expected.len() as u64 - 1;
        let config = schedule_of(name, base, warmup, total)?;
        let config: ScheduleConfig = parse(config).map_err(|e| format!("{name}: {e}"))?;
        let mut schedule = Schedule::new(&config, total);
        let scores = match name.starts_with("plateau") {
            // those of the `max` schedule were the negatives, of which more is better
            true => fixture.values("plateau.metric")?,
            false => Vec::new(),
        };
        let mut got = Vec::new();
        for i in 0..expected.len() {
            got.push(base * schedule.factor(i as u64));
            if let Some(score) = scores.get(i) {
                schedule.observe(*score);
            }
        }
        // PyTorch multiplies these up step by step
        let chained = ["step", "multistep", "exponential", "linear", "poly", "cosine", "seq"];
        let relative = if chained.iter().any(|c| name.starts_with(c)) { 1e-9 } else { 1e-12 };
        // a cosine ends at a rounding of zero
        let tolerance = Tolerance { absolute: 1e-16, relative };
        worst.compare(name, &got, &expected, tolerance);
    }
    worst.done()
}

/// The schedule called `name` in the fixtures; numbers in names are parameters, the others are those
/// of the recipe.
fn schedule_of(name: &str, base: f64, warmup: u64, total: u64) -> Result<Value, String> {
    let parts: Vec<&str> = name.split('_').collect();
    let plain = |i: usize| parts.get(i).and_then(|part| part.parse::<f64>().ok());
    let after = |letters: &str| {
        parts.iter().find_map(|part| part.strip_prefix(letters)?.parse::<f64>().ok())
    };
    let missing = || format!("cannot read the parameters of `{name}`");
    let real = |value: Option<f64>| value.ok_or_else(missing);
    let count = |value: Option<f64>| value.map(|value| value as u64).ok_or_else(missing);
    Ok(match parts[0] {
        "constant" => json!({"kind": "constant", "factor": 0.5, "steps": 5}),
        "step" => {
            json!({"kind": "step", "step_size": count(after("s"))?, "gamma": real(after("g"))?})
        }
        "multistep" => {
            let milestones: Vec<u64> = parts.iter().filter_map(|part| part.parse().ok()).collect();
            json!({"kind": "multi_step", "milestones": milestones, "gamma": real(after("g"))?})
        }
        "exponential" => json!({"kind": "exponential", "gamma": real(after("g"))?}),
        "linear" if parts.get(1) == Some(&"warmup") => json!({
            "kind": "linear", "start": real(plain(2))?, "end": real(plain(3))?, "steps": warmup
        }),
        "linear" => json!({
            "kind": "linear", "start": real(plain(1))?, "end": real(plain(3))?,
            "steps": count(plain(4))?
        }),
        "poly" => {
            json!({"kind": "polynomial", "power": real(after("p"))?, "steps": count(after("T"))?})
        }
        "nnunet" => json!({"kind": "polynomial", "power": 0.9}),
        "cosine" if parts.get(1) == Some(&"restarts") => json!({
            "kind": "cosine_restarts", "first": count(plain(3))?, "mult": count(after("mult"))?,
            "floor": 1e-4
        }),
        "cosine" => json!({
            "kind": "cosine", "steps": count(after("T"))?,
            "floor": after("min").unwrap_or(0.0) / base
        }),
        "cyclic" => json!({"kind": "cyclic", "floor": 0.1, "up": 15, "mode": "triangular2"}),
        "gan" => json!({"kind": "linear_decay", "constant": count(after("after"))?}),
        "hf" => json!({"kind": format!("warmup_{}", parts[1]), "warmup": warmup}),
        "lambda" => json!({"kind": "inverse_sqrt", "warmup": warmup}),
        "onecycle" if parts.get(1) == Some(&"cos") => {
            json!({"kind": "one_cycle", "steps": total + 1})
        }
        "onecycle" => json!({
            "kind": "one_cycle", "steps": total + 1, "pct_start": 0.25, "anneal": "linear",
            "three_phase": true
        }),
        "plateau" if parts.get(1) == Some(&"max") => json!({
            "kind": "plateau", "factor": 0.2, "patience": count(after("p"))?,
            "cooldown": count(after("cool"))?, "threshold": 1e-3, "threshold_mode": "abs",
            "floor": 1e-3
        }),
        "plateau" => json!({
            "kind": "plateau", "factor": real(after("f"))?, "patience": count(after("p"))?,
            "threshold": real(after("rel"))?
        }),
        "seq" => json!({
            "kind": "sequence", "milestones": [warmup],
            "parts": [
                {"kind": "linear", "start": 0.01, "end": 1.0, "steps": warmup},
                {"kind": "cosine", "steps": total - warmup}
            ]
        }),
        _ => return Err(format!("the file has a schedule that is not ours: `{name}`")),
    })
}

/// Averages of the path `traj` under every schedule of the decay.
pub(super) fn ema(fixture: &Fixture) -> Result<Outcome, String> {
    let path = fixture.tensor("traj")?;
    let mut worst = Worst::default();
    for name in fixture.names().filter(|name| *name != "traj") {
        let number = |prefix: &str| name.strip_prefix(prefix)?.parse::<f64>().ok();
        let config = match (number("const_"), number("tf_warmup_"), number("diffusers_power_")) {
            (Some(decay), ..) => json!({"kind": "constant", "decay": decay}),
            (_, Some(decay), _) => json!({"kind": "warmup", "decay": decay}),
            (.., Some(power)) => {
                json!({"kind": "power", "power": power, "inv_gamma": 1.0, "decay": 0.9999})
            }
            _ if name == "swa_mean" => json!({"kind": "mean"}),
            _ => return Err(format!("the file has an average that is not ours: `{name}`")),
        };
        let config: EmaConfig = parse(config).map_err(|e| format!("{name}: {e}"))?;
        let params = Params::new();
        let scope = params.scope(Stream::new(0, "parity"), path.dtype(), &Device::Cpu);
        let first = path.get(0).map_err(text)?;
        let weight = scope.param("w", first.dims(), Init::Zeros).map_err(text)?;
        weight.set(&first).map_err(text)?;
        let mut ema = Ema::new(&config, &params).map_err(text)?;
        let expected = fixture.tensor(name)?;
        for i in 0..path.dim(0).map_err(text)? {
            if i > 0 {
                weight.set(&path.get(i).map_err(text)?).map_err(text)?;
                ema.update(&params).map_err(text)?;
            }
            let want = expected.get(i).map_err(text)?;
            worst.tensor(&format!("{name} after step {i}"), &ema.tensors()["w"], &want, CLOSE)?;
        }
    }
    worst.done()
}

/// The loss scale of every step, and rounding to half precision.
pub(super) fn amp(fixture: &Fixture) -> Result<Outcome, String> {
    let exact = absolute(0.0);
    let mut worst = Worst::default();
    let config = ScalerConfig { growth_interval: 4, ..ScalerConfig::default() };
    let mut scaler = GradScaler::new(&config);
    let mut scales = Vec::new();
    for found in fixture.values("found_inf")? {
        scales.push(scaler.scale());
        scaler.update(found != 0.0);
    }
    worst.compare("scale_before_step", &scales, &fixture.values("scale_before_step")?, exact);
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        let rounded = fixture.tensor("f32")?.to_dtype(dtype).map_err(text)?;
        worst.tensor(name, &rounded, fixture.tensor(name)?, exact)?;
    }
    worst.done()
}
