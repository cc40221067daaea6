use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{Device, Var};

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The definition in f64, with candle's matrix products.
fn reference(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Vec<f64> {
    let [q, k, v] = [q, k, v].map(|t| t.to_dtype(DType::F64).unwrap().contiguous().unwrap());
    let mut s = (q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap() * scale).unwrap();
    if let Some(bias) = bias {
        s = s.broadcast_add(&bias.to_dtype(DType::F64).unwrap()).unwrap();
    }
    values(&crate::softmax(&s, s.rank() - 1).unwrap().matmul(&v).unwrap())
}

/// q, k and v with `[batch.., rows, depth]`.
fn operands(batch: &[usize], [l, m]: [usize; 2], [d, e]: [usize; 2]) -> [Tensor; 3] {
    let make = |seed, rows, columns| {
        (test_tensor(seed, &[batch, &[rows, columns]].concat()).unwrap() * 2.0).unwrap()
    };
    [make(1, l, d), make(2, m, d), make(3, m, e)]
}

#[test]
fn results_are_those_of_the_definition() {
    for (batch, rows, depths) in [
        (&[][..], [3, 5], [4, 2]),
        (&[2, 3], [7, 7], [8, 8]),
        (&[1], [150, 131], [5, 9]),
        (&[2], [1, 9000], [3, 1]),
    ] {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 2e-6)] {
            let [q, k, v] = operands(batch, rows, depths).map(|t| t.to_dtype(dtype).unwrap());
            let got = attention(&q, &k, &v, 0.7, None).unwrap();
            assert_eq!(got.dims(), [batch, &[rows[0], depths[1]]].concat());
            for (g, w) in values(&got).iter().zip(reference(&q, &k, &v, 0.7, None)) {
                assert!((g - w).abs() < tolerance, "{batch:?} {rows:?}: {g} for {w}");
            }
        }
    }
}

/// Shapes of a bias that broadcast to `[2, 3, 4, 5]`.
const BIASES: [&[usize]; 7] =
    [&[2, 3, 4, 5], &[3, 4, 5], &[2, 1, 4, 5], &[4, 5], &[5], &[2, 3, 4, 1], &[1, 3, 1, 1]];

#[test]
fn a_bias_broadcasts() {
    let [q, k, v] = operands(&[2, 3], [4, 5], [2, 3]);
    for dims in BIASES {
        let bias = test_tensor(4, dims).unwrap();
        let want = reference(&q, &k, &v, 1.3, Some(&bias));
        let tracked = Var::from_tensor(&bias).unwrap();
        for bias in [&bias, tracked.as_tensor()] {
            let got = values(&attention(&q, &k, &v, 1.3, Some(bias)).unwrap());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-13, "{dims:?}: {g} for {w}");
            }
        }
    }
}

#[test]
#[allow(clippy::print_stdout)] // says that it was skipped
fn pytorch_gives_the_same() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/emdiffuse/blocks.safetensors");
    if !std::path::Path::new(path).exists() {
        println!("skipped: {path} is absent");
        return;
    }
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let qkv = &golden["in.qkv"];
    let (n, width, len) = qkv.dims3().unwrap();
    for heads in [1, 2, 4] {
        let depth = width / 3 / heads;
        // channels are (q k v, head, depth), or (head, q k v, depth) in the older order
        let orders =
            [("new", [n, 3, heads, depth, len], 1), ("legacy", [n, heads, 3, depth, len], 2)];
        for (name, view, dim) in orders {
            let parts = qkv.reshape(&view[..]).unwrap();
            let [q, k, v] = [0, 1, 2].map(|i| {
                let part = parts.narrow(dim, i, 1).unwrap().squeeze(dim).unwrap();
                part.transpose(2, 3).unwrap()
            });
            let y = attention(&q, &k, &v, 1.0 / (depth as f64).sqrt(), None).unwrap();
            let y = y.transpose(2, 3).unwrap();
            let want = &golden[&format!("out.qkv_{name}.{heads}")];
            for (g, w) in values(&y).iter().zip(values(want)) {
                assert!((g - w).abs() < 1e-6, "{name} {heads}: {g} for {w}");
            }
        }
    }
}

#[test]
fn minus_infinity_masks() {
    let [q, k, v] = operands(&[], [4, 6], [3, 2]);
    let mask: Vec<f64> =
        (0..24).map(|i| if i % 6 >= 4 { f64::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (4, 6), &Device::Cpu).unwrap();
    let masked = attention(&q, &k, &v, 1.0, Some(&mask)).unwrap();
    let short = |t: &Tensor| t.narrow(0, 0, 4).unwrap();
    let want = attention(&q, &short(&k), &short(&v), 1.0, None).unwrap();
    for (g, w) in values(&masked).iter().zip(values(&want)) {
        assert!((g - w).abs() < 1e-14);
    }
    let error = worst_error(&[q, k, v], |t| attention(&t[0], &t[1], &t[2], 1.0, Some(&mask)));
    assert!(error.unwrap() < 1e-8);
}

#[test]
fn whole_blocks_of_keys_may_be_masked() {
    // keys are taken 256 at a time: the first block is masked, the second in part
    let [q, k, v] = operands(&[], [5, 700], [3, 2]).map(|t| t.to_dtype(DType::F32).unwrap());
    let mask: Vec<f32> = (0..700).map(|i| if i < 300 { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (1, 700), &Device::Cpu).unwrap();
    let masked = attention(&q, &k, &v, 1.0, Some(&mask)).unwrap();
    let seen = |t: &Tensor| t.narrow(0, 300, 400).unwrap();
    for (g, w) in values(&masked).iter().zip(reference(&q, &seen(&k), &seen(&v), 1.0, None)) {
        assert!((g - w).abs() < 2e-6, "{g} for {w}");
    }
    // where all is masked there is no answer, as in PyTorch
    let all = Tensor::full(f32::NEG_INFINITY, (1, 700), &Device::Cpu).unwrap();
    let none = attention(&q, &k, &v, 1.0, Some(&all)).unwrap();
    assert!(values(&none).iter().all(|x| x.is_nan()));
}

#[test]
fn gradients_match_finite_differences() {
    for (batch, rows, depths) in [(&[][..], [3, 5], [4, 2]), (&[2, 2], [3, 2], [2, 3])] {
        let all = operands(batch, rows, depths);
        let error = worst_error(&all, |t| attention(&t[0], &t[1], &t[2], 0.8, None)).unwrap();
        assert!(error < 1e-8, "{batch:?}: {error}");
    }
    let [q, k, v] = operands(&[2, 3], [4, 5], [2, 3]);
    for dims in BIASES {
        let all = [q.clone(), k.clone(), v.clone(), test_tensor(5, dims).unwrap()];
        let error =
            worst_error(&all, |t| attention(&t[0], &t[1], &t[2], 0.8, Some(&t[3]))).unwrap();
        assert!(error < 1e-8, "{dims:?}: {error}");
    }
}

#[test]
fn gradients_over_several_blocks_of_rows_and_keys() {
    for (dtype, keys, tolerance) in
        [(DType::F64, 70, 1e-11), (DType::F64, 600, 1e-11), (DType::F32, 600, 2e-5)]
    {
        // against candle's own gradients of the composed operation, in f64
        let gradients = |dtype: DType, fused: bool, biased: bool| {
            let bias = test_tensor(6, &[150, keys]).unwrap();
            let [q, k, v] = operands(&[2], [150, keys], [4, 3]);
            let vars =
                [q, k, v, bias].map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap());
            let [q, k, v, bias] = vars.each_ref().map(Var::as_tensor);
            let y = if fused {
                attention(q, k, v, 0.5, biased.then_some(bias)).unwrap()
            } else {
                let s = (q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap() * 0.5).unwrap();
                let s = if biased { s.broadcast_add(bias).unwrap() } else { s };
                crate::softmax(&s, 2).unwrap().matmul(v).unwrap()
            };
            let weights = test_tensor(7, &[2, 150, 3]).unwrap().to_dtype(dtype).unwrap();
            let grads = (y * weights).unwrap().sum_all().unwrap().backward().unwrap();
            vars.map(|t| grads.get(&t).map(values))
        };
        for biased in [false, true] {
            let (got, want) =
                (gradients(dtype, true, biased), gradients(DType::F64, false, biased));
            for (g, w) in got.iter().zip(&want) {
                assert_eq!(g.is_some(), w.is_some());
                for (g, w) in g.iter().flatten().zip(w.iter().flatten()) {
                    assert!((g - w).abs() < tolerance, "{dtype:?} {keys}: {g} for {w}");
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let all = operands(&[3], [200, 300], [8, 8]);
    let bias = test_tensor(8, &[200, 300]).unwrap();
    let run = |threads| {
        on_threads(threads, || {
            let vars = [&all[0], &all[1], &all[2], &bias]
                .map(|t| Var::from_tensor(&t.to_dtype(DType::F32).unwrap()).unwrap());
            let y = attention(&vars[0], &vars[1], &vars[2], 0.4, Some(&vars[3])).unwrap();
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            vars.map(|v| values(grads.get(&v).unwrap()))
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let [q, k, v] = operands(&[2], [3, 4], [5, 6]);
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(attention(&q, &v, &v, 1.0, None)),
        "attention: expected q and k with the same last dimension, got ([2, 3, 5], [2, 4, 6], \
         [2, 4, 6])"
    );
    assert!(message(attention(&q, &k, &q, 1.0, None)).contains("as many rows"));
    let other = test_tensor(9, &[3, 4, 5]).unwrap();
    assert!(message(attention(&q, &other, &v, 1.0, None)).contains("leading"));
    let bias = test_tensor(10, &[3, 5]).unwrap();
    assert_eq!(
        message(attention(&q, &k, &v, 1.0, Some(&bias))),
        "attention: expected a bias that broadcasts to [2, 3, 4], got [3, 5]"
    );
    let empty = k.narrow(1, 0, 0).unwrap();
    assert!(message(attention(&q, &empty, &empty, 1.0, None)).contains("not empty"));
    let none = q.narrow(1, 0, 0).unwrap();
    assert_eq!(attention(&none, &k, &v, 1.0, None).unwrap().dims(), [2, 0, 6]);
}
