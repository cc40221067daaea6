//! Sums, joins and views against candle's own, their gradients against finite differences.

use super::{
    add, add_to_channels, cat, complex_product, linear, matmul, matmul_transposed, narrow, permute,
    reshape, scale, scale_channels, with_waves,
};
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::Tensor;

fn same(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    let list = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (a, b) in list(a).into_iter().zip(list(b)) {
        assert!((a - b).abs() < 1e-13, "{a} {b}");
    }
}

fn tensors(shapes: &[&[usize]]) -> Vec<Tensor> {
    shapes.iter().enumerate().map(|(i, s)| test_tensor(i as u64, s).unwrap()).collect()
}

#[test]
fn joins_are_those_of_candle() {
    for dim in 0..3 {
        let mut shapes = [[2, 3, 4]; 4];
        shapes[1][dim] = 5;
        shapes[3][dim] = 1;
        let t = tensors(&[&shapes[0], &shapes[1], &shapes[2], &shapes[3]]);
        let refs: Vec<&Tensor> = t.iter().collect();
        same(&cat(&refs, dim).unwrap(), &Tensor::cat(&refs, dim).unwrap());
        assert!(worst_error(&t, |t| cat(&t.iter().collect::<Vec<_>>(), dim)).unwrap() < 1e-7);
    }
    let t = tensors(&[&[2, 3], &[2, 4]]);
    assert!(cat(&[&t[0], &t[1]], 0).is_err());
    assert!(cat(&[&t[0]], 2).is_err());
    assert!(cat(&[], 0).is_err());
}

#[test]
fn a_join_longer_than_a_task_is_right() {
    let t = tensors(&[&[2, 3, 9000], &[2, 2, 9000]]);
    let want = Tensor::cat(&[&t[0], &t[1]], 1).unwrap();
    same(&cat(&[&t[0], &t[1]], 1).unwrap(), &want);
}

#[test]
fn linear_maps_are_products() {
    for (n, inputs, outputs) in [(1, 1, 1), (130, 7, 5), (3, 40, 33)] {
        let t = tensors(&[&[n, inputs], &[outputs, inputs], &[outputs]]);
        let want = t[0].matmul(&t[1].t().unwrap()).unwrap().broadcast_add(&t[2]).unwrap();
        same(&linear(&t[0], &t[1], Some(&t[2])).unwrap(), &want);
    }
    let t = tensors(&[&[4, 3], &[5, 3], &[5]]);
    assert!(worst_error(&t, |t| linear(&t[0], &t[1], Some(&t[2]))).unwrap() < 1e-7);
    assert!(worst_error(&t[..2], |t| linear(&t[0], &t[1], None)).unwrap() < 1e-7);
    assert!(linear(&t[0], &t[2], None).is_err());
}

#[test]
fn products_of_matrices_are_those_of_candle() {
    // several at a time, one, and one that is shared among threads
    for (outer, m, k, n) in [(vec![2, 3], 5, 4, 7), (vec![], 1, 9, 1), (vec![1], 130, 70, 150)] {
        let of = |rows: usize, columns: usize| [outer.as_slice(), &[rows, columns]].concat();
        let t = tensors(&[&of(m, k), &of(k, n), &of(n, k)]);
        same(&matmul(&t[0], &t[1]).unwrap(), &t[0].matmul(&t[1]).unwrap());
        let want = t[0].matmul(&t[2].t().unwrap()).unwrap();
        same(&matmul_transposed(&t[0], &t[2]).unwrap(), &want);
        if m < 100 {
            let pair = [t[0].clone(), t[1].clone()];
            assert!(worst_error(&pair, |t| matmul(&t[0], &t[1])).unwrap() < 1e-7);
            let pair = [t[0].clone(), t[2].clone()];
            assert!(worst_error(&pair, |t| matmul_transposed(&t[0], &t[1])).unwrap() < 1e-7);
        }
    }
    let t = tensors(&[&[2, 3, 4], &[2, 3, 4], &[3, 4]]);
    assert!(matmul(&t[0], &t[1]).is_err());
    assert!(matmul_transposed(&t[0], &t[2]).is_err());
    assert!(matmul_transposed(&t[0], &t[1]).is_ok());
}

#[test]
fn shared_products_are_the_same_on_any_number_of_threads() {
    // a left factor whose rows push each other out of the caches, one that does not, and a thin one
    for (m, k, n) in [(200, 512, 260), (200, 300, 260), (700, 64, 9)] {
        let single = |t: &Tensor| t.to_dtype(candle_core::DType::F32).unwrap();
        let (a, b) = (test_tensor(1, &[m, k]).unwrap(), test_tensor(2, &[k, n]).unwrap());
        let bits = |threads| -> Vec<u32> {
            let y = on_threads(threads, || matmul(&single(&a), &single(&b)).unwrap());
            let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            y.into_iter().map(f32::to_bits).collect()
        };
        let one = bits(1);
        assert!(bits(2) == one && bits(5) == one, "{m} {k} {n}");
        let want = a.matmul(&b).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let most = 1e-6 * k as f64;
        assert!(
            one.iter().zip(&want).all(|(y, w)| (f64::from(f32::from_bits(*y)) - w).abs() < most)
        );
    }
}

#[test]
fn complex_products_are_those_of_their_parts() {
    let (n, m, k) = (3, 4, 11);
    let t = tensors(&[&[n, m * k], &[n, m * k], &[n, k, 2]]);
    let matrix = |t: &Tensor| t.reshape((n, m, k)).unwrap();
    let part = |i: usize| t[2].narrow(2, i, 1).unwrap().contiguous().unwrap();
    let product = |a: &Tensor, i: usize| matrix(a).matmul(&part(i)).unwrap();
    let re = (product(&t[0], 0) - product(&t[1], 1)).unwrap();
    let im = (product(&t[0], 1) + product(&t[1], 0)).unwrap();
    let want = Tensor::cat(&[re, im], 2).unwrap();
    same(&complex_product(&t[0], &t[1], &t[2]).unwrap(), &want);
    assert!(worst_error(&t, |t| complex_product(&t[0], &t[1], &t[2])).unwrap() < 1e-7);
    assert!(complex_product(&t[0], &t[2], &t[2]).is_err());
}

#[test]
fn a_complex_matrix_multiplies_the_vectors_that_are_its() {
    let (n, m, k, each) = (3, 4, 11, 2);
    let t = tensors(&[&[n, m * k], &[n, m * k], &[n * each, k, 2]]);
    let repeated = |t: &Tensor| {
        let t = t.unsqueeze(1)?.broadcast_as((n, each, m * k))?.contiguous()?;
        t.reshape((n * each, m * k))
    };
    let (re, im) = (repeated(&t[0]).unwrap(), repeated(&t[1]).unwrap());
    let want = complex_product(&re, &im, &t[2]).unwrap();
    same(&complex_product(&t[0], &t[1], &t[2]).unwrap(), &want);
    assert!(worst_error(&t, |t| complex_product(&t[0], &t[1], &t[2])).unwrap() < 1e-7);
    let fewer = t[2].narrow(0, 0, n * each - 1).unwrap();
    assert!(complex_product(&t[0], &t[1], &fewer).is_err());
    assert!(complex_product(&t[0], &t[1], &t[2].narrow(0, 0, 0).unwrap()).is_err());
}

#[test]
fn linear_maps_have_the_same_bits_on_any_number_of_threads() {
    let f32s = |seed: u64, shape: &[usize]| {
        test_tensor(seed, shape).unwrap().to_dtype(candle_core::DType::F32).unwrap()
    };
    for (n, inputs, outputs) in [(197, 300, 500), (3, 700, 900), (2000, 40, 24)] {
        let (x, w) = (f32s(1, &[n, inputs]), f32s(2, &[outputs, inputs]));
        let run = |threads| {
            let y = on_threads(threads, || linear(&x, &w, None).unwrap());
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!(run(1) == run(2) && run(1) == run(5));
    }
}

#[test]
fn sums_and_views_have_the_right_gradients() {
    let t = tensors(&[&[2, 3, 4, 5], &[2, 3, 4, 5], &[2, 3], &[1, 3]]);
    assert!(worst_error(&t[..2], |t| add(&t[0], &t[1])).unwrap() < 1e-7);
    assert!(worst_error(&t[..1], |t| scale(&t[0], -2.5)).unwrap() < 1e-7);
    let x = &t[0];
    for shift in [&t[2], &t[3]] {
        let f = |t: &[Tensor]| add_to_channels(&t[0], &t[1]);
        assert!(worst_error(&[x.clone(), shift.clone()], f).unwrap() < 1e-7);
        let f = |t: &[Tensor]| scale_channels(&t[0], &t[1]);
        assert!(worst_error(&[x.clone(), shift.clone()], f).unwrap() < 1e-7);
        let rows = shift.dims().iter().copied().chain([1, 1]).collect::<Vec<_>>();
        let want = x.broadcast_mul(&shift.reshape(rows).unwrap()).unwrap();
        same(&scale_channels(x, shift).unwrap(), &want);
    }
    assert!(worst_error(&t[..1], |t| reshape(&t[0], (6, 20))).unwrap() < 1e-7);
    assert!(worst_error(&t[..1], |t| permute(&t[0], &[2, 0, 3, 1])).unwrap() < 1e-7);
    assert!(worst_error(&t[..1], |t| narrow(&t[0], 1, 1, 2)).unwrap() < 1e-7);
    assert!(add(&t[0], &t[2]).is_err());
    assert!(add_to_channels(&t[0], &t[0]).is_err());
    assert!(scale_channels(&t[0], &t[0]).is_err());
}

#[test]
fn waves_follow_what_they_are_made_of() {
    let t = tensors(&[&[5, 3], &[5, 4]]);
    let angles = (&t[1] * 40.0).unwrap();
    let want = Tensor::cat(&[&t[0], &angles.cos().unwrap(), &angles.sin().unwrap()], 1).unwrap();
    same(&with_waves(&t[0], &angles).unwrap(), &want);
    assert!(worst_error(&t, |t| with_waves(&t[0], &t[1])).unwrap() < 1e-7);
    // beyond what polynomials reach
    let far = (&t[1] * 1e6).unwrap();
    let single = [&t[0], &far].map(|t| t.to_dtype(candle_core::DType::F32).unwrap());
    let double = [&single[0], &single[1]].map(|t| t.to_dtype(candle_core::DType::F64).unwrap());
    let (a, b) = (with_waves(&single[0], &single[1]), with_waves(&double[0], &double[1]));
    let a = a.unwrap().to_dtype(candle_core::DType::F64).unwrap();
    let off = (a - b.unwrap()).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(off.to_scalar::<f64>().unwrap() < 1e-7);
    assert!(with_waves(&t[0], &t[1].narrow(0, 0, 4).unwrap()).is_err());
}
