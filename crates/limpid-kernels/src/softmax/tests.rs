use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{DType, Device};
use std::slice::from_ref;

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn every_dimension_is_that_of_the_definition() {
    let x = (test_tensor(1, &[3, 4, 37]).unwrap() * 5.0).unwrap();
    for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
        let x = x.to_dtype(dtype).unwrap();
        for dim in 0..3 {
            let e = x.to_dtype(DType::F64).unwrap().exp().unwrap();
            let want = e.broadcast_div(&e.sum_keepdim(dim).unwrap()).unwrap();
            let y = values(&softmax(&x, dim).unwrap());
            let log = values(&log_softmax(&x, dim).unwrap());
            for ((y, log), want) in y.iter().zip(&log).zip(values(&want)) {
                assert!((y - want).abs() < tolerance * (1.0 + want), "{y} {want}");
                assert!((log - want.ln()).abs() < 10.0 * tolerance, "{log} {}", want.ln());
            }
        }
    }
}

#[test]
fn large_scores_and_masks() {
    let x = Tensor::new(&[[1e4f32, 1e4, f32::NEG_INFINITY], [-1e4, 0.0, -1e4]], &Device::Cpu);
    let x = x.unwrap();
    assert_eq!(values(&softmax(&x, 1).unwrap()), [0.5, 0.5, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(values(&log_softmax(&x, 1).unwrap())[3], -1e4);
}

#[test]
fn gradients_match_finite_differences() {
    let x = test_tensor(2, &[2, 3, 5]).unwrap();
    for dim in 0..3 {
        let error = worst_error(from_ref(&x), |t| softmax(&t[0], dim)).unwrap();
        assert!(error < 1e-8, "{dim}: {error}");
        let error = worst_error(from_ref(&x), |t| log_softmax(&t[0], dim)).unwrap();
        assert!(error < 1e-8, "{dim}: {error}");
        let permuted = |t: &[Tensor]| softmax(&t[0].permute((2, 0, 1))?, dim);
        assert!(worst_error(from_ref(&x), permuted).unwrap() < 1e-8);
    }
}

#[test]
fn the_composed_gradient_is_the_fused_one() {
    let (y, grad) = (test_tensor(3, &[2, 3, 4]).unwrap(), test_tensor(4, &[2, 3, 4]).unwrap());
    for log in [false, true] {
        let op = Softmax { name: "test", dim: 1, log };
        let gradient = |arg: Tensor| {
            let (result, grad) = (y.clone(), grad.clone());
            let at = Backward { args: vec![arg], wanted: vec![true], result: Some(result), grad };
            values(op.backward(&at).unwrap()[0].as_ref().unwrap())
        };
        let tracked = candle_core::Var::from_tensor(&y).unwrap().as_tensor().clone();
        for (a, b) in gradient(y.clone()).iter().zip(gradient(tracked)) {
            assert!((a - b).abs() < 1e-13);
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let x = test_tensor(5, &[40, 30, 50]).unwrap().to_dtype(DType::F32).unwrap();
    let run = |threads| {
        on_threads(threads, || (0..3).map(|d| values(&softmax(&x, d).unwrap())).collect::<Vec<_>>())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let x = test_tensor(6, &[2, 3]).unwrap();
    let e = softmax(&x, 2).unwrap_err().to_string();
    assert_eq!(e, "softmax: `dim` is 2, but x has 2 dimensions");
    let empty = Tensor::zeros((2, 0), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(softmax(&empty, 1).unwrap().dims(), [2, 0]);
}
