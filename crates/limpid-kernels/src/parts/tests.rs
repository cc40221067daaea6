//! Where channels are found, and operations on parts against the same operation on their join.

use super::*;
use crate::autograd::{backward, record};
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use crate::{Activation, ConvSpec, ConvTransposeSpec, cat, conv_cat, conv_transpose_cat};
use crate::{conv, conv_transpose, group_norm_act, group_norm_act_cat};
use candle_core::{DType, Var};

#[test]
fn channels_are_found_in_their_parts() {
    let (a, b) = ((0..12).collect::<Vec<_>>(), (100..118).collect::<Vec<_>>());
    let arrays = [Array { data: &a[..], dims: &[2, 2, 3] }, Array { data: &b, dims: &[2, 3, 3] }];
    let parts = Parts::new(&arrays);
    assert_eq!(parts.channels(), 5);
    assert_eq!(parts.plane(1, 1), [9, 10, 11]);
    assert_eq!(parts.plane(1, 2), [109, 110, 111]);
    assert_eq!(parts.planes(0, 3..5), [103, 104, 105, 106, 107, 108]);
    assert_eq!(parts.pieces(1..4).collect::<Vec<_>>(), [1..2, 2..4]);
    assert!(parts.pieces(2..4).eq(std::iter::once(2..4)));
    // counted through: the fifth channel of the second item
    assert_eq!(parts.at(9 * 3 + 1..10 * 3), [116, 117]);
}

type Operation = Box<dyn Fn(&[&Tensor], &Tensor, &Tensor) -> Result<Tensor> + Sync>;

/// An operation on parts, the same on one tensor, the channels of the parts, the batch with the
/// spatial sizes, and the shapes of weight and bias.
struct Case {
    name: &'static str,
    apart: Operation,
    joined: Operation,
    channels: Vec<usize>,
    image: Vec<usize>,
    weight: Vec<usize>,
    bias: usize,
}

fn norm(channels: &[usize], image: &[usize], groups: usize) -> Case {
    let (f, total) = (Activation::Silu, channels.iter().sum());
    let apart: Operation =
        Box::new(move |x, w, b| group_norm_act_cat(x, groups, Some(w), Some(b), 1e-5, f));
    let joined: Operation =
        Box::new(move |x, w, b| group_norm_act(x[0], groups, Some(w), Some(b), 1e-5, f));
    let (channels, image, weight) = (channels.to_vec(), image.to_vec(), vec![total]);
    Case { name: "group norm", apart, joined, channels, image, weight, bias: total }
}

fn correlation(
    name: &'static str,
    [channels, image, kernel]: [&[usize]; 3],
    features: usize,
    [stride, padding, groups]: [usize; 3],
) -> Case {
    let rank = kernel.len();
    let spec = ConvSpec {
        stride: vec![stride; rank],
        padding: vec![padding; rank],
        groups,
        ..ConvSpec::unit(rank)
    };
    let same = spec.clone();
    let total: usize = channels.iter().sum();
    Case {
        name,
        apart: Box::new(move |x, w, b| conv_cat(x, w, Some(b), &spec)),
        joined: Box::new(move |x, w, b| conv(x[0], w, Some(b), &same)),
        channels: channels.to_vec(),
        image: image.to_vec(),
        weight: [&[features, total / groups], kernel].concat(),
        bias: features,
    }
}

fn transposed(
    name: &'static str,
    [channels, image, kernel]: [&[usize]; 3],
    features: usize,
    [stride, padding]: [usize; 2],
) -> Case {
    let rank = kernel.len();
    let (stride, padding) = (vec![stride; rank], vec![padding; rank]);
    let spec = ConvTransposeSpec { stride, padding, ..ConvTransposeSpec::unit(rank) };
    let same = spec.clone();
    Case {
        name,
        apart: Box::new(move |x, w, b| conv_transpose_cat(x, w, Some(b), &spec)),
        joined: Box::new(move |x, w, b| conv_transpose(x[0], w, Some(b), &same)),
        channels: channels.to_vec(),
        image: image.to_vec(),
        weight: [&[channels.iter().sum(), features], kernel].concat(),
        bias: features,
    }
}

/// Of every rank and every way that convolutions are computed.
fn cases() -> Vec<Case> {
    vec![
        norm(&[4, 6], &[2, 7], 2),
        norm(&[5, 3, 4], &[1, 9, 6], 4),
        norm(&[3, 3], &[2, 3, 4, 5], 3),
        norm(&[1, 1], &[1, 190, 187], 1),
        correlation("1x1", [&[32, 20], &[1, 60, 50], &[1, 1]], 24, [1, 0, 1]),
        correlation("1x1 of small images", [&[16, 16], &[3, 4, 4], &[1, 1]], 8, [1, 0, 1]),
        correlation("1x1 in 1-D", [&[16, 4], &[2, 31], &[1]], 8, [1, 0, 1]),
        correlation("Winograd", [&[32, 16, 20], &[2, 40, 37], &[3, 3]], 40, [1, 1, 1]),
        correlation("Winograd, large filter", [&[96, 96], &[1, 20, 24], &[3, 3]], 160, [1, 1, 1]),
        correlation("Winograd in 3-D", [&[16, 16], &[1, 9, 14, 15], &[3, 3, 3]], 24, [1, 1, 1]),
        correlation("strided", [&[32, 32], &[2, 21, 20], &[4, 4]], 70, [2, 1, 1]),
        correlation("few outputs", [&[16, 5], &[1, 19, 21], &[3, 3]], 2, [1, 1, 1]),
        correlation("few per group", [&[16, 16], &[1, 19, 21], &[3, 3]], 32, [1, 1, 16]),
        correlation("groups across parts", [&[16, 32], &[2, 9, 8], &[3, 3]], 6, [2, 1, 2]),
        correlation("joined after all", [&[3, 5], &[1, 9, 8], &[3, 3]], 6, [1, 1, 1]),
        transposed("transposed", [&[64, 32], &[1, 12, 11], &[4, 4]], 40, [2, 1]),
        transposed("transposed, small", [&[48, 48], &[5, 3, 2], &[2, 2]], 20, [2, 0]),
        transposed("transposed in 3-D", [&[16, 16], &[1, 4, 5, 6], &[2, 2, 2]], 12, [2, 0]),
    ]
}

impl Case {
    /// The operands: parts, weight, bias.
    fn operands(&self, dtype: DType) -> Vec<Tensor> {
        let [batch, spatial @ ..] = self.image.as_slice() else { panic!("no batch") };
        let part = |&c: &usize| [&[*batch, c], spatial].concat();
        let shapes = self.channels.iter().map(part).chain([self.weight.clone(), vec![self.bias]]);
        let tensor = |(i, shape): (usize, Vec<usize>)| {
            test_tensor(i as u64, &shape).unwrap().to_dtype(dtype).unwrap()
        };
        shapes.enumerate().map(tensor).collect()
    }

    fn apart(&self, t: &[Tensor]) -> Result<Tensor> {
        let count = self.channels.len();
        (self.apart)(&t[..count].iter().collect::<Vec<_>>(), &t[count], &t[count + 1])
    }

    fn joined(&self, t: &[Tensor]) -> Result<Tensor> {
        let count = self.channels.len();
        let x = cat(&t[..count].iter().collect::<Vec<_>>(), 1)?;
        (self.joined)(&[&x], &t[count], &t[count + 1])
    }

    /// The result and the gradients of all operands, from the tape.
    fn all(&self, dtype: DType, f: impl Fn(&Self, &[Tensor]) -> Result<Tensor>) -> Vec<Tensor> {
        let vars: Vec<Var> =
            self.operands(dtype).iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let (y, mut grads) = record(|| {
            let y = f(self, &tensors).unwrap();
            let loss = y.sqr().unwrap().sum_all().unwrap();
            (y.detach(), backward(&loss).unwrap())
        });
        std::iter::once(y).chain(vars.iter().map(|v| grads.remove(v).unwrap())).collect()
    }
}

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn parts_give_what_their_join_gives() {
    for (case, (dtype, tolerance)) in
        cases().iter().flat_map(|case| [(case, (DType::F32, 2e-5)), (case, (DType::F64, 1e-12))])
    {
        let (apart, joined) = (case.all(dtype, Case::apart), case.all(dtype, Case::joined));
        for (i, (a, b)) in apart.iter().zip(&joined).enumerate() {
            assert_eq!(a.dims(), b.dims(), "{} {i}", case.name);
            let (a, b) = (values(a), values(b));
            let largest = b.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < tolerance * largest, "{} {i}: {a} for {b}", case.name);
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for case in cases() {
        let run = |threads| {
            on_threads(threads, || {
                case.all(DType::F32, Case::apart).iter().map(values).collect::<Vec<_>>()
            })
        };
        assert!(run(1) == run(3), "{}", case.name);
    }
}

#[test]
fn gradients_match_finite_differences() {
    for case in [
        norm(&[4, 2], &[2, 5], 2),
        norm(&[1, 3], &[1, 3, 4], 2),
        correlation("1x1", [&[16, 2], &[2, 2, 3], &[1, 1]], 2, [1, 0, 1]),
        correlation("3x3", [&[16, 3], &[1, 3, 4], &[3, 3]], 2, [1, 1, 1]),
        transposed("transposed", [&[16, 2], &[1, 2, 3], &[2, 2]], 2, [2, 0]),
    ] {
        let error = worst_error(&case.operands(DType::F64), |t| case.apart(t)).unwrap();
        assert!(error < 1e-8, "{}: {error}", case.name);
    }
}

#[test]
fn only_parts_that_are_tracked_get_a_gradient() {
    let (x, skip) =
        (test_tensor(1, &[1, 16, 4, 4]).unwrap(), test_tensor(2, &[1, 4, 4, 4]).unwrap());
    let (skip, w) = (Var::from_tensor(&skip).unwrap(), test_tensor(3, &[3, 20, 1, 1]).unwrap());
    let grads = record(|| backward(&conv_cat(&[&x, &skip], &w, None, &ConvSpec::unit(2)).unwrap()));
    let grads = grads.unwrap();
    assert!(grads.get(&x).is_none() && grads.get(&w).is_none());
    assert_eq!(grads.get(&skip).unwrap().dims(), [1, 4, 4, 4]);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (x, y) = (test_tensor(1, &[1, 16, 4, 4]).unwrap(), test_tensor(2, &[1, 4, 4, 5]).unwrap());
    let w = test_tensor(3, &[3, 20, 1, 1]).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    let spec = ConvSpec::unit(2);
    assert!(message(conv_cat(&[&x, &y], &w, None, &spec)).contains("but for dimension 1"));
    assert!(message(conv_cat(&[], &w, None, &spec)).contains("no tensor to join"));
    assert!(message(conv_cat(&[&x, &x], &w, None, &spec)).contains("x with 20 channels"));
    let norm = group_norm_act_cat(&[&x, &y], 2, None, None, 1e-5, Activation::Silu);
    assert!(message(norm).starts_with("group_norm: "));
}
