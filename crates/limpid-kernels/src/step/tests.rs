//! Reference formulas in f64, exactness at the ends, thread counts, non-finite values, refusals.

use super::*;
use crate::gradcheck::test_tensor;
use crate::threads::on_threads;
use candle_core::{Device, Var};

const SHAPE: [usize; 2] = [130, 301]; // more than two chunks, and a rest

fn tensor(seed: u64, dtype: DType) -> Tensor {
    test_tensor(seed, &SHAPE).unwrap().to_dtype(dtype).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Applies `update` to three tensors in f32 and f64 and compares the first with `formula`.
fn check_update(
    update: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<()>,
    formula: impl Fn(f64, f64, f64) -> f64,
) {
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
        let (d, a) = (tensor(1, dtype), tensor(2, dtype));
        let b = tensor(3, dtype).abs().unwrap(); // a second moment is not negative
        let before = values(&d);
        update(&d, &a, &b).unwrap();
        let (a, b) = (values(&a), values(&b));
        for (i, after) in values(&d).into_iter().enumerate() {
            let expected = formula(before[i], a[i], b[i]);
            let error = (after - expected).abs() / (1.0 + expected.abs());
            assert!(error < tolerance, "{dtype:?} element {i}: {after}, expected {expected}");
        }
    }
}

#[test]
fn updates_follow_their_formulas() {
    check_update(|d, _, _| scale_(d, 0.3), |d, _, _| 0.3 * d);
    check_update(|d, a, _| axpy_(d, a, -0.7), |d, a, _| d - 0.7 * a);
    check_update(|d, a, _| axpby_(d, 0.9, a, 0.2), |d, a, _| 0.9 * d + 0.2 * a);
    check_update(|d, a, _| axpby_sq_(d, 1.0, a, -1.0), |d, a, _| d - a * a);
    check_update(|d, a, _| ema_(d, a, 0.9), |d, a, _| 0.9 * d + 0.1 * a);
    check_update(|d, a, _| ema_(d, a, 0.2), |d, a, _| 0.2 * d + 0.8 * a);
    check_update(|d, a, _| ema_sq_(d, a, 0.99), |d, a, _| 0.99 * d + 0.01 * a * a);
    check_update(|d, a, _| max_(d, a), |d, a, _| d.max(a));
    check_update(|d, a, _| max_abs_(d, 0.9, a, 1e-3), |d, a, _| (0.9 * d).max(a.abs() + 1e-3));
    check_update(
        |d, a, b| adam_update_(d, a, b, 0.01, 0.5, 1e-2),
        |d, a, b| d - 0.01 * a / (b.sqrt() / 0.5 + 1e-2),
    );
    check_update(
        |d, a, b| div_update_(d, a, &(b + 1.0)?, 0.01),
        |d, a, b| d - 0.01 * a / (b + 1.0),
    );
}

#[test]
fn adam_in_one_pass_has_the_bits_of_its_parts() {
    let step = AdamStep { betas: [0.9, 0.99], lr: 0.01, bias2_sqrt: 0.7, eps: 1e-6 };
    for dtype in [DType::F32, DType::F64] {
        let state = || [tensor(1, dtype), tensor(2, dtype), tensor(3, dtype).abs().unwrap()];
        let g = tensor(4, dtype);
        let ([a, am, av], [b, bm, bv]) = (state(), state());
        adam_(&a, &am, &av, &g, step).unwrap();
        ema_(&bm, &g, 0.9).unwrap();
        ema_sq_(&bv, &g, 0.99).unwrap();
        adam_update_(&b, &bm, &bv, step.lr, step.bias2_sqrt, step.eps).unwrap();
        for (a, b) in [(&a, &b), (&am, &bm), (&av, &bv)] {
            assert_eq!(values(a), values(b));
        }
        assert!(adam_(&a, &a, &av, &g, step).is_err());
        assert!(adam_(&a, &am, &av, &g.t().unwrap(), step).is_err());
    }
}

#[test]
fn moving_average_is_exact_at_its_ends() {
    for dtype in [DType::F32, DType::F64] {
        let (d, s) = (tensor(1, dtype), tensor(2, dtype));
        let before = values(&d);
        ema_(&d, &s, 1.0).unwrap();
        assert_eq!(values(&d), before);
        ema_(&d, &d.copy().unwrap(), 0.999).unwrap();
        assert_eq!(values(&d), before);
        ema_(&d, &s, 0.0).unwrap();
        assert_eq!(values(&d), values(&s));
    }
}

#[test]
fn a_variable_is_updated_in_place() {
    let var = Var::from_tensor(&tensor(1, DType::F32)).unwrap();
    let before = values(&var);
    axpy_(&var, &tensor(2, DType::F32), 1.0).unwrap();
    assert_ne!(values(&var), before);
}

#[test]
fn sources_may_be_views() {
    let d = Tensor::zeros((301, 130), DType::F32, &Device::Cpu).unwrap();
    let s = tensor(1, DType::F32).t().unwrap();
    axpy_(&d, &s, 1.0).unwrap();
    assert_eq!(values(&d), values(&s));
}

#[test]
fn reductions() {
    for dtype in [DType::F32, DType::F64] {
        let t = tensor(1, dtype);
        let expected: f64 = values(&t).iter().map(|v| v * v).sum();
        let sum = on_threads(1, || sum_squares(&t)).unwrap();
        assert!((sum / expected - 1.0).abs() < 1e-12);
        assert_eq!(sum.to_bits(), on_threads(3, || sum_squares(&t)).unwrap().to_bits());
        assert_eq!(sum_squares(&t.t().unwrap()).unwrap().to_bits() >> 8, sum.to_bits() >> 8);
        assert!(all_finite(&t).unwrap());
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut data = values(&t);
            *data.last_mut().unwrap() = bad;
            let t = Tensor::from_vec(data, &SHAPE, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            assert!(!all_finite(&t).unwrap());
        }
    }
    // large values must not overflow on the way
    let large = Tensor::full(1e30f32, 5, &Device::Cpu).unwrap();
    assert!((sum_squares(&large).unwrap() / 5e60 - 1.0).abs() < 1e-6);
    let half = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
    assert_eq!(sum_squares(&half).unwrap(), 5.0);
    assert!(all_finite(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap());
    assert!(sum_squares(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).is_err());
    assert_eq!(sum_squares(&Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap()).unwrap(), 0.0);
}

#[test]
fn lists_give_what_their_members_do() {
    let (a, b) = (tensor(1, DType::F32), tensor(2, DType::F64));
    let sum = sum_squares(&a).unwrap() + sum_squares(&b).unwrap();
    assert_eq!(sum_squares_all(&[&a, &b]).unwrap().to_bits(), sum.to_bits());
    let bad = (&b / 0.0).unwrap();
    assert_eq!(first_nonfinite(&[&a, &bad, &b, &bad]).unwrap(), Some(1));
    let found = Look::at(&[&a, &b, &bad]).unwrap().read().unwrap();
    assert_eq!(found[1], [sum_squares(&b).unwrap(), 0.0]);
    assert!(found[0][1] == 0.0 && found[2][1] > 0.0);
    let (together, alone) = (a.copy().unwrap(), a.copy().unwrap());
    let mut updates = Updates::default();
    updates.scale_(&together, 0.5).unwrap();
    updates.axpy_(&together, &a, 0.1).unwrap();
    assert!(updates.axpy_(&together, &together, 0.1).is_err());
    updates.run().unwrap();
    scale_(&alone, 0.5).unwrap();
    axpy_(&alone, &a, 0.1).unwrap();
    assert_eq!(values(&together), values(&alone));
}

#[test]
fn a_gate_scales_clips_and_shuts() {
    let (a, b) = (tensor(1, DType::F32), tensor(2, DType::F32));
    let judge = |tensors: &[&Tensor], max_norm, after: Option<&Gate>| {
        let judgement = Judgement { gradients: 2, scale: 4.0, max_norm, after };
        Gate::new(&Look::at(tensors).unwrap(), judgement).unwrap()
    };
    let norm = sum_squares_all(&[&a, &b]).unwrap().sqrt() / 4.0;
    let loss = Tensor::new(1e9f64, &Device::Cpu).unwrap();
    for (max, factor) in [
        (None, 0.25),
        (Some(norm * 2.0), 0.25),
        (Some(norm / 2.0), norm / 2.0 / (norm + 1e-6) / 4.0),
    ] {
        let gate = judge(&[&a, &b, &loss], max, None);
        assert_eq!(gate.read().unwrap(), (factor, false));
        let scaled = gate.scaled(&[&a]).unwrap();
        assert_eq!(values(&scaled[0]), values(&a.affine(factor, 0.0).unwrap()));
    }
    let open = judge(&[&a, &b], None, None);
    let bad = judge(&[&a, &b, &(loss / 0.0).unwrap()], None, Some(&open));
    let after = judge(&[&a, &b], None, Some(&bad));
    for (gate, shut) in [(&open, false), (&bad, true), (&after, true)] {
        let d = a.copy().unwrap();
        let mut updates = Updates::behind(gate).unwrap();
        updates.scale_(&d, 0.5).unwrap();
        updates.axpy_(&d, &b, 0.5).unwrap();
        updates.adam_update_(&d, &b, &b.sqr().unwrap(), 0.1, 1.0, 1e-3).unwrap();
        updates.run().unwrap();
        assert_eq!(values(&d) == values(&a), shut);
    }
}

#[test]
fn not_a_number_is_kept() {
    let tensor = |v: f32| Tensor::new(&[v], &Device::Cpu).unwrap();
    for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
        let d = tensor(a);
        max_(&d, &tensor(b)).unwrap();
        assert!(values(&d)[0].is_nan());
        let d = tensor(a);
        max_abs_(&d, 0.9, &tensor(b), 0.0).unwrap();
        assert!(values(&d)[0].is_nan());
    }
}

#[test]
fn refusals_change_nothing() {
    let d = tensor(1, DType::F32);
    let before = values(&d);
    let message = |r: Result<()>| r.unwrap_err().to_string();
    let text = message(axpy_(&d, &tensor(2, DType::F64), 1.0));
    assert_eq!(text, "axpy_: expected operands of F32 [130, 301], got (F64, [130, 301])");
    let short = d.narrow(0, 0, 3).unwrap().copy().unwrap();
    assert!(message(ema_(&d, &short, 0.9)).contains("got (F32, [3, 301])"));
    assert!(message(scale_(&d.t().unwrap(), 2.0)).contains("contiguous destination"));
    assert!(message(scale_(&d.to_dtype(DType::U32).unwrap(), 2.0)).contains("f32 or f64"));
    assert!(axpy_(&d, &d, 1.0).is_err());
    assert_eq!(values(&d), before);
}
