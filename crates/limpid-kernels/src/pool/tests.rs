use super::*;
use crate::gradcheck::{test_tensor, worst_error};
use crate::threads::on_threads;
use candle_core::{DType, Device, Var};
use std::slice::from_ref;

fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn spec(kernel: &[usize], stride: &[usize], padding: &[usize]) -> PoolSpec {
    PoolSpec { kernel: kernel.to_vec(), stride: stride.to_vec(), padding: padding.to_vec() }
}

/// Shapes and windows to try: odd sizes, overlaps, gaps, padding, all ranks.
fn cases() -> Vec<(Vec<usize>, PoolSpec)> {
    vec![
        (vec![2, 1, 7], spec(&[3], &[2], &[1])),
        (vec![1, 2, 6, 5], PoolSpec::cubic(2, 2)),
        (vec![2, 2, 7, 6], spec(&[3, 2], &[2, 1], &[1, 0])),
        (vec![1, 1, 5, 5], spec(&[2, 1], &[3, 2], &[0, 0])),
        (vec![1, 2, 4, 5, 6], spec(&[2, 3, 2], &[2, 1, 2], &[1, 1, 0])),
    ]
}

/// Visits all windows by definition; `of` gets the pixels in the image and the size of the window.
fn naive(x: &Tensor, s: &PoolSpec, of: impl Fn(&[f64], usize) -> f64) -> Vec<f64> {
    let rank = s.kernel.len();
    let mut image = [1; 3];
    let (mut kernel, mut stride, mut padding) = ([1; 3], [1; 3], [0; 3]);
    image[3 - rank..].copy_from_slice(&x.dims()[2..]);
    kernel[3 - rank..].copy_from_slice(&s.kernel);
    stride[3 - rank..].copy_from_slice(&s.stride);
    padding[3 - rank..].copy_from_slice(&s.padding);
    let out: [usize; 3] =
        std::array::from_fn(|d| (image[d] + 2 * padding[d] - kernel[d]) / stride[d] + 1);
    let data = values(x);
    let plane: usize = image.iter().product();
    let mut y = Vec::new();
    for p in 0..data.len() / plane {
        for o in 0..out.iter().product::<usize>() {
            let at = [o / (out[1] * out[2]), o / out[2] % out[1], o % out[2]];
            let mut pixels = Vec::new();
            for k in 0..kernel.iter().product::<usize>() {
                let tap = [k / (kernel[1] * kernel[2]), k / kernel[2] % kernel[1], k % kernel[2]];
                let pixel: [Option<usize>; 3] = std::array::from_fn(|d| {
                    (at[d] * stride[d] + tap[d]).checked_sub(padding[d]).filter(|&i| i < image[d])
                });
                if let [Some(i), Some(j), Some(k)] = pixel {
                    pixels.push(data[p * plane + (i * image[1] + j) * image[2] + k]);
                }
            }
            y.push(of(&pixels, kernel.iter().product()));
        }
    }
    y
}

#[test]
fn windows_are_those_of_the_definition() {
    for (dims, spec) in cases() {
        let x = test_tensor(1, &dims).unwrap();
        let largest = naive(&x, &spec, |v, _| v.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        assert_eq!(values(&max_pool(&x, &spec).unwrap()), largest, "{dims:?} {spec:?}");
        for include in [true, false] {
            let want = naive(&x, &spec, |v, window| {
                v.iter().sum::<f64>() / if include { window } else { v.len() } as f64
            });
            let got = values(&avg_pool(&x, &spec, include).unwrap());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-14, "{dims:?} {spec:?}: {g} for {w}");
            }
        }
    }
}

#[test]
fn adaptive_windows_cover_the_image() {
    let x = Tensor::new(&[[[1.0f64, 2.0, 3.0, 4.0, 5.0]]], &Device::Cpu).unwrap();
    let check = |n: usize, want: &[f64]| {
        let y = values(&adaptive_avg_pool(&x, &[n]).unwrap());
        assert_eq!(y.len(), want.len());
        assert!(y.iter().zip(want).all(|(y, w)| (y - w).abs() < 1e-14), "{y:?} for {want:?}");
    };
    check(1, &[3.0]);
    check(2, &[2.0, 4.0]);
    check(3, &[1.5, 3.0, 4.5]);
    check(7, &[1.0, 1.5, 2.5, 3.0, 3.5, 4.5, 5.0]);
}

#[test]
#[allow(clippy::print_stdout)] // says that it was skipped
fn pytorch_gives_the_same() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/engine/resample.safetensors");
    if !std::path::Path::new(path).exists() {
        println!("skipped: {path} is absent");
        return;
    }
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let x = golden["vol"].unsqueeze(0).unwrap().unsqueeze(0).unwrap();
    let want = &golden["torch_area"];
    let got = adaptive_avg_pool(&x, &want.dims()[2..]).unwrap();
    for (g, w) in values(&got).iter().zip(values(want)) {
        assert!((g - w).abs() < 1e-6, "{g} for {w}");
    }
}

#[test]
fn gradients_match_finite_differences() {
    for (dims, spec) in cases() {
        let x = test_tensor(2, &dims).unwrap();
        let error = worst_error(from_ref(&x), |t| max_pool(&t[0], &spec)).unwrap();
        assert!(error < 1e-8, "max {dims:?} {spec:?}: {error}");
        for include in [true, false] {
            let error = worst_error(from_ref(&x), |t| avg_pool(&t[0], &spec, include)).unwrap();
            assert!(error < 1e-8, "avg {dims:?} {spec:?}: {error}");
        }
    }
    let x = test_tensor(3, &[1, 2, 5, 7]).unwrap();
    assert!(worst_error(&[x], |t| adaptive_avg_pool(&t[0], &[3, 8])).unwrap() < 1e-8);
}

#[test]
fn of_equal_pixels_the_first_gets_the_gradient() {
    let x = Var::new(&[[[[3f32, 3.0], [1.0, 3.0]]]], &Device::Cpu).unwrap();
    let grads =
        max_pool(&x, &PoolSpec::cubic(2, 2)).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(values(grads.get(&x).unwrap()), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn nan_and_minus_infinity() {
    let x = Tensor::new(
        &[[[1f32, f32::NAN, 2.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]]],
        &Device::Cpu,
    );
    let y = values(&max_pool(&x.unwrap(), &spec(&[2], &[1], &[1])).unwrap());
    assert_eq!(y[0], 1.0);
    assert!(y[1].is_nan() && y[2].is_nan());
    assert_eq!(y[3..], [2.0, f64::NEG_INFINITY, 0.0, 0.0]);
}

#[test]
fn a_permuted_image_gives_the_same_result() {
    let x = test_tensor(4, &[2, 3, 6, 4]).unwrap().permute((1, 0, 3, 2)).unwrap();
    let spec = PoolSpec::cubic(2, 2);
    let same = x.contiguous().unwrap();
    assert_eq!(values(&max_pool(&x, &spec).unwrap()), values(&max_pool(&same, &spec).unwrap()));
    let average = |x| values(&avg_pool(x, &spec, true).unwrap());
    assert_eq!(average(&x), average(&same));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let x = test_tensor(5, &[1, 3, 90, 101]).unwrap().to_dtype(DType::F32).unwrap();
    let run = |threads| {
        on_threads(threads, || {
            let x = Var::from_tensor(&x).unwrap();
            let spec = spec(&[3, 3], &[1, 2], &[1, 1]);
            let y = (max_pool(&x, &spec).unwrap() * avg_pool(&x, &spec, true).unwrap()).unwrap();
            let grads = y.sum_all().unwrap().backward().unwrap();
            (values(&y), values(grads.get(&x).unwrap()))
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_an_error() {
    let x = test_tensor(6, &[1, 1, 4, 4]).unwrap();
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    assert_eq!(
        message(max_pool(&x, &PoolSpec::cubic(2, 5))),
        "max_pool: expected at least 5 pixels with padding in spatial dimension 0, got [1, 1, 4, 4]"
    );
    assert!(message(max_pool(&x, &PoolSpec::cubic(1, 2))).contains("one for each"));
    assert!(message(avg_pool(&x, &PoolSpec::cubic(2, 0), true)).contains("must be 1 to"));
    assert!(
        message(avg_pool(&x, &spec(&[2, 2], &[1, 1], &[2, 0]), true)).contains("half the kernel")
    );
    assert!(message(max_pool(&x, &PoolSpec::cubic(2, usize::MAX))).contains("must be 1 to"));
    assert!(message(adaptive_avg_pool(&x, &[0, 1])).contains("1 to"));
    let whole = Tensor::zeros((1, 1, 4, 4), DType::I64, &Device::Cpu).unwrap();
    assert!(max_pool(&whole, &PoolSpec::cubic(2, 2)).is_err());
    let empty = Tensor::zeros((0, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(max_pool(&empty, &PoolSpec::cubic(2, 2)).unwrap().dims(), [0, 1, 2, 2]);
}
