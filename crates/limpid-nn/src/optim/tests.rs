use super::*;
use crate::golden::{difference, load};
use crate::tensors;

type Map = BTreeMap<String, Tensor>;

/// The optimizers of the fixture, by its names.
fn cases() -> Vec<(&'static str, OptimizerConfig)> {
    let sgd = |c: Sgd| OptimizerConfig::Sgd(c);
    let momentum = Sgd { lr: 0.05, momentum: 0.9, ..Sgd::default() };
    let adam = Adam { lr: 0.02, ..Adam::default() };
    let adamw = AdamW { lr: 0.02, ..AdamW::default() };
    let rms = RmsProp { momentum: 0.5, centered: true, ..RmsProp::default() };
    let a = OptimizerConfig::Adam;
    vec![
        ("sgd", sgd(Sgd { lr: 0.1, ..Sgd::default() })),
        ("sgd_mom", sgd(momentum.clone())),
        ("sgd_nesterov_wd", sgd(Sgd { nesterov: true, weight_decay: 1e-2, ..momentum.clone() })),
        ("sgd_mom_dampening", sgd(Sgd { momentum: 0.8, dampening: 0.3, ..momentum })),
        ("adam", a(adam.clone())),
        ("adam_betas_gan", a(Adam { betas: [0.5, 0.999], ..adam.clone() })),
        ("adam_wd", a(Adam { weight_decay: 0.05, ..adam.clone() })),
        ("adam_amsgrad", a(Adam { amsgrad: true, ..adam.clone() })),
        ("adam_eps1e-4", a(Adam { eps: 1e-4, ..adam })),
        ("adamw", OptimizerConfig::Adamw(adamw.clone())),
        ("adamw_wd0.1", OptimizerConfig::Adamw(AdamW { weight_decay: 0.1, ..adamw })),
        ("rmsprop", OptimizerConfig::Rmsprop(RmsProp::default())),
        ("rmsprop_centered_mom", OptimizerConfig::Rmsprop(rms)),
        ("nadam", OptimizerConfig::Nadam(NAdam { lr: 0.02, ..NAdam::default() })),
        ("radam", OptimizerConfig::Radam(RAdam { lr: 0.02, ..RAdam::default() })),
        ("adamax", OptimizerConfig::Adamax(Adamax { lr: 0.02, ..Adamax::default() })),
        ("adagrad", OptimizerConfig::Adagrad(Adagrad { lr: 0.05, ..Adagrad::default() })),
    ]
}

/// `loss = mean((tanh(x wᵀ) + b - y)²)` of the fixture.
struct Problem {
    x: Tensor,
    y: Tensor,
    params: Vec<(String, Var)>,
}

impl Problem {
    fn new(fixture: &Map, dtype: DType) -> Self {
        let t = |name: &str| fixture[name].to_dtype(dtype).unwrap();
        let var =
            |name: &str| (name.to_owned(), Var::from_tensor(&t(&format!("{name}0"))).unwrap());
        Self { x: t("X"), y: t("Y"), params: vec![var("w"), var("b")] }
    }

    fn gradients(&self) -> (f64, Map) {
        let (w, b) = (&self.params[0].1, &self.params[1].1);
        let h = self.x.matmul(&w.t().unwrap()).unwrap().tanh().unwrap();
        let d = (h.broadcast_add(b).unwrap() - &self.y).unwrap();
        let loss = d.sqr().unwrap().mean_all().unwrap();
        let mut store = loss.backward().unwrap();
        let gradients = self.params.iter().map(|(n, v)| (n.clone(), store.remove(v).unwrap()));
        (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), gradients.collect())
    }

    fn step(&self, optimizer: &mut Optimizer) -> f64 {
        let (loss, gradients) = self.gradients();
        optimizer.step(&self.params, &gradients, optimizer.base_lr()).unwrap();
        loss
    }

    fn steps(&self, count: usize, optimizer: &mut Optimizer) {
        for _ in 0..count {
            self.step(optimizer);
        }
    }

    fn copies(&self) -> Map {
        let copy = |(n, v): &(String, Var)| (n.clone(), v.as_detached_tensor().copy().unwrap());
        self.params.iter().map(copy).collect()
    }
}

#[test]
fn trajectories_losses_and_states_equal_the_reference() {
    let Some(fixture) = load("engine/optimizers.safetensors") else { return };
    for dtype in [DType::F32, DType::F64] {
        for (name, config) in cases() {
            let problem = Problem::new(&fixture, dtype);
            let mut optimizer = Optimizer::new(&config).unwrap();
            for i in 0..10 {
                let loss = problem.step(&mut optimizer);
                let want = fixture[&format!("{name}.loss")].get(i).unwrap();
                assert!(
                    (loss - f64::from(want.to_scalar::<f32>().unwrap())).abs() < 1e-6,
                    "{name}"
                );
                for (p, var) in &problem.params {
                    let want = fixture[&format!("{name}.{p}_traj")].get(i + 1).unwrap();
                    let error = difference(var, &want);
                    assert!(error < 1e-6, "{name} {dtype:?} step {i} of {p}: off by {error:e}");
                }
            }
            let state = optimizer.state_tensors().unwrap();
            let prefix = format!("{name}.state.");
            for (key, want) in fixture.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                let error = difference(&state[&key[prefix.len()..]], want);
                assert!(error < 1e-6, "{key}: off by {error:e}");
            }
        }
    }
}

#[test]
fn groups_have_their_own_rate_and_decay() {
    let Some(fixture) = load("engine/optimizers.safetensors") else { return };
    let problem = Problem::new(&fixture, DType::F32);
    let config = AdamW { lr: 0.02, weight_decay: 0.1, ..AdamW::default() };
    let bias = Group { names: vec!["b".into()], lr_scale: 0.1, weight_decay: Some(0.0) };
    let mut optimizer = Optimizer::grouped(&OptimizerConfig::Adamw(config), vec![bias]).unwrap();
    for i in 0..10 {
        problem.step(&mut optimizer);
        for (p, var) in &problem.params {
            let want = fixture[&format!("adamw_groups.{p}_traj")].get(i).unwrap();
            assert!(difference(var, &want) < 1e-6, "step {i} of {p}");
        }
    }
}

#[test]
fn clipping_equals_the_reference() {
    let Some(fixture) = load("engine/optimizers.safetensors") else { return };
    let get = |case: &str| -> Map {
        let one = |p: &str| {
            (p.trim_start_matches("raw_").to_owned(), fixture[&format!("{case}.{p}")].clone())
        };
        let raw = ["raw_w", "raw_b"].map(one);
        raw.into()
    };
    let mut gradients = get("clip_norm0.1");
    let norm = clip_grad_norm(&mut gradients, 0.1).unwrap();
    let want = fixture["clip_norm0.1.total_norm"].to_scalar::<f32>().unwrap();
    assert!((norm - f64::from(want)).abs() < 1e-6);
    let mut cut = get("clip_value0.02");
    clip_grad_value(&mut cut, 0.02).unwrap();
    for p in ["w", "b"] {
        assert!(difference(&gradients[p], &fixture[&format!("clip_norm0.1.{p}")]) < 1e-6);
        assert!(difference(&cut[p], &fixture[&format!("clip_value0.02.{p}")]) < 1e-6);
    }
    let before = get("clip_norm0.1");
    let mut small = before.clone();
    assert_eq!(clip_grad_norm(&mut small, 10.0).unwrap(), norm);
    assert_eq!(difference(&small["w"], &before["w"]), 0.0);
}

fn toy(dtype: DType) -> Problem {
    let t = |seed, shape: &[usize]| limpid_kernels::gradcheck::test_tensor(seed, shape).unwrap();
    let fixture =
        [("X", t(1, &[16, 3])), ("Y", t(2, &[16, 4])), ("w0", t(3, &[4, 3])), ("b0", t(4, &[4]))];
    Problem::new(&fixture.map(|(n, t)| (n.to_owned(), t)).into(), dtype)
}

#[test]
fn a_run_that_is_saved_and_resumed_has_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    for dtype in [DType::F32, DType::F64] {
        for (name, config) in cases() {
            let (whole, split) = (toy(dtype), toy(dtype));
            let mut through = Optimizer::new(&config).unwrap();
            whole.steps(7, &mut through);

            let mut first = Optimizer::new(&config).unwrap();
            split.steps(3, &mut first);
            tensors::save(&path, &first.state_tensors().unwrap(), &BTreeMap::new()).unwrap();
            let mut second = Optimizer::new(&config).unwrap();
            second.load_state(&tensors::load(&path).unwrap().0).unwrap();
            split.steps(4, &mut second);
            for (key, want) in whole.copies() {
                assert_eq!(difference(&split.copies()[&key], &want), 0.0, "{name} {key}");
            }
            let (a, b) = (through.state_tensors().unwrap(), second.state_tensors().unwrap());
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            assert!(a.iter().all(|(key, t)| difference(t, &b[key]) == 0.0), "{name}");
        }
    }
}

#[test]
fn parameters_without_gradient_stay() {
    let problem = toy(DType::F32);
    let before = problem.copies();
    let mut optimizer = Optimizer::new(&OptimizerConfig::default()).unwrap();
    let (_, mut gradients) = problem.gradients();
    gradients.remove("b");
    optimizer.step(&problem.params, &gradients, 0.1).unwrap();
    assert_eq!(difference(&problem.copies()["b"], &before["b"]), 0.0);
    assert!(difference(&problem.copies()["w"], &before["w"]) > 0.0);
    assert!(optimizer.state_tensors().unwrap().keys().all(|key| key.starts_with("w.")));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let problem = toy(DType::F32);
    let before = problem.copies();
    let mut optimizer = Optimizer::new(&OptimizerConfig::default()).unwrap();
    let (_, good) = problem.gradients();

    let mut wrong = good.clone();
    wrong.insert("w".into(), good["b"].clone());
    let error = optimizer.step(&problem.params, &wrong, 0.1).unwrap_err().to_string();
    assert_eq!(error, "optimizer step: expected [4, 3] for the gradient of `w`, got [4]");
    let mut unknown = good.clone();
    unknown.insert("v".into(), good["b"].clone());
    let error = optimizer.step(&problem.params, &unknown, 0.1).unwrap_err().to_string();
    assert!(error.contains("`v`, which is no parameter"), "{error}");

    optimizer.step(&problem.params, &good, 0.0).unwrap();
    let mut state = optimizer.state_tensors().unwrap();
    state.insert("w.exp_avg".into(), good["b"].clone());
    optimizer.load_state(&state).unwrap();
    let error = optimizer.step(&problem.params, &good, 0.1).unwrap_err().to_string();
    assert!(error.contains("the state `exp_avg` of `w`"), "{error}");
    assert!(before.iter().all(|(n, t)| difference(t, &problem.copies()[n]) == 0.0));

    state.remove("w.exp_avg_sq");
    let error = optimizer.load_state(&state).unwrap_err().to_string();
    assert_eq!(error, "load optimizer state: `w.exp_avg_sq` is missing");
    let mut sgd = Optimizer::new(&OptimizerConfig::Sgd(Sgd::default())).unwrap();
    assert!(sgd.load_state(&state).unwrap_err().to_string().contains("of another optimizer"));
}

#[test]
fn settings_out_of_range_are_refused() {
    let message = |config| Optimizer::new(&config).unwrap_err().to_string();
    let adam = OptimizerConfig::Adam(Adam { betas: [0.9, 1.0], ..Adam::default() });
    assert_eq!(message(adam), "optimizer: `betas.1` must be in [0, 1), got 1");
    let sgd = OptimizerConfig::Sgd(Sgd { nesterov: true, ..Sgd::default() });
    assert!(message(sgd).contains("`nesterov` needs momentum without dampening"));
    let negative = OptimizerConfig::Sgd(Sgd { lr: -1.0, ..Sgd::default() });
    assert!(message(negative).contains("`lr` must be"));
    let group = |name: &str| Group { names: vec![name.into()], lr_scale: 1.0, weight_decay: None };
    let twice = Optimizer::grouped(&OptimizerConfig::default(), vec![group("a"), group("a")]);
    assert!(twice.unwrap_err().to_string().contains("`a` is in two parameter groups"));
    let problem = toy(DType::F32);
    let mut typo = Optimizer::grouped(&OptimizerConfig::default(), vec![group("bias")]).unwrap();
    let error = typo.step(&problem.params, &problem.gradients().1, 0.1).unwrap_err();
    assert!(error.to_string().contains("names `bias`, which is no parameter"), "{error}");
}

#[test]
fn a_step_behind_a_shut_gate_is_as_none() {
    use limpid_kernels::step::{Gate, Judgement, Look};
    let judgement = Judgement { gradients: 1, scale: 1.0, max_norm: None, after: None };
    for (name, config) in cases() {
        let (one, other) = (toy(DType::F32), toy(DType::F32));
        let mut optimizers = [(); 2].map(|()| Optimizer::new(&config).unwrap());
        for step in 0..4 {
            let gradients = one.gradients().1;
            optimizers[0].step(&one.params, &gradients, 0.1).unwrap();
            for bad in [true, step % 2 == 0, false] {
                let mut seen = other.gradients().1;
                if bad {
                    seen.values_mut().for_each(|g| *g = (&*g / 0.0).unwrap());
                }
                let gate = Gate::new(&Look::at(&[&seen["w"]]).unwrap(), judgement).unwrap();
                optimizers[1].step_behind(&gate, &other.params, &seen, 0.1).unwrap();
                if bad {
                    optimizers[1].take_back();
                }
            }
            if step % 2 == 1 {
                // the second of three was no bad one
                let gradients = one.gradients().1;
                optimizers[0].step(&one.params, &gradients, 0.1).unwrap();
            }
        }
        for ((_, a), (_, b)) in one.params.iter().zip(&other.params) {
            assert_eq!(difference(a.as_tensor(), b.as_tensor()), 0.0, "{name}");
        }
        let [a, b] = optimizers.map(|o| o.state_tensors().unwrap());
        assert!(a.keys().eq(b.keys()), "{name}");
    }
}

#[test]
fn what_is_not_finite_is_not_clipped() {
    let (_, mut gradients) = toy(DType::F32).gradients();
    gradients.insert("w".into(), (&gradients["w"] / 0.0).unwrap());
    let before = gradients["b"].clone();
    assert!(!clip_grad_norm(&mut gradients, 1.0).unwrap().is_finite());
    assert_eq!(difference(&gradients["b"], &before), 0.0);
}

#[test]
fn configurations_round_trip_and_reject_unknown_keys() {
    for (_, config) in cases() {
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<OptimizerConfig>(json).unwrap(), config);
    }
    let adamw: OptimizerConfig = serde_json::from_str(r#"{"kind": "adamw", "lr": 5e-4}"#).unwrap();
    assert_eq!(adamw, OptimizerConfig::Adamw(AdamW { lr: 5e-4, ..AdamW::default() }));
    let typo = serde_json::from_str::<OptimizerConfig>(r#"{"kind": "adamw", "lrr": 5e-4}"#);
    assert!(typo.unwrap_err().to_string().contains("unknown field `lrr`"));
}
