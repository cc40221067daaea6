use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{DType, Device};

/// Three inputs to four outputs; one row is empty, one has three taps.
fn example() -> AxisMap {
    let rows: [&[(usize, f64)]; 4] =
        [&[(2, 1.0)], &[], &[(0, 0.5), (1, -2.0), (2, 0.25)], &[(1, 1.5), (0, 2.0)]];
    AxisMap::new(3, 4, |i| rows[i].iter().copied())
}

fn identity(n: usize) -> AxisMap {
    AxisMap::new(n, n, |i| [(i, 1.0)])
}

/// The maps as dense matrices, applied by definition to `[outer, a, b]`.
fn naive(x: &[f64], [outer, a, b]: [usize; 3], maps: &[AxisMap; 2], rest: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for o in 0..outer {
        for i in 0..maps[0].outputs() {
            for j in 0..maps[1].outputs() {
                let empty = maps[0].taps(i).count() == 0 || maps[1].taps(j).count() == 0;
                let mut sum = if empty { rest } else { 0.0 };
                for (p, wp) in maps[0].taps(i) {
                    for (q, wq) in maps[1].taps(j) {
                        sum += wp * wq * x[(o * a + p) * b + q];
                    }
                }
                y.push(sum);
            }
        }
    }
    let _ = (outer, a);
    y
}

#[test]
fn maps_act_along_both_dimensions() {
    let x = test_tensor(1, &[2, 2, 3, 3]).unwrap();
    let maps = [example(), example()];
    let y = apply_maps("test", &x, maps.to_vec(), 0.0).unwrap();
    assert_eq!(y.dims(), [2, 2, 4, 4]);
    let flat: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
    let want = naive(&flat, [4, 3, 3], &maps, 0.0);
    let got: Vec<f64> = y.flatten_all().unwrap().to_vec1().unwrap();
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() < 1e-14, "{g} {w}");
    }
}

#[test]
fn rest_fills_what_has_no_tap() {
    let x = test_tensor(2, &[1, 1, 3]).unwrap();
    let y = apply_maps("test", &x, vec![example()], 7.0).unwrap();
    assert_eq!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap()[1], 7.0);
}

#[test]
fn gradients_are_exact_and_transposed_twice_is_the_same() {
    assert_eq!(example().transposed().transposed().outputs(), 4);
    let x = test_tensor(3, &[1, 2, 3, 2, 3]).unwrap();
    let maps = vec![example(), identity(2), example()];
    let error = worst_error(&[x], |t| apply_maps("test", &t[0], maps.clone(), 1.0)).unwrap();
    assert!(error < 1e-8, "{error}");
}

#[test]
fn identity_returns_the_tensor_itself() {
    let x = test_tensor(4, &[1, 1, 3, 2]).unwrap();
    let y = apply_maps("test", &x, vec![identity(3), identity(2)], 0.0).unwrap();
    assert_eq!(y.id(), x.id());
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let x = test_tensor(5, &[1, 3, 60, 70]).unwrap().to_dtype(DType::F32).unwrap();
    let up = |n: usize| AxisMap::new(n, 3 * n, move |i| [(i / 3, 0.3), ((i / 3 + 1) % n, 0.7)]);
    let run = |threads| {
        let y = on_threads(threads, || apply_maps("test", &x, vec![up(60), up(70)], 0.0)).unwrap();
        y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let x = candle_core::Tensor::zeros((1, 1, 4), DType::F64, &Device::Cpu).unwrap();
    let e = apply_maps("test", &x, vec![example()], 0.0).unwrap_err();
    assert_eq!(e.to_string(), "test: expected trailing sizes [3], got [1, 1, 4]");
    let x = candle_core::Tensor::zeros((1, 1, 3), DType::U8, &Device::Cpu).unwrap();
    assert!(apply_maps("test", &x, vec![example()], 0.0).unwrap_err().to_string().contains("f32"));
}
