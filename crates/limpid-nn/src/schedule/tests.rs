use super::*;
use crate::golden::{load, path, values};

/// The schedules of the fixture, by its names; base rate 0.1, 100 steps.
fn cases() -> Vec<(&'static str, ScheduleConfig)> {
    use ScheduleConfig as C;
    let n = Some(100);
    let warmup = C::Linear { start: 0.01, end: 1.0, steps: Some(10) };
    let one_cycle = |pct_start, anneal, three_phase| C::OneCycle {
        pct_start,
        anneal,
        three_phase,
        div_factor: 25.0,
        final_div_factor: 1e4,
        steps: Some(101),
    };
    vec![
        ("constant", C::Constant { factor: 0.5, steps: 5 }),
        ("step_s30_g0.1", C::Step { step_size: 30, gamma: 0.1 }),
        ("multistep_20_60_g0.3", C::MultiStep { milestones: vec![20, 60], gamma: 0.3 }),
        ("exponential_g0.97", C::Exponential { gamma: 0.97 }),
        ("linear_1_to_0.1_50", C::Linear { start: 1.0, end: 0.1, steps: Some(50) }),
        ("linear_warmup_0.01_1", warmup.clone()),
        ("poly_p0.9_T100", C::Polynomial { power: 0.9, steps: n }),
        ("nnunet_poly", C::Polynomial { power: 0.9, steps: None }),
        ("cosine_T100_min1e-4", C::Cosine { floor: 1e-3, steps: None }),
        ("cosine_T50_then_up", C::Cosine { floor: 0.0, steps: Some(50) }),
        ("cosine_restarts_T0_20_mult2", C::CosineRestarts { first: 20, mult: 2, floor: 1e-4 }),
        ("onecycle_cos", one_cycle(0.3, Anneal::Cos, false)),
        ("onecycle_linear_3phase", one_cycle(0.25, Anneal::Linear, true)),
        (
            "cyclic_tri2",
            C::Cyclic { floor: 0.1, up: 15, down: None, mode: CyclicMode::Triangular2, gamma: 1.0 },
        ),
        ("gan_linear_decay_after50", C::LinearDecay { constant: 50, steps: None }),
        ("hf_cosine_warmup", C::WarmupCosine { warmup: 10, cycles: 0.5, steps: n }),
        ("hf_linear_warmup", C::WarmupLinear { warmup: 10, steps: n }),
        ("lambda_inv_sqrt", C::InverseSqrt { warmup: 10 }),
        (
            "seq_linwarm_cosine",
            C::Sequence {
                parts: vec![warmup, C::Cosine { floor: 0.0, steps: None }],
                milestones: vec![10],
            },
        ),
    ]
}

#[test]
fn closed_forms_equal_the_reference() {
    let Some(fixture) = load("engine/schedulers.safetensors") else { return };
    for (name, config) in cases() {
        let schedule = Schedule::new(&config, 100);
        for (i, want) in values(&fixture[name]).into_iter().enumerate() {
            let got = 0.1 * schedule.factor(i as u64);
            assert!((got - want).abs() <= 1e-9 * want.abs() + 1e-16, "{name} {i}: {got} {want}");
        }
    }
    let known = cases().len() + 3; // and two plateaus with their metric
    assert_eq!(fixture.len(), known);
}

#[test]
fn plateaus_equal_the_reference_through_save_and_load() {
    let Some(fixture) = load("engine/schedulers.safetensors") else { return };
    let scores = values(&fixture["plateau.metric"]);
    let rel = Plateau { factor: 0.5, patience: 5, ..Plateau::default() };
    let abs = Plateau {
        factor: 0.2,
        patience: 3,
        threshold: 1e-3,
        threshold_mode: ThresholdMode::Abs,
        cooldown: 2,
        floor: 1e-3,
    };
    for (name, config) in [("plateau_p5_f0.5_rel1e-4", rel), ("plateau_max_p3_cool2_abs", abs)] {
        // the second is given the negative score as one of which more is better
        let config = ScheduleConfig::Plateau(config);
        let mut schedule = Schedule::new(&config, 100);
        for (i, want) in values(&fixture[name]).into_iter().enumerate() {
            let got = 0.1 * schedule.factor(i as u64);
            assert!((got - want).abs() <= 1e-12, "{name} {i}: {got} {want}");
            if let Some(score) = scores.get(i) {
                schedule.observe(*score);
            }
            let text = schedule.save().to_string();
            schedule = Schedule::new(&config, 100);
            schedule.load(&serde_json::from_str(&text).unwrap());
        }
    }
}

#[test]
fn the_cyclegan_policies_are_covered() {
    let Some(path) = path("gan/cg_lr_policies.json") else { return };
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for case in json["cases"].as_array().unwrap() {
        let arg = |name: &str| case["args"][name].as_u64();
        let config = match case["policy"].as_str().unwrap() {
            "linear" if arg("epoch_count") == Some(1) => ScheduleConfig::LinearDecay {
                constant: arg("n_epochs").unwrap(),
                steps: arg("n_epochs_decay"),
            },
            "step" => {
                ScheduleConfig::Step { step_size: arg("lr_decay_iters").unwrap(), gamma: 0.1 }
            }
            "cosine" => ScheduleConfig::Cosine { floor: 0.0, steps: arg("n_epochs") },
            _ => continue,
        };
        let schedule = Schedule::new(&config, 0);
        for (i, want) in case["seq"].as_array().unwrap().iter().enumerate() {
            let got = case["lr"].as_f64().unwrap() * schedule.factor(i as u64);
            assert!((got - want.as_f64().unwrap()).abs() < 1e-15, "{case} {i}: {got}");
        }
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn scores_of_either_sign_and_nan_are_handled() {
    let config = ScheduleConfig::Plateau(Plateau { patience: 1, ..Plateau::default() });
    let run = |scores: &[f64]| {
        let mut schedule = Schedule::new(&config, 10);
        scores.iter().for_each(|s| schedule.observe(*s));
        schedule.factor(0)
    };
    assert_eq!(run(&[-30.0, -31.0, -32.0, -33.0]), 1.0);
    assert_eq!(run(&[-30.0, -30.0, -30.0]), 0.1);
    assert_eq!(run(&[f64::NAN, f64::NAN]), 0.1);
    assert_eq!(run(&[f64::NAN, 1.0, 0.5]), 1.0);
}

#[test]
fn extremes_give_finite_factors() {
    let short = cases().into_iter().map(|(name, c)| (name, c, [0, 1, 2, 3]));
    for (name, config, totals) in short {
        for total in totals {
            let schedule = Schedule::new(&config, total);
            for step in [0, 1, 2, 99, 100, 10_000_000, u64::MAX] {
                assert!(schedule.factor(step).is_finite(), "{name} {total} {step}");
            }
        }
    }
}

#[test]
fn warmup_then_plateau_starts_low_and_follows_the_score() {
    let parts = vec![
        ScheduleConfig::Linear { start: 0.0, end: 1.0, steps: None },
        ScheduleConfig::Plateau(Plateau { patience: 0, ..Plateau::default() }),
    ];
    let config = ScheduleConfig::Sequence { parts, milestones: vec![4] };
    let mut schedule = Schedule::new(&config, 100);
    assert_eq!([0, 2, 4, 50].map(|t| schedule.factor(t)), [0.0, 0.5, 1.0, 1.0]);
    schedule.observe(1.0);
    schedule.observe(1.0);
    assert_eq!(schedule.factor(50), 0.1);
}

#[test]
fn wrong_settings_are_named_and_configurations_round_trip() {
    for (_, config) in cases() {
        assert!(limpid_config::check(&config).is_empty());
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<ScheduleConfig>(json).unwrap(), config);
    }
    let bad: ScheduleConfig = serde_json::from_str(
        r#"{"kind": "sequence", "milestones": [], "parts": [{"kind": "constant"},
            {"kind": "cosine", "floor": 2.0}]}"#,
    )
    .unwrap();
    let findings: Vec<_> = limpid_config::check(&bad).iter().map(ToString::to_string).collect();
    let wanted = [
        "`milestones` must be one less than the parts, got 0 for 2",
        "`parts.1.floor` must be in [0, 1], got 2",
    ];
    assert_eq!(findings, wanted);
    let typo = serde_json::from_str::<ScheduleConfig>(r#"{"kind": "cosine", "flor": 0.1}"#);
    assert!(typo.unwrap_err().to_string().contains("unknown field `flor`"));
}
