//! The tape against candle's graph, and what only the tape can do.

use super::{backward, is_again, recompute, record};
use crate::gradcheck::test_tensor;
use crate::{
    ConvSpec, add, add_to_channels, cat, conv, group_norm, linear, narrow, permute, relu, reshape,
    scale, silu, softmax,
};
use candle_core::{Tensor, Var};
use std::cell::Cell;
use std::rc::Rc;

fn var(seed: u64, shape: &[usize]) -> Var {
    Var::from_tensor(&test_tensor(seed, shape).unwrap()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    worst.to_scalar::<f64>().unwrap()
}

/// A bit of everything: recorded operations, candle's own between them, views, a skip connection.
fn network(x: &Tensor, w: &Tensor, v: &Tensor) -> Tensor {
    let spec = ConvSpec { padding: vec![1, 1], ..ConvSpec::unit(2) };
    let h = conv(x, w, None, &spec).unwrap();
    let h = silu(&group_norm(&h, 2, None, None, 1e-5).unwrap()).unwrap();
    let skip = (&h * 0.5).unwrap();
    let joined = cat(&[&h, &skip, x, &skip], 1).unwrap();
    let part = narrow(&joined, 1, 1, 4).unwrap();
    let sum = add(&part, &h).unwrap();
    let flat = permute(&reshape(&sum, (2, 4, 30)).unwrap(), &[0, 2, 1]).unwrap();
    let rows = reshape(&flat.contiguous().unwrap(), (60, 4)).unwrap();
    let y = linear(&rows, v, None).unwrap();
    let y = softmax(&scale(&y, 3.0).unwrap(), 1).unwrap();
    let y = reshape(&y, (2, 30, 3)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
    let shift = v.mean_keepdim(1).unwrap().t().unwrap();
    relu(&add_to_channels(&y, &shift).unwrap()).unwrap()
}

fn loss(y: &Tensor) -> Tensor {
    let weights = test_tensor(9, y.dims()).unwrap();
    (y.sqr().unwrap() * weights).unwrap().sum_all().unwrap()
}

#[test]
fn the_tape_agrees_with_candle() {
    let (x, w, v) = (var(1, &[2, 4, 5, 6]), var(2, &[4, 4, 3, 3]), var(3, &[3, 4]));
    let by_candle = loss(&network(&x, &w, &v)).backward().unwrap();
    let by_tape = record(|| backward(&loss(&network(&x, &w, &v)))).unwrap();
    for var in [&x, &w, &v] {
        let (a, b) = (by_candle.get(var).unwrap(), by_tape.get(var).unwrap());
        assert!(difference(a, b) < 1e-12);
        assert!(a.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() > 0.0);
    }
}

#[test]
fn a_gradient_that_two_share_is_not_added_to() {
    // both arguments of a sum get the same tensor; x then gets a second gradient
    let (x, y) = (var(1, &[3]), var(2, &[3]));
    let grads = record(|| {
        let (a, b) = (scale(&x, 1.0).unwrap(), scale(&y, 1.0).unwrap());
        let both = add(&a, &b).unwrap();
        backward(&add(&both, &a).unwrap()).unwrap()
    });
    assert_eq!(grads.get(&x).unwrap().to_vec1::<f64>().unwrap(), [2.0; 3]);
    assert_eq!(grads.get(&y).unwrap().to_vec1::<f64>().unwrap(), [1.0; 3]);
}

#[test]
fn losses_with_separate_pasts_are_differentiated_one_after_the_other() {
    let (x, y) = (var(1, &[3]), var(2, &[3]));
    record(|| {
        let (a, b) = (silu(&x).unwrap(), silu(&y).unwrap());
        let shared = scale(&a, 2.0).unwrap();
        assert!(backward(&b).unwrap().get(&y).is_some());
        let grads = backward(&shared).unwrap();
        assert!(grads.get(&x).is_some() && grads.get(&y).is_none());
        let again = backward(&scale(&a, 3.0).unwrap()).unwrap_err().to_string();
        assert!(again.contains("differentiate their sum"), "{again}");
    });
}

#[test]
fn what_was_recorded_is_freed_during_the_backward_pass() {
    let x = var(1, &[4]);
    record(|| {
        let y = silu(&silu(&x).unwrap()).unwrap();
        backward(&y).unwrap();
        // nothing of it is left, so a second pass finds nothing to differentiate
        assert!(backward(&y).is_err());
    });
}

#[test]
fn recomputing_gives_the_same_gradients_and_runs_twice() {
    let (x, w, v) = (var(1, &[2, 4, 5, 6]), var(2, &[4, 4, 3, 3]), var(3, &[3, 4]));
    let plain = record(|| {
        let x = scale(&x, 1.5).unwrap();
        backward(&loss(&network(&x, &w, &v))).unwrap()
    });
    let runs = Rc::new(Cell::new((0, 0)));
    let counted = runs.clone();
    let block = {
        let (w, v) = (w.as_tensor().clone(), v.as_tensor().clone());
        move |inputs: &[Tensor]| {
            let (first, again) = counted.get();
            counted.set(if is_again() { (first, again + 1) } else { (first + 1, again) });
            Ok(network(&inputs[0], &w, &v))
        }
    };
    let twice = record(|| {
        let x = scale(&x, 1.5).unwrap();
        backward(&loss(&recompute(&[&x], block).unwrap())).unwrap()
    });
    assert_eq!(runs.get(), (1, 1));
    for var in [&x, &w, &v] {
        assert_eq!(difference(plain.get(var).unwrap(), twice.get(var).unwrap()), 0.0);
    }
}

#[test]
fn outside_of_a_recorded_step_candle_differentiates() {
    let x = var(1, &[3]);
    let y = silu(&x).unwrap();
    assert!(!y.is_variable());
    assert!(backward(&y).unwrap().get(&x).is_some());
}
