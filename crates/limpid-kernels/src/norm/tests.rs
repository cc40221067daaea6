use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::op::{Backward, Op};
use crate::threads::on_threads;
use candle_core::{Device, Var};
use std::slice::from_ref;

const EPS: f64 = 1e-5;

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// `[rows, n]` normalised row by row, by definition, in f64.
fn naive(x: &Tensor, rows: usize) -> Vec<f64> {
    let x = values(x);
    let n = x.len() / rows;
    let mut y = Vec::new();
    for row in x.chunks(n) {
        let mean = row.iter().sum::<f64>() / n as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        y.extend(row.iter().map(|v| (v - mean) / (var + EPS).sqrt()));
    }
    y
}

fn assert_close(got: &Tensor, want: &[f64], tolerance: f64) {
    let got = values(got);
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < tolerance, "{g} for {w}");
    }
}

#[test]
fn sets_of_elements_are_those_of_the_definition() {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let x = test_tensor(1, &[2, 6, 3, 4])
            .unwrap()
            .affine(3.0, 1.0)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        for groups in [1, 2, 6] {
            let y = group_norm(&x, groups, None, None, EPS).unwrap();
            assert_close(&y, &naive(&x, 2 * groups), tolerance);
        }
        assert_close(&instance_norm(&x, None, None, EPS).unwrap(), &naive(&x, 12), tolerance);
        assert_close(&layer_norm(&x, 1, None, None, EPS).unwrap(), &naive(&x, 36), tolerance);
        assert_close(&layer_norm(&x, 3, None, None, EPS).unwrap(), &naive(&x, 2), tolerance);

        let by_channel = x.transpose(0, 1).unwrap().contiguous().unwrap();
        let (y, mean, var) = batch_norm_train(&x, None, None, EPS).unwrap();
        assert_close(&y.transpose(0, 1).unwrap(), &naive(&by_channel, 6), tolerance);
        let rows: Vec<f64> = values(&by_channel);
        for (c, row) in rows.chunks(24).enumerate() {
            let m = row.iter().sum::<f64>() / 24.0;
            let v = row.iter().map(|x| (x - m).powi(2)).sum::<f64>() / 24.0;
            assert!((values(&mean)[c] - m).abs() < tolerance);
            assert!((values(&var)[c] - v).abs() < 10.0 * tolerance);
        }
        let again = batch_norm_eval(&x, &mean, &var, None, None, EPS).unwrap();
        assert_close(&again, &values(&y), 4.0 * tolerance);
    }
}

#[test]
fn weight_and_bias_apply_per_channel_or_element() {
    let x = test_tensor(2, &[2, 4, 3]).unwrap();
    let (w, b) = (test_tensor(3, &[4]).unwrap(), test_tensor(4, &[4]).unwrap());
    let (wc, bc) = (w.reshape((4, 1)).unwrap(), b.reshape((4, 1)).unwrap());
    let plain = group_norm(&x, 2, None, None, EPS).unwrap();
    let scaled = plain.broadcast_mul(&wc).unwrap();
    let y = group_norm(&x, 2, Some(&w), None, EPS).unwrap();
    assert_close(&y, &values(&scaled), 1e-13);
    let y = group_norm(&x, 2, None, Some(&b), EPS).unwrap();
    assert_close(&y, &values(&plain.broadcast_add(&bc).unwrap()), 1e-13);
    let y = group_norm(&x, 2, Some(&w), Some(&b), EPS).unwrap();
    assert_close(&y, &values(&scaled.broadcast_add(&bc).unwrap()), 1e-13);

    let (w, b) = (test_tensor(5, &[4, 3]).unwrap(), test_tensor(6, &[4, 3]).unwrap());
    let plain = layer_norm(&x, 2, None, None, EPS).unwrap();
    let want = plain.broadcast_mul(&w).unwrap().broadcast_add(&b).unwrap();
    assert_close(&layer_norm(&x, 2, Some(&w), Some(&b), EPS).unwrap(), &values(&want), 1e-13);
}

#[test]
fn a_large_mean_costs_no_accuracy() {
    let noise = test_tensor(7, &[1, 1, 50, 50]).unwrap();
    let x = (&noise + 4096.0).unwrap().to_dtype(DType::F32).unwrap();
    let y = group_norm(&x, 1, None, None, EPS).unwrap();
    // the rounding of the mean itself, in units of the deviation, is what remains
    assert_close(&y, &naive(&x, 1), 1e-3);
    let flat = Tensor::full(4097.3f32, (1, 2, 9), &Device::Cpu).unwrap();
    assert_close(&instance_norm(&flat, None, None, EPS).unwrap(), &[0.0; 18], 0.1);
}

#[test]
fn gradients_match_finite_differences() {
    for dims in [&[2usize, 4, 5][..], &[3, 4, 2, 3], &[2, 4, 2, 1, 2]] {
        let x = test_tensor(8, dims).unwrap();
        let (w, b) = (test_tensor(9, &[4]).unwrap(), test_tensor(10, &[4]).unwrap());
        let all = [x.clone(), w.clone(), b.clone()];
        let check = |name: &str, f: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
            let error = worst_error(&all, f).unwrap();
            assert!(error < 1e-8, "{name} {dims:?}: {error}");
        };
        check("group", &|t| group_norm(&t[0], 2, Some(&t[1]), Some(&t[2]), EPS));
        check("instance", &|t| instance_norm(&t[0], Some(&t[1]), Some(&t[2]), EPS));
        check("batch", &|t| Ok(batch_norm_train(&t[0], Some(&t[1]), Some(&t[2]), EPS)?.0));
        let (mean, var) = (b.clone(), w.sqr().unwrap());
        check("eval", &|t| batch_norm_eval(&t[0], &mean, &var, Some(&t[1]), Some(&t[2]), EPS));

        let bare = worst_error(from_ref(&x), |t| group_norm(&t[0], 4, None, None, EPS)).unwrap();
        assert!(bare < 1e-8, "{bare}");
        let part = worst_error(&[x, b], |t| group_norm(&t[0], 1, None, Some(&t[1]), EPS)).unwrap();
        assert!(part < 1e-8, "{part}");
    }
    let x = test_tensor(11, &[3, 2, 4]).unwrap();
    for n in 1..=3 {
        let (w, b) = (test_tensor(12, &x.dims()[3 - n..]), test_tensor(13, &x.dims()[3 - n..]));
        let all = [x.clone(), w.unwrap(), b.unwrap()];
        let error =
            worst_error(&all, |t| layer_norm(&t[0], n, Some(&t[1]), Some(&t[2]), EPS)).unwrap();
        assert!(error < 1e-8, "layer {n}: {error}");
    }
}

const ACTIVATIONS: [Activation; 12] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.2 },
    Activation::Abs,
    Activation::Elu { alpha: 1.3 },
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Softplus { beta: 1.5, threshold: 20.0 },
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Mish,
];

/// Each normalisation with its function: group, instance, batch in training, batch afterwards.
fn fused(t: &[Tensor], kind: usize, f: Activation) -> Result<Tensor> {
    let (w, b) = (t.get(1), t.get(2));
    match kind {
        0 => group_norm_act(&t[0], 2, w, b, EPS, f),
        1 => instance_norm_act(&t[0], w, b, EPS, f),
        2 => Ok(batch_norm_train_act(&t[0], w, b, EPS, f)?.0),
        _ => {
            let channels = t[0].dims()[1];
            let (mean, var) = (test_tensor(30, &[channels])?, test_tensor(31, &[channels])?.sqr()?);
            batch_norm_eval_act(&t[0], &mean, &var, w, b, EPS, f)
        }
    }
}

#[test]
fn a_function_on_the_way_is_the_function_afterwards() {
    let shapes = [&[2usize, 4, 5][..], &[3, 4, 2, 3], &[2, 4, 2, 1, 2]];
    for (dims, kind) in shapes.into_iter().flat_map(|dims| (0..4).map(move |kind| (dims, kind))) {
        let x = test_tensor(32, dims).unwrap();
        let [n, c] = [dims[0], dims[1]];
        for shape in [&[c][..], &[n, c]] {
            let (w, b) = (test_tensor(33, shape).unwrap(), test_tensor(34, shape).unwrap());
            for f in ACTIVATIONS {
                let vars = [&x, &w, &b].map(|t| Var::from_tensor(t).unwrap());
                let t = vars.each_ref().map(|v| v.as_tensor().clone());
                let once = fused(&t, kind, f).unwrap();
                let twice = f.apply(&fused(&t, kind, Activation::Identity).unwrap()).unwrap();
                assert_close(&once, &values(&twice), 1e-13);
                let (once, twice) = (once.sqr().unwrap(), twice.sqr().unwrap());
                let (once, twice) = (once.backward().unwrap(), twice.backward().unwrap());
                for v in &vars {
                    let (a, b) = (once.get(v).unwrap(), twice.get(v).unwrap());
                    assert_eq!(a.dims(), v.dims());
                    assert_close(a, &values(b), 1e-12);
                }
            }
        }
        // what is per batch item is what the layers of diffusion networks compose
        let (s, t) = (test_tensor(35, &[n, c]).unwrap(), test_tensor(36, &[n, c]).unwrap());
        let plain = fused(from_ref(&x), kind, Activation::Identity).unwrap();
        let mut along = vec![1; dims.len()];
        along[..2].copy_from_slice(&[n, c]);
        let want = plain.broadcast_mul(&s.reshape(along.as_slice()).unwrap()).unwrap();
        let want = want.broadcast_add(&t.reshape(along).unwrap()).unwrap();
        let y = fused(&[x, s, t], kind, Activation::Identity).unwrap();
        assert_close(&y, &values(&want), 1e-13);
    }
}

#[test]
fn fused_gradients_match_finite_differences() {
    let x = test_tensor(37, &[2, 4, 5]).unwrap();
    for (kind, f) in (0..4).flat_map(|kind| ACTIVATIONS.map(|f| (kind, f))) {
        for shape in [&[4usize][..], &[2, 4]] {
            let all = [x.clone(), test_tensor(38, shape).unwrap(), test_tensor(39, shape).unwrap()];
            let error = worst_error(&all, |t| fused(t, kind, f)).unwrap();
            assert!(error < 1e-8, "{f:?} of {kind}, parameters {shape:?}: {error}");
        }
        let error = worst_error(from_ref(&x), |t| fused(t, kind, f)).unwrap();
        assert!(error < 1e-8, "{f:?} of {kind} without parameters: {error}");
    }
}

#[test]
fn statistics_in_single_precision_lose_nothing() {
    // against the same numbers in f64, over planes of several chunks with a tail
    let x = test_tensor(40, &[1, 2, 190, 187]).unwrap().affine(2.0, 30.0).unwrap();
    let x = x.to_dtype(DType::F32).unwrap();
    let y = group_norm_act(&x, 1, None, None, EPS, Activation::Silu).unwrap();
    let x = x.to_dtype(DType::F64).unwrap();
    let want = group_norm_act(&x, 1, None, None, EPS, Activation::Silu).unwrap();
    assert_close(&y, &values(&want), 5e-6);
}

#[test]
fn the_composed_gradient_is_the_fused_one() {
    let x = test_tensor(14, &[2, 4, 3]).unwrap();
    let grad = test_tensor(17, &[2, 4, 3]).unwrap();
    let affine = Affine { sources: 1, weight: true, bias: true };
    // tracked arguments ask for the composed gradient
    let at =
        |args: &[Tensor], tracked: bool| Backward {
            args: args
                .iter()
                .map(|t| {
                    if tracked {
                        Var::from_tensor(t).unwrap().as_tensor().clone()
                    } else {
                        t.clone()
                    }
                })
                .collect(),
            wanted: vec![true; 3],
            result: None,
            grad: grad.clone(),
        };
    let check = |op: &dyn Fn(&Backward) -> Result<Vec<Option<Tensor>>>, args: &[Tensor]| {
        let (fused, composed) = (op(&at(args, false)).unwrap(), op(&at(args, true)).unwrap());
        assert_eq!((fused.len(), composed.len()), (3, 3));
        let tracked = |found: &[Option<Tensor>]| found[0].as_ref().unwrap().track_op();
        assert!(tracked(&composed) && !tracked(&fused));
        for (f, c) in fused.iter().flatten().zip(composed.iter().flatten()) {
            assert_eq!(f.dims(), c.dims());
            assert_close(f, &values(c), 1e-12);
        }
    };
    for (sharing, fixed) in [
        (Sharing::group("test", x.dims(), 2).unwrap(), false),
        (Sharing::batch("test", x.dims()).unwrap(), false),
        (Sharing::batch("test", x.dims()).unwrap(), true),
    ] {
        // the forward pass finds the statistics
        let found = Arc::default();
        let measure = Normalise {
            name: "test",
            sharing,
            statistics: Arc::clone(&found),
            eps: EPS,
            fixed: false,
            affine: Affine::of(None, None),
            activation: Activation::Identity,
        };
        apply(measure, &[&x]).unwrap();
        for (activation, shape) in
            ACTIVATIONS.into_iter().flat_map(|f| [&[4usize][..], &[2, 4]].map(|shape| (f, shape)))
        {
            let statistics = Arc::clone(&found);
            let (name, eps) = ("test", EPS);
            let op = Normalise { name, sharing, statistics, eps, fixed, affine, activation };
            let (w, b) = (test_tensor(15, shape).unwrap(), test_tensor(16, shape).unwrap());
            check(&|at| op.backward(at), &[x.clone(), w, b]);
        }
    }
    let (w, b) = (test_tensor(18, &[3]).unwrap(), test_tensor(19, &[3]).unwrap());
    let found = moments::of_planes(&values(&x), 3).iter().map(|m| m.statistic(EPS)).collect();
    let statistics = OnceLock::from(Statistics::Host(found));
    let op = layer::LayerNorm { dims: vec![3], width: 3, eps: EPS, statistics, affine };
    check(&|at| op.backward(at), &[x.clone(), w, b]);
}

#[test]
fn a_permuted_tensor_gives_the_same_result() {
    let x = test_tensor(20, &[3, 4, 5, 2]).unwrap().permute((3, 1, 0, 2)).unwrap();
    let same = x.contiguous().unwrap();
    let (a, b) = (group_norm(&x, 2, None, None, EPS), group_norm(&same, 2, None, None, EPS));
    assert_eq!(values(&a.unwrap()), values(&b.unwrap()));
    let (a, b) = (layer_norm(&x, 2, None, None, EPS), layer_norm(&same, 2, None, None, EPS));
    assert_eq!(values(&a.unwrap()), values(&b.unwrap()));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let x = test_tensor(21, &[2, 4, 130, 140]).unwrap().to_dtype(DType::F32).unwrap();
    let w = test_tensor(22, &[4]).unwrap().to_dtype(DType::F32).unwrap();
    let v = test_tensor(23, &[140]).unwrap().to_dtype(DType::F32).unwrap();
    let run = |threads| {
        on_threads(threads, || {
            let vars = [&x, &w, &v].map(|t| Var::from_tensor(t).unwrap());
            let (w, silu) = (Some(vars[1].as_tensor()), Activation::Silu);
            let y = group_norm_act(&vars[0], 2, w, w, EPS, silu).unwrap();
            let y = layer_norm(&y, 1, Some(&vars[2]), Some(&vars[2]), EPS).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            vars.map(|v| values(grads.get(&v).unwrap()))
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let x = test_tensor(24, &[2, 4, 3]).unwrap();
    let w = test_tensor(25, &[3]).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(group_norm(&x, 3, None, None, EPS)),
        "group_norm: `groups` is 3, but must divide the 4 channels"
    );
    assert!(message(group_norm(&x, 0, None, None, EPS)).contains("must divide"));
    assert_eq!(
        message(group_norm(&x, 2, Some(&w), None, EPS)),
        "group_norm: expected weight of shape [4], got [3]"
    );
    let single = test_tensor(26, &[4]).unwrap().to_dtype(DType::F32).unwrap();
    assert!(message(group_norm(&x, 2, Some(&single), None, EPS)).contains("all operands of F64"));
    assert!(message(group_norm(&x, 2, None, None, -1.0)).contains("negative"));
    assert!(message(layer_norm(&x, 0, None, None, EPS)).contains("1 to 3"));
    assert!(message(layer_norm(&x, 4, None, None, EPS)).contains("1 to 3"));
    let point = test_tensor(27, &[1, 4, 1]).unwrap();
    assert!(message(instance_norm(&point, None, None, EPS)).contains("more than one pixel"));
    assert!(batch_norm_train(&point, None, None, EPS).is_err());
    let (w, b) = (test_tensor(29, &[2, 4]).unwrap(), test_tensor(29, &[4]).unwrap());
    assert_eq!(
        message(group_norm(&x, 2, Some(&w), Some(&b), EPS)),
        "group_norm: expected bias of shape [2, 4], got [4]"
    );
    let bad = Activation::Softplus { beta: 0.0, threshold: 20.0 };
    assert!(message(group_norm_act(&x, 2, None, None, EPS, bad)).contains("a positive number"));
    let w = test_tensor(25, &[3]).unwrap();
    assert!(batch_norm_eval(&x, &w, &w, None, None, EPS).is_err());
    let flat = test_tensor(28, &[4]).unwrap();
    assert!(message(group_norm(&flat, 1, None, None, EPS)).contains("x [N, C, s..]"));
}
