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

/// Maps with a regular part of every kind, with edges or without, and with none.
fn regular() -> Vec<AxisMap> {
    let tap = |j: usize, w: f64| (j, w);
    let mut maps = vec![identity(40)];
    for n in [1, 2, 3, 4, 5, 8, 9] {
        maps.push(AxisMap::new(40, 40 * n, |i| [tap(i / n, 1.0)]));
        maps.push(AxisMap::new(40, 40 * n, |i| [tap(i / n, 0.25), tap((i / n + 1).min(39), 0.5)]));
        maps.push(AxisMap::new(40, 40 / n, |i| (i * n..(i + 1) * n).map(|j| (j, 0.5))));
        // overlapping windows with edges
        maps.push(AxisMap::new(40, 40usize.div_ceil(n), |i| {
            ((i * n).saturating_sub(3)..(i * n + 4).min(40)).map(|j| (j, 0.1 + 0.01 * j as f64))
        }));
        maps.push(AxisMap::new(40, 40usize.div_ceil(n), |i| {
            ((i * n).saturating_sub(3)..(i * n + 4).min(40)).map(|j| (j, 0.3))
        }));
    }
    // a border of constants, and one where every other output is constant
    maps.push(AxisMap::new(40, 60, |i| (8..48).contains(&i).then(|| tap(i - 8, 1.0))));
    maps.push(AxisMap::new(40, 80, |i| (i % 2 == 0).then_some(tap(i / 2, 2.0))));
    maps.push(AxisMap::new(40, 12, |_| None));
    let back: Vec<AxisMap> = maps.iter().map(AxisMap::transposed).collect();
    maps.extend(back);
    maps
}

#[test]
fn regular_maps_are_what_their_taps_say() {
    let thin = AxisMap::new(2, 3, |i| [(i / 2, 1.5), (1, 0.5)]);
    let upright = |map: &AxisMap| AxisMap::new(map.inputs, 3, |i| map.taps(i * map.outputs() / 3));
    for map in regular() {
        for maps in [[thin.clone(), map.clone()], [upright(&map), thin.clone()]] {
            let dims = [2, maps[0].inputs, maps[1].inputs];
            let x = test_tensor(6, &dims).unwrap();
            let want = naive(&x.flatten_all().unwrap().to_vec1().unwrap(), dims, &maps, 7.0);
            let y = apply_maps("test", &x, maps.to_vec(), 7.0).unwrap();
            let got: Vec<f64> = y.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-13, "{g} {w} for {map:?}");
            }
        }
    }
}

#[test]
fn many_taps_in_many_dimensions() {
    // enough for a pass per dimension: the mean of everything, and a blur of width five
    let mean = |n: usize| AxisMap::new(n, 1, move |_| (0..n).map(move |j| (j, 1.0 / n as f64)));
    let blur = |n: usize| AxisMap::new(n, n, move |i| (0..5).map(move |k| ((i + k) % n, 0.2)));
    let x = test_tensor(7, &[2, 5, 6, 7]).unwrap();
    let whole = apply_maps("test", &x, vec![mean(5), mean(6), mean(7)], 0.0).unwrap();
    let want = x.mean((1, 2, 3)).unwrap().to_vec1::<f64>().unwrap();
    let got = whole.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!((got[0] - want[0]).abs() < 1e-14 && (got[1] - want[1]).abs() < 1e-14);
    let together = apply_maps("test", &x, vec![blur(5), blur(6), blur(7)], 0.0).unwrap();
    let mut apart = x;
    for axis in 0..3 {
        let mut maps = vec![identity(5), identity(6), identity(7)];
        maps[axis] = blur(5 + axis);
        apart = apply_maps("test", &apart, maps, 0.0).unwrap();
    }
    let difference = (together - apart).unwrap().abs().unwrap().max_all().unwrap();
    assert!(difference.to_scalar::<f64>().unwrap() < 1e-14);
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
